"""What the commands for data sets take. Nothing here imports torch: arguments are read first."""

from dataclasses import dataclass, field
from typing import Literal

from detection.prediction_settings import ViewSettings
from detection.settings import DataFormat, Orientation, TrainDetection, VocOrigin
from divdet.engine.errors import UserError
from divdet.engine.settings import CommonSettings, check_range


@dataclass(kw_only=True)
class _DataSet(CommonSettings):
    """A data set to be read; see ``EvalDataSettings``."""

    sources: list[str] = field(default_factory=list)
    images: str | None = None
    format: DataFormat = "auto"
    orientation: Orientation = "auto"
    voc_origin: VocOrigin = "auto"


@dataclass(kw_only=True)
class Convert(_DataSet):
    """Writes a data set, all its splits, as COCO, YOLO or Pascal VOC.

    Attributes:
        sources: the data set: a folder, a COCO JSON file, or a YOLO data.yaml.
        to: coco, yolo or voc.
        link: hard-link the images instead of copying them; a tool that changes one changes both.
        skip_bad: leave out faulty entries and images, and list them in faults.txt in the output folder.
        images: folder of the images; default: where the format or the layout has them.
        format: of the data set: coco, yolo or voc; auto recognizes it by content.
        orientation: as data.orientation.
        voc_origin: as data.voc_origin.
        tile: cut the images into square tiles of so many pixels a side, to train on small objects.
        overlap: share of a tile that its neighbors have, too, at least.
        min_share: a box is kept in a tile that holds this share of its area or more.
        empty_ratio: tiles without objects that are kept for each one with objects, drawn by the seed.
        output: the folder to write, new or empty.
    """

    to: Literal["coco", "yolo", "voc"] | None = None
    link: bool = False
    skip_bad: bool = False
    tile: int | None = None
    overlap: float = 0.2
    min_share: float = 0.3
    empty_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        ViewSettings(tile=self.tile, overlap=self.overlap)
        check_range("min_share", self.min_share, 0, 1)
        check_range("empty_ratio", self.empty_ratio, 0)
        if self.tile and self.link:
            raise UserError("link and tile are both set: tiles are new images, leave link out")


@dataclass(kw_only=True)
class Split(_DataSet):
    """Divides a data set into training and validation, as data.val_fraction does, and writes both annotations.

    Attributes:
        sources: the data set: a folder, a COCO JSON file, or a YOLO data.yaml.
        fraction: share of the images for validation. An image's content decides, so copies stay together.
        images: folder of the images; default: where the format or the layout has them.
        format: of the data set: coco, yolo or voc; auto recognizes it by content.
        orientation: as data.orientation.
        voc_origin: as data.voc_origin.
        seed: another one chooses other images, as data.val_seed.
        output: the folder to write, new or empty.
    """

    fraction: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise UserError(f"fraction is {self.fraction}: choose a share above 0 and below 1")


@dataclass
class InspectData(TrainDetection):
    """Checks a data set and says what it is like, as text and as a page: inspect.html.

    Attributes:
        data: one split or both; images are optional. A recipe of train-det has them, and its other sections do
            nothing here.
        output: the folder for inspect.html and faults.txt.
    """

    output: str = "runs/inspect"

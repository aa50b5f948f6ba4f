"""What the commands take, but for the training recipes. Nothing here imports torch: arguments are read first."""

from dataclasses import dataclass, field
from typing import Literal

from detection.heads import find_head
from detection.settings import (
    ConfType,
    DataFormat,
    EvalDataSettings,
    FusionMethod,
    FusionRule,
    Orientation,
    PostprocessSettings,
    RuntimeSettings,
    TrainDetection,
    VocOrigin,
)
from divdet.engine.errors import UserError
from divdet.engine.settings import CommonSettings, Concurrency, Precision


@dataclass
class EvaluateDetection(RuntimeSettings, CommonSettings):
    """Evaluates a detector, or a COCO results file of any detector, by the 12 COCO numbers.

    Attributes:
        checkpoint: a train_det.py checkpoint; data and postprocess default to its own.
        detections: a COCO results file to score instead of running a checkpoint; entries are matched to images by
            file_name where they have one, else by image_id.
        data: ground truth and images.
        postprocess: how boxes are made from the outputs.
        batch_size: images per forward pass.
        verify: score once more by pycocotools (a minute for 5,000 images) and fail if one of the 12 numbers differs.
        output: folder for metrics.json and detections.json; default: eval/ beside the checkpoint or results file.
    """

    checkpoint: str | None = None
    detections: str | None = None
    data: EvalDataSettings = field(default_factory=EvalDataSettings)
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    batch_size: int = 16
    verify: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_batch_size(self.batch_size)


@dataclass
class Detect(RuntimeSettings, CommonSettings):
    """Draws what a detector finds in images.

    Attributes:
        checkpoint: a train_det.py checkpoint.
        sources: image files, folders or globs.
        score_threshold: lowest score that is drawn and written.
        postprocess: how boxes are made from the outputs; default: the checkpoint's.
        batch_size: images per forward pass.
        output: folder for the pictures and detections.json; default runs/<config name>, or runs/detect.
        data: annotations whose image ids and file names are written (without them an image's id is the number that
            is its file's name, or else the name), and data.orientation, by default the checkpoint's.
        resume: auto continues a stopped run in the output folder, if there is one.
    """

    checkpoint: str | None = None
    sources: list[str] = field(default_factory=list)
    score_threshold: float = 0.3
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    batch_size: int = 8
    data: EvalDataSettings = field(default_factory=EvalDataSettings)
    resume: Literal["auto"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_batch_size(self.batch_size)
        if self.resume not in ("auto", None):
            raise UserError(f"resume is {self.resume!r}: the only choice is auto")
        if self.data.val_images and not (self.data.val_annotations or self.data.path):
            raise UserError("data.val_images is set without data.val_annotations: give the annotations, too")
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"score_threshold is {self.score_threshold}: choose a value from 0 to 1")


@dataclass
class Fuse(CommonSettings):
    """Fuses COCO results files of any detectors, and says what it brings.

    Attributes:
        annotations: ground truth of the images; its sizes of images are needed.
        results: two or more COCO results files.
        method: wbf (weighted boxes fusion), nms, soft_nms or nmw (non-maximum weighted).
        weights: one for each file, such as 2,1; or ap, by the AP that each has on these annotations; default: equal.
        iou_thr: boxes of a class whose IoU is above this belong together; soft_nms takes none.
        skip_box_thr: boxes of lower score are left out.
        conf_type: how wbf scores: avg, max, box_and_model_avg or absent_model_aware_avg.
        calibrate: bring the scores of all files to one scale before: rank (by their order alone) or precision (how many
            detections of that score are right on these annotations); default: scores must be 0 to 1.
        images: folder of the images, to be read in their annotated layout; seldom needed.
        output: folder for fused.json and metrics.json.
    """

    annotations: str | None = None
    results: list[str] = field(default_factory=list)
    method: FusionMethod = "wbf"
    weights: str | None = None
    iou_thr: float = 0.55
    skip_box_thr: float = 0.0
    conf_type: ConfType = "avg"
    calibrate: Literal["rank", "precision"] | None = None
    images: str | None = None
    output: str = "runs/fuse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights != "ap":
            self.weights_by_hand(len(self.results))
        FusionRule(iou_thr=self.iou_thr, skip_box_thr=self.skip_box_thr)

    def weights_by_hand(self, files: int) -> list[float] | None:
        """The numbers that ``weights`` lists. Raises UserError if they are not one for each file."""
        if self.weights is None:
            return None
        try:
            weights = [float(word) for word in self.weights.strip("[] ").split(",")]
        except ValueError:
            raise UserError(f"weights is {self.weights!r}: give numbers such as 2,1, or ap") from None
        FusionRule(weights=weights)
        if len(weights) != files:
            raise UserError(f"weights is {self.weights!r}: {len(weights)} for {files} results files: give one for each")
        return weights


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: it must be at least 1")


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
        output: the folder to write, new or empty.
    """

    to: Literal["coco", "yolo", "voc"] | None = None
    link: bool = False
    skip_bad: bool = False


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
        data: one split or both; images are optional. A recipe of train_det.py has them, and its other sections do
            nothing here.
        output: the folder for inspect.html and faults.txt.
    """

    output: str = "runs/inspect"


@dataclass
class ImportCheckpoint(CommonSettings):
    """Turns one of the paper's published checkpoints, or torchvision's SSDLite or FCOS, into one for every tool.

    Attributes:
        source: the published file.
        task: cls or det.
        backbone: name of the network before dividing.
        members: S.
        dataset: what it was trained on: cifar10, cifar100, svhn or imagenet (cls); coco (det).
        head: ssd300, the paper's, ssdlite or fcos (det).
        output: the checkpoint to write.
    """

    source: str | None = None
    task: Literal["cls", "det"] = "cls"
    backbone: str | None = None
    members: int = 1
    dataset: str | None = None
    head: str = "ssd300"

    def __post_init__(self) -> None:
        super().__post_init__()
        find_head(self.head)


@dataclass
class Quickstart(CommonSettings):
    """Divides, co-trains, detects, fuses and evaluates on generated images of textured shapes; needs no download.

    Attributes:
        size: training images to generate; a quarter as many are generated for validation.
        epochs: passes of the detector over the training images.
        output: the folder; a run that it holds is replaced, the generated data is kept where it fits.
    """

    size: int = 400
    epochs: int = 10
    output: str = "runs/quickstart"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 100 or self.epochs < 1:
            raise UserError("--size must be at least 100 and --epochs at least 1")


@dataclass
class Summary(CommonSettings):
    """Prints parameters and operations of a backbone divided into S members, as classifier or as detector.

    Attributes:
        task: cls or det.
        backbone: name of the backbone before dividing.
        members: S; default: 1, 2, 4 and 8 side by side, or the length of a list of timm's models.
        dataset: cifar10, cifar100, svhn or imagenet (cls); coco, or the number of foreground classes (det).
        image_size: pixels a side; default: the data set's (cls: 32 for CIFAR, 224 for ImageNet), the head's (det: 300).
        head: what finds boxes (det), as model.head of a recipe.
        json: print one JSON object; without members it lists the ``divisions`` that are possible and those ``refused``.
    """

    task: Literal["cls", "det"] = "cls"
    backbone: str | None = None
    members: int | None = None
    dataset: str | None = None
    image_size: int | None = None
    head: str = "ssd300"
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        find_head(self.head)


@dataclass
class Benchmark(CommonSettings):
    """Times one large network, its S members in sequence, and its members at once, with random weights.

    Attributes:
        task: cls or det.
        backbone: name of the backbone before dividing.
        members: S.
        dataset: cifar10, cifar100, svhn or imagenet (cls; default cifar100 where the backbone has that form); coco, or
            the number of foreground classes (det).
        image_size: pixels a side; default: the data set's (cls: 32 for CIFAR, 224 for ImageNet), the head's (det: 300).
        head: what finds boxes (det), as model.head of a recipe.
        concurrency: what is timed beside the members in sequence: streams, graph, devices or threads; default: all that
            this machine has.
        devices: for concurrency devices, such as cuda:0,cuda:1; default: all CUDA devices.
        batch_sizes: images at a time, separated by commas; default 1,8,32,100 on a GPU and 1,8 on a CPU.
        rounds: every way is timed once in each, so that a machine's drift meets all; at least 2.
        seconds: about how long one way runs in a round; at least one call.
        precision: auto (float32), float32, bf16 or fp16 (mixed precision by autocast).
        json: print one JSON object.
        output: folder for benchmark.json and, with matplotlib, benchmark.png; default: write nothing.
    """

    task: Literal["cls", "det"] = "cls"
    backbone: str | None = None
    members: int = 2
    dataset: str | None = None
    image_size: int | None = None
    head: str = "ssd300"
    concurrency: Concurrency | None = None
    devices: str | None = None
    batch_sizes: str | None = None
    rounds: int = 5
    seconds: float = 0.3
    precision: Precision = "auto"
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        find_head(self.head)
        if self.members < 2:
            raise UserError(f"members is {self.members}: choose at least 2; the network of one is timed beside them")
        if self.rounds < 2:
            raise UserError(f"rounds is {self.rounds}: choose at least 2")
        if not 0 < self.seconds < 3600:
            raise UserError(f"seconds is {self.seconds}: choose more than 0 and less than 3600")

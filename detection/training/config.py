"""What a detector's recipe consists of."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from detection.data.orientation import Orientation
from detection.postprocess import PostprocessSettings
from divdet.engine.concurrency import Concurrency
from divdet.engine.errors import UserError
from divdet.engine.optimization import TrainSettings, check_not_negative


@dataclass
class ModelSettings:
    """The detector.

    Attributes:
        backbone: name of the backbone before dividing (an unknown one names close ones); or timm:<model>, of which all
            members are undivided copies; or timm:<model>,<model>,…, one for each member.
        members: S, the number of networks that the backbone is divided into.
        pretrained: a checkpoint of the same backbone and members to start from: a classifier's, or a detector's, whose
            class heads are loaded by class name; or timm, to fetch the weights of timm's
            models. None trains from scratch.
    """

    backbone: str = "wrn50_2"
    members: int = 2
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if self.members < 1:
            raise UserError(f"model.members is {self.members}: it must be at least 1")


@dataclass
class EvalDataSettings:
    """What a detector is evaluated on.

    Attributes:
        val_annotations: COCO-format ground truth.
        val_images: folder that its file names are relative to.
        orientation: layout in which images with an EXIF rotation are read: upright, stored, or auto, which infers from
            the annotated sizes and boxes how they were annotated, and is upright where it cannot.
    """

    val_annotations: str | None = None
    val_images: str | None = None
    orientation: Orientation = "auto"

    def __post_init__(self) -> None:
        if self.orientation not in get_args(Orientation):
            raise UserError(
                f"data.orientation is {self.orientation!r}: choose one of {', '.join(get_args(Orientation))}"
            )


@dataclass
class DataSettings(EvalDataSettings):
    """COCO-format data and SSD's augmentation.

    Attributes:
        train_annotations: COCO-format ground truth for training.
        train_images: folder that its file names are relative to.
        photometric: random brightness, contrast, saturation and hue.
        zoom_out: probability of placing the image on a larger, mean-coloured canvas.
        zoom_out_ratio: largest side of that canvas, as a multiple of the image's.
        iou_crop: probability of SSD's random crop by IoU (one of whose own draws is the whole image).
        flip: probability of a left-right flip.
        different_views: each member sees its own photometric view of the same crop.
        cache: keep the decoded images in memory: faster where the training set fits.
    """

    train_annotations: str | None = None
    train_images: str | None = None
    photometric: bool = True
    zoom_out: float = 0.5
    zoom_out_ratio: float = 4.0
    iou_crop: float = 1.0
    flip: float = 0.5
    different_views: bool = False
    cache: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("zoom_out", "iou_crop", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"data.{name} is {getattr(self, name)}: it is a probability, 0 to 1")
        if not (math.isfinite(self.zoom_out_ratio) and self.zoom_out_ratio >= 1):
            raise UserError(f"data.zoom_out_ratio is {self.zoom_out_ratio}: it must be 1 or more")
        if self.different_views and not self.photometric:
            raise UserError("data.different_views needs data.photometric: the views differ in nothing else")


@dataclass
class DetectionTrainSettings(TrainSettings):
    """SSD300's rate, batch and epochs on COCO (paper, Sec. V); the COCO recipes add its steps of the rate.

    Attributes:
        neg_to_pos_ratio: mined negatives per positive.
        cot_weight: λ of the divergence between members at positives and mined negatives; 0 is the paper's detector.
        cot_warmup_epochs: epochs over which λ grows linearly: the first of their n steps has λ / n, the last λ.
    """

    epochs: int = 65
    batch_size: int = 32
    lr: float = 0.0026
    weight_decay: float = 5e-4
    neg_to_pos_ratio: float = 3.0
    cot_weight: float = 0.0
    cot_warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "neg_to_pos_ratio", "cot_weight", "cot_warmup_epochs")


@dataclass
class TrainDetection:
    """Trains SSD300 with S members on COCO-format data.

    Attributes:
        model: the detector.
        data: images, ground truth, augmentation.
        train: schedule and optimizer.
        postprocess: how boxes are made from the outputs, in evaluation and prediction.
        output: the run's folder; default runs/<config name>.
        resume: auto (continue the run in the folder, if there is one) or a checkpoint file.
        device: auto, cpu, cuda or cuda:N.
        seed: of weights, data order and augmentation.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: DetectionTrainSettings = field(default_factory=DetectionTrainSettings)
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    output: str | None = None
    resume: str | None = None
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}: it must be 0 or more")


Runtime = Literal["torch", "compile", "onnxruntime", "openvino"]
RuntimePrecision = Literal["float32", "bf16", "fp16", "int8"]
_PRECISIONS: dict[str, tuple[str, ...]] = {
    "torch": ("float32", "bf16", "fp16"),
    "compile": ("float32", "bf16", "fp16"),
    "onnxruntime": ("float32",),
    "openvino": ("float32", "int8"),
}


@dataclass(kw_only=True)
class RuntimeSettings:
    """What runs the network.

    Attributes:
        runtime: torch; compile (torch.compile: minutes at first, for every batch size); onnxruntime or openvino (CPU,
            each an extra to install).
        precision: float32; bf16 or fp16 of torch and compile; int8 of openvino, which costs some accuracy.
        calibration: folder of images that int8 takes the range of values from, at most 100; default: the training
            images of the checkpoint.
        concurrency: how members run: sequential, or at once by streams or one graph (a CUDA device), devices (several),
            threads (a CPU).
        devices: for concurrency devices, such as cuda:0,cuda:1; default: all CUDA devices.
    """

    runtime: Runtime = "torch"
    precision: RuntimePrecision = "float32"
    calibration: str | None = None
    concurrency: Concurrency = "sequential"
    devices: str | None = None

    def __post_init__(self) -> None:
        if self.runtime not in get_args(Runtime):
            raise UserError(f"runtime is {self.runtime!r}: choose one of {', '.join(get_args(Runtime))}")
        if self.precision not in _PRECISIONS[self.runtime]:
            choices = ", ".join(_PRECISIONS[self.runtime])
            raise UserError(f"precision is {self.precision!r}: runtime {self.runtime} takes {choices}")
        if self.concurrency not in get_args(Concurrency):
            raise UserError(f"concurrency is {self.concurrency!r}: choose one of {', '.join(get_args(Concurrency))}")
        if self.concurrency != "sequential" and self.runtime != "torch":
            raise UserError(f"concurrency is {self.concurrency!r}: that takes runtime torch, not {self.runtime}")
        if self.devices and self.concurrency != "devices":
            raise UserError(f"devices is {self.devices!r}: that takes concurrency devices, not {self.concurrency}")


@dataclass
class EvaluateDetection(RuntimeSettings):
    """Evaluates a detector, or a COCO results file of any detector, by the 12 COCO numbers.

    Attributes:
        checkpoint: a train_det.py checkpoint; data and postprocess default to its own.
        detections: a COCO results file to score instead of running a checkpoint; entries are matched to images by
            file_name where they have one, else by image_id.
        data: ground truth and images.
        postprocess: how boxes are made from the outputs.
        batch_size: images per forward pass.
        output: folder for metrics.json and detections.json; default: eval/ beside the checkpoint or results file.
        device: auto, cpu, cuda or cuda:N.
        seed: evaluation draws nothing; present on every command.
    """

    checkpoint: str | None = None
    detections: str | None = None
    data: EvalDataSettings = field(default_factory=EvalDataSettings)
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    batch_size: int = 16
    output: str | None = None
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_batch_size(self.batch_size)


@dataclass
class Detect(RuntimeSettings):
    """Draws what a detector finds in images.

    Attributes:
        checkpoint: a train_det.py checkpoint.
        sources: image files, folders or globs.
        score_threshold: lowest score that is drawn and written.
        postprocess: how boxes are made from the outputs; default: the checkpoint's.
        batch_size: images per forward pass.
        output: folder for the pictures and detections.json; default runs/<config name>, or runs/detect.
        device: auto, cpu, cuda or cuda:N.
        seed: prediction draws nothing; present on every command.
        data: annotations whose image ids and file names are written (without them an image's id is the number that
            is its file's name, or else the name), and data.orientation, by default the checkpoint's.
        resume: auto continues a stopped run in the output folder, if there is one.
    """

    checkpoint: str | None = None
    sources: list[str] = field(default_factory=list)
    score_threshold: float = 0.3
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    batch_size: int = 8
    output: str | None = None
    device: str = "auto"
    seed: int = 0
    data: EvalDataSettings = field(default_factory=EvalDataSettings)
    resume: Literal["auto"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_batch_size(self.batch_size)
        if self.resume not in ("auto", None):
            raise UserError(f"resume is {self.resume!r}: the only choice is auto")
        if self.data.val_images and not self.data.val_annotations:
            raise UserError("data.val_images is set without data.val_annotations: give the annotations, too")
        if not 0 <= self.score_threshold <= 1:
            raise UserError(f"score_threshold is {self.score_threshold}: choose a value from 0 to 1")


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: it must be at least 1")

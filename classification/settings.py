"""What a classification recipe consists of."""

import math
from dataclasses import dataclass, field
from typing import Literal

from classification.backbones.dividing import WeightDecayDividing
from divdet.engine.errors import UserError
from divdet.engine.settings import CommonSettings, Concurrency, Precision, TrainSettings, check_range

DatasetName = Literal["cifar10", "cifar100", "svhn", "imagenet", "folder", "npz"]
Divergence = Literal["js", "kl"]
Interpolation = Literal["bicubic", "bilinear", "area"]

# Random erasing of the released networks: ranges of area (share of the image) and of height / width. Other data sets
# take the ranges of its authors (paper, ref. [47]).
ERASED = {
    "cifar10": ([0.125, 0.2], [0.99, 1.0]),
    "cifar100": ([0.0625, 0.1], [0.99, 1.0]),
    "svhn": ([0.125, 0.25], [0.9, 1.1]),
    "imagenet": ([0.05, 0.12], [0.5, 1.5]),
}
ERASED_ELSEWHERE = ([0.02, 0.4], [0.3, 1 / 0.3])


@dataclass
class ModelSettings:
    """The divided network.

    Attributes:
        backbone: name of the network before dividing; many families take any width, such as wrn28_4, and an unknown
            name lists close ones. Or timm:<model>: all members are undivided copies of it; timm:<model>/S: its width
            is divided by √S. Or timm:<model>,<model>,…: one model for each member.
        members: S, the number of networks that it is divided into.
        stem: form of the network: cifar for images up to 64 px, imagenet for larger ones and for detectors; auto
            decides by the size, and takes imagenet for the dataset of that name.
        same_initialization: start all members from the first one's weights; in the paper each draws its own.
        dropout: probability before the classifier of the undivided network; each member has it divided by √S.
        drop_path: probability of dropping the undivided network's last block (PyramidNet's ShakeDrop, EfficientNet's
            stochastic depth), divided likewise; default: the network's own, 0.5 and 0.2.
        pretrained: a train-cls checkpoint of the same backbone, members and stem to start from, its classifier
            loaded by class name. For timm's models also plain files or pip, without their classifier (as train-det),
            or timm, which downloads weights.
        divide_from: a train-cls checkpoint of the same backbone and stem with one member, of which each member takes
            other channels to start from, its classifier by class name. For timm:<model>/S also timm:<model>, whose
            weights timm downloads, a file of them, or pip, without their classifier.
    """

    backbone: str = "resnet110"
    members: int = 2
    stem: Literal["auto", "cifar", "imagenet"] = "auto"
    same_initialization: bool = False
    dropout: float = 0.0
    drop_path: float | None = None
    pretrained: str | None = None
    divide_from: str | None = None

    def __post_init__(self) -> None:
        check_range("model.members", self.members, 1)
        check_range("model.dropout", self.dropout, 0, 1, below=True)
        check_range("model.drop_path", self.drop_path, 0, 1, below=True)


@dataclass
class EvalDataSettings:
    """Images and their classes.

    Attributes:
        dataset: cifar10, cifar100 or svhn (as torchvision stores them), imagenet (the official archives, or train/ and
            val/ with a folder per class), folder (train/ and val/ with a folder per class), npz (encoded images, one
            file).
        root: the folder, or the .npz file.
        download: fetch CIFAR or SVHN where root lacks it.
        image_size: side of the network's input in pixels; default in training 32 for CIFAR and SVHN, 224 for imagenet
            and folder, and the shorter side of the first image for npz.
        eval_resize: evaluation resizes an image's shorter side to int(eval_resize x image_size), then crops the
            center; default in training 1.15 if the crop is resized, else 1.
        interpolation: filter for resizing: Pillow's bicubic or bilinear (antialiased), or area (OpenCV's area average
            for shrinking and bilinear for enlarging: faster); default in training bicubic.
        mean: mean of the red, green and blue pixels in 0 to 1, by which images are normalized; default in training the
            data set's, ImageNet's for folder and npz, and what a timm model expects.
        std: standard deviation of the same.
    """

    dataset: DatasetName = "cifar100"
    root: str = "data"
    download: bool = False
    image_size: int | None = None
    eval_resize: float | None = None
    interpolation: Interpolation | None = None
    mean: list[float] | None = None
    std: list[float] | None = None

    def __post_init__(self) -> None:
        check_range("data.image_size", self.image_size, 8, 4096)
        check_range("data.eval_resize", self.eval_resize, 1, 4)
        for name, least in (("mean", -math.inf), ("std", 0)):
            values = getattr(self, name)
            if values is not None and not (len(values) == 3 and all(least < value < math.inf for value in values)):
                above = " above 0" if name == "std" else ""
                raise UserError(f"data.{name} is {values}: it must be three numbers{above}, for red, green and blue")
        if self.download and self.dataset not in ("cifar10", "cifar100", "svhn"):
            raise UserError(f"data.download: only CIFAR and SVHN can be fetched, {self.dataset} must be at data.root")


@dataclass
class DataSettings(EvalDataSettings):
    """Images and the random views that the members see of them.

    Attributes:
        extra: also train on SVHN's extra images.
        crop: padded (pad, then crop at random), resized (a random part of the image, resized), none; auto takes padded
            up to 64 px and resized above.
        crop_area: smallest and largest area of the resized crop, as shares of the image.
        padding: black pixels on each side before the padded crop.
        flip: probability of a left-right flip.
        auto_augment: AutoAugment's policy, or rand for RandAugment.
        rand_augment_operations: operations that RandAugment applies to a view.
        rand_augment_magnitude: magnitude of the operations, 0 to rand_augment_levels - 1.
        rand_augment_deviation: standard deviation of the magnitude, which is drawn for each operation.
        rand_augment_levels: number of magnitudes: 31 as in torchvision, or 11 for 0 to 10 as in timm.
        erasing: probability of random erasing, which sets a rectangle to zero after normalization.
        erasing_area: smallest and largest area of the rectangle, as shares of the view; default: the data set's.
        erasing_ratio: smallest and largest height / width of the rectangle; default: the data set's.
        different_views: each member sees its own random view of an image; false shows all members the same one.
        limit: train on this many images only, drawn at random with the seed.
    """

    extra: bool = False
    crop: Literal["auto", "padded", "resized", "none"] = "auto"
    crop_area: list[float] = field(default_factory=lambda: [0.08, 1.0])
    padding: int = 4
    flip: float = 0.5
    auto_augment: Literal["none", "cifar10", "imagenet", "svhn", "rand"] = "none"
    rand_augment_operations: int = 2
    rand_augment_magnitude: int = 9
    rand_augment_deviation: float = 0.0
    rand_augment_levels: int = 31
    erasing: float = 0.0
    erasing_area: list[float] | None = None
    erasing_ratio: list[float] | None = None
    different_views: bool = True
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("data.flip", self.flip, 0, 1)
        check_range("data.erasing", self.erasing, 0, 1)
        check_range("data.padding", self.padding, 0, 4096)
        check_range("data.rand_augment_operations", self.rand_augment_operations, 1, 100)
        check_range("data.rand_augment_levels", self.rand_augment_levels, 2, 1000)
        check_range("data.rand_augment_magnitude", self.rand_augment_magnitude, 0, self.rand_augment_levels - 1)
        check_range("data.rand_augment_deviation", self.rand_augment_deviation, 0)
        check_range("data.limit", self.limit, 1)
        if self.extra and self.dataset != "svhn":
            raise UserError(f"data.extra is true: only svhn has extra images, not {self.dataset}")
        for name, most in (("crop_area", 1), ("erasing_area", 1), ("erasing_ratio", math.inf)):
            values = getattr(self, name)
            fits = values is None or (len(values) == 2 and 0 < values[0] <= values[1] <= most and values[1] < math.inf)
            if not fits:
                rule = "two numbers above 0, the smaller first" + (", of at most 1" if most == 1 else "")
                raise UserError(f"data.{name} is {values}: it must be {rule}")

    def erased(self) -> dict[str, list[float]]:
        """``erasing_area`` and ``erasing_ratio``, by default those of the data set."""
        area, ratio = ERASED.get(self.dataset, ERASED_ELSEWHERE)
        return {"erasing_area": self.erasing_area or area, "erasing_ratio": self.erasing_ratio or ratio}


@dataclass
class ClassificationTrainSettings(TrainSettings):
    """Co-training (paper, Sec. III-B and IV-A), on top of the common settings.

    Attributes:
        weight_decay_division: how S divides the weight decay: none, exponential (Eq. 6) or linear (by S).
        cot_weight: λ of the co-training loss (Eq. 9); 0 trains the members apart from each other.
        cot_loss: divergence between members: js (Jensen-Shannon, Eq. 8) or kl (between every two members, as in deep
            mutual learning).
        cot_warmup_epochs: epochs over which λ grows linearly: the first of their n steps has λ / n, the last λ.
        label_smoothing: share of the target that is spread over all classes.
        mixup: parameter of the Beta distribution that mixes pairs of images; 0 does not mix.
    """

    weight_decay_division: WeightDecayDividing = "none"
    cot_weight: float = 0.5
    cot_loss: Divergence = "js"
    cot_warmup_epochs: float = 40.0
    label_smoothing: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("cot_weight", "cot_warmup_epochs", "mixup"):
            check_range(f"train.{name}", getattr(self, name), 0)
        check_range("train.label_smoothing", self.label_smoothing, 0, 1, below=True)


@dataclass
class TrainClassification(CommonSettings):
    """Divides a network into S members and co-trains them.

    Attributes:
        model: the divided network.
        data: images and their views.
        train: schedule, optimizer and losses.
        resume: auto (continue the run in the folder, if there is one) or a checkpoint file.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: ClassificationTrainSettings = field(default_factory=ClassificationTrainSettings)
    resume: str | None = None


@dataclass
class EvaluateClassification(CommonSettings):
    """Evaluates the members of a train-cls checkpoint, and their ensemble.

    Attributes:
        checkpoint: a train-cls checkpoint.
        data: images and classes; default: those that the checkpoint was trained with.
        others: further checkpoints of the same data; every checkpoint's ensemble then counts as one member (Fig. 6).
        batch_size: images per forward pass.
        workers: processes that load images; 0 loads in this process.
        precision: auto (float32), float32, bf16 or fp16 (mixed precision by autocast).
        output: folder for metrics.json; default: the checkpoint's folder, or runs/<config name>.
        concurrency: how members run: sequential, or at once by streams or one graph (a CUDA device), devices (several),
            threads (a CPU).
        devices: for concurrency devices, such as cuda:0,cuda:1; default: all CUDA devices.
    """

    checkpoint: str | None = None
    data: EvalDataSettings = field(default_factory=EvalDataSettings)
    others: list[str] = field(default_factory=list)
    batch_size: int = 128
    workers: int = 2
    precision: Precision = "auto"
    concurrency: Concurrency = "sequential"
    devices: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("batch_size", self.batch_size, 1)
        check_range("workers", self.workers, 0, 1024)

"""What the commands for networks take: costs, times, published weights. Nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Literal

from detection.heads import find_head, input_of
from divdet.engine.errors import UserError
from divdet.engine.settings import CommonSettings, Concurrency, Precision, check_range


@dataclass
class ImportCheckpoint(CommonSettings):
    """Turns a published checkpoint of the paper, or torchvision's SSDLite or FCOS, into a checkpoint of this toolkit.

    Attributes:
        source: the published file.
        task: cls or det.
        backbone: name of the network before dividing.
        members: S.
        dataset: what it was trained on: cifar10, cifar100, svhn or imagenet (cls); coco (det).
        head: ssd300, the paper's, ssdlite or fcos (det).
        input_size: side of the network's input in pixels (det); default: the head's own.
        output: the checkpoint to write.
    """

    source: str | None = None
    task: Literal["cls", "det"] = "cls"
    backbone: str | None = None
    members: int = 1
    dataset: str | None = None
    head: str = "ssd300"
    input_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        input_of(self.head, self.input_size, "input_size")


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
        check_range("size", self.size, 100)
        check_range("epochs", self.epochs, 1)


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
        check_range("rounds", self.rounds, 2)
        if not 0 < self.seconds < 3600:
            raise UserError(f"seconds is {self.seconds}: choose more than 0 and less than 3600")


@dataclass
class Plan(CommonSettings):
    """Times candidates on this machine, joins known accuracies, and says which are worth their time, and which to take.

    Attributes:
        runs: folders of train-det or train-cls, or their checkpoints: each is a candidate with the best accuracy of its
            own evaluations; all must be of the same validation data.
        task: cls or det; default: that of the runs, else det.
        backbones: names of backbones before dividing, separated by commas; of widths, such as resnet10_48 and wrn28_12,
            too.
        members: numbers S into which each of the backbones is divided, separated by commas.
        head: what finds boxes behind the backbones (det), as model.head of a recipe; default: the runs', the
            recipe's, else ssd300.
        dataset: whose accuracies are joined to the backbones, and of which the networks are: cifar10, cifar100, svhn or
            imagenet (cls; default cifar100 where the first backbone has that form); coco, or the number of foreground
            classes (det); or one of docs/evidence.md, such as bccd. Not with runs.
        recipe: training whose accuracies are joined; default: the one that knows most of the candidates.
        image_size: pixels a side for the backbones; default: the runs', the data set's, the head's, or the recipe's.
        runtimes: what runs detectors, separated by commas: torch, compile (minutes a network), onnxruntime, openvino;
            default: torch and those of the last two that are installed. Classifiers run in torch.
        budget_ms: milliseconds that an image may take; default: any.
        batch_size: images at a time for images/s; default: 32 on a GPU and 8 on a CPU.
        rounds: every way of a network is timed once in each; at least 2.
        seconds: about how long one way runs in a round; at least one call.
        precision: float32, bf16 or fp16; the last two in torch and compile alone.
        json: print one JSON object.
        output: folder for plan.json and, with matplotlib, plan.png; default: write nothing.
    """

    runs: list[str] = field(default_factory=list)
    task: Literal["cls", "det"] | None = None
    backbones: str | None = None
    members: str = "1,2,4"
    head: str | None = None
    dataset: str | None = None
    recipe: str | None = None
    image_size: int | None = None
    runtimes: str | None = None
    budget_ms: float | None = None
    batch_size: int | None = None
    rounds: int = 7
    seconds: float = 0.2
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    json: bool = False

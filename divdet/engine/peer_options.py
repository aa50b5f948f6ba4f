"""What options of ultralytics, torchvision and mmdetection are called here, or why there are none."""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

_FIELD = re.compile(r"--([\w.]+)(?![\w.=])")  # in an answer; not torchrun's --nproc_per_node=N


@dataclass(frozen=True)
class Option:
    """An option of another trainer.

    Attributes:
        fields: ours that mean the same; of several the first that the command has.
        values: its values, in lower case, as ours. An option of another name that has an answer takes no others. None
            stands for the answer.
        anyway: values that ask for what is done anyway.
        file: the field that is meant if the value is a file.
        answers: what to use instead, the first all of whose fields the command has.
    """

    fields: tuple[str, ...] = ()
    values: Mapping[str, str | None] = field(default_factory=dict)
    anyway: tuple[str, ...] = ()
    file: str | None = None
    answers: tuple[str, ...] = ()

    def answer(self, fields: Container[str], section: str = "") -> str | None:
        """The answer for a command with these fields; for ``section.option`` one that names a field of the section."""
        for answer in self.answers:
            named = _FIELD.findall(answer)
            in_section = not section or any(name.startswith(f"{section}.") for name in named)
            if in_section and all(name in fields for name in named):
                return answer
        return None


def _same(*fields: str) -> Option:
    return Option(fields)


def _no(*answers: str, anyway: tuple[str, ...] = ()) -> Option:
    return Option(answers=answers, anyway=anyway)


_OFF = ("false", "0", "0.0", "none")
_SCHEDULE = "--train.schedule is cosine, or step with --train.milestones"
_COSINE = dict.fromkeys(("cosine", "cos", "cosineannealing", "cosineannealinglr"), "cosine")
_STEP = dict.fromkeys(("step", "multistep", "multisteplr"), "step")
_PRETRAINED = "--model.pretrained takes a file of weights, pip (of the extra lite) or timm"
_HALF = ("half precision is --precision bf16 or fp16", "mixed precision is --train.precision bf16 or fp16")
_AUGMENT = (
    "training augments by --data.photometric, --data.zoom_out, --data.iou_crop, --data.flip, --data.mosaic, "
    "--data.mixup and --data.albumentations",
    "training augments by --data.crop, --data.flip, --data.auto_augment and --data.erasing",
    "test-time augmentation is --tta flip, scales or flip,scales",
)
_PICTURES = "pictures with the boxes above --score_threshold and their names are written to --output"

# By names, separated by spaces
_TABLE: dict[str, Option] = {
    # Data
    "data data_path coco_path": _same("data.path", "data.root"),
    "val_split": _same("data.val_fraction"),
    "dataset": _no("--data.path names the data, whose format is recognized, or is --data.format"),
    "imgsz img img_size image_size input_size": Option(
        ("model.input_size", "data.image_size", "image_size"),
        answers=("images of any size are resized to the input that the detector was trained with (model.input_size)",),
    ),
    "batch": _same("batch_size", "train.batch_size"),
    "workers num_workers": Option(
        ("train.workers", "workers"), answers=("images are read beside the network by as many workers as are of use",)
    ),
    "cache": Option(
        ("data.cache",),
        {"ram": "true", "disk": None},
        answers=("--data.cache keeps the decoded images in memory; there is no cache on disk",),
    ),
    "rect aspect_ratio_group_factor": _no(
        "images are brought to the square that the head takes (model.head), whatever their shape", anyway=_OFF
    ),
    "classes num_classes nc": _no("the classes are those of the annotations"),
    "single_cls": _no("give annotations of one class", anyway=_OFF),
    "split": _no("--data.val_annotations names what is evaluated", anyway=("val",)),
    # Model
    "model": Option(
        ("checkpoint", "backbone"),
        file="model.pretrained",
        answers=("--model.pretrained FILE is what training starts from, --model.backbone NAME the network",),
    ),
    "weights load_from ckpt": _same("checkpoint", "model.pretrained"),
    "checkpoint": _no(
        "divdet plan FILE times a checkpoint; detect, eval-det, export and serve take --checkpoint FILE",
        "--model.pretrained FILE is what training starts from; --resume FILE continues a run",
    ),
    "weights_backbone": Option(file="model.pretrained", answers=(_PRETRAINED,)),
    "pretrained": Option(("model.pretrained",), {"true": None, "false": "null"}, answers=(_PRETRAINED,)),
    "freeze": Option(("train.freeze",), {"none": "0"}),
    "trainable_backbone_layers": Option(
        ("train.freeze",),
        {"0": "all", "5": "0"},
        answers=("--train.freeze N keeps the first N stages of the backbone as they are, or all",),
    ),
    "dropout": _no("a detector has no dropout; --train.weight_decay regularizes it", anyway=_OFF),
    "sync_bn": Option(
        ("train.batch_norm",), {"true": "sync", "false": "own"}, answers=("--train.batch_norm is own, sync or frozen",)
    ),
    # Training
    "num_epochs n_epochs max_epochs": _same("train.epochs"),
    "max_iters max_steps": _no("--train.epochs counts passes over the images; --train.min_steps raises them"),
    "early_stopping": _same("train.patience"),
    "time": _no("--train.epochs says how long to train"),
    "start_epoch": _no("--resume auto continues a run"),
    "resume": Option(("resume",), {"true": "auto", "false": "null"}),
    "optimizer opt": Option(
        ("train.optimizer",),
        {"sgd": "sgd", "auto": "sgd", "adamw": "adamw"},
        answers=("--train.optimizer is sgd or adamw",),
    ),
    "learning_rate base_lr lr0": _same("train.lr"),
    "lrf": _no("--train.end_lr is the last rate itself"),
    "auto_scale_lr": _no("--train.lr stays as it is: change it in proportion to --train.batch_size", anyway=_OFF),
    "wd": _same("train.weight_decay"),
    "norm_weight_decay": _no("--train.decay_all also decays biases and normalization layers"),
    "lr_scheduler scheduler": Option(("train.schedule",), _COSINE | _STEP, answers=(_SCHEDULE,)),
    "cos_lr": Option(("train.schedule",), {"true": "cosine"}, answers=(_SCHEDULE,)),
    "lr_steps": _same("train.milestones"),
    "lr_step_size lr_gamma": _no(
        "--train.milestones are the epochs that divide the rate by 10, with --train.schedule step"
    ),
    "lr_warmup_epochs": _same("train.warmup_epochs"),
    "warmup_iters warmup_momentum warmup_bias_lr lr_warmup_decay lr_warmup_method": _no(
        "--train.warmup_epochs, which may be a fraction, warms up linearly from --train.warmup_lr"
    ),
    "nbs": _no("a step takes --train.accumulate batches of --train.batch_size images"),
    "clip_grad_norm grad_clip": _same("train.clip_gradient"),
    "ema model_ema": _no("--train.ema_decay averages the weights, such as 0.999", anyway=_OFF),
    "model_ema_decay": _same("train.ema_decay"),
    "amp": Option(
        ("train.precision",),
        {"true": "auto", "false": "float32"},
        answers=("mixed precision is --train.precision bf16 or fp16",),
    ),
    # When ultralytics trains, this is for its evaluation alone
    "half": Option(("precision",), {"true": "fp16", "false": "float32"}, answers=_HALF),
    "fp16": Option(("precision", "train.precision"), {"true": "fp16", "false": "float32"}, answers=_HALF),
    "label_smoothing": _no("the loss takes --train.class_weights, but no label smoothing", anyway=_OFF),
    "box cls dfl obj": _no("the losses are not weighted against each other; --train.class_weights weights the classes"),
    "deterministic use_deterministic_algorithms": _no(
        "--seed decides all that is drawn; on a CPU the same command gives the same weights", anyway=_OFF
    ),
    "val": _no(
        "--data.val_annotations or --data.val_fraction is evaluated every --train.evaluate_every epochs",
        "evaluation is every --train.evaluate_every epochs",
        anyway=("true",),
    ),
    "test_only eval_only": _no("a checkpoint is evaluated by the commands eval-det and eval-cls", anyway=_OFF),
    "save_period": _no("--train.keep keeps the checkpoints of so many epochs", anyway=("-1",)),
    "print_freq": _no("metrics.jsonl in --output has every epoch's losses, and AP every --train.evaluate_every epochs"),
    "log_interval log_every_n_steps logging_steps": _same("train.log_every"),
    "report_to logger": _same("train.loggers"),
    "verbose": _no("what is printed stays the same; --output has all numbers", anyway=("true",)),
    "plots": _no(
        "TensorBoard events and metrics.jsonl in --output have the curves, every --train.evaluate_every epochs",
        "the files in --output have all numbers",
        anyway=("true",),
    ),
    "world_size dist_url launcher gpus n_gpus gpu_ids rank local_rank": _no(
        "torchrun starts processes: torchrun --nproc_per_node=N -m divdet train-det …", anyway=("1", "none")
    ),
    # Augmentation
    "augment": Option(("tta",), {"true": "flip,scales", "false": "null"}, answers=_AUGMENT),
    "data_augmentation tta": _no(*_AUGMENT),
    "fliplr": _same("data.flip"),
    "close_mosaic": _no("--data.mosaic is the same in all epochs", anyway=_OFF),
    "multi_scale": Option(
        ("train.multi_scale",),
        {"true": "0.5", "false": "0"},
        _OFF,
        answers=("the input's size is fixed; --data.crop resized changes the size of objects",),
    ),
    "hsv_h hsv_s hsv_v": _no("--data.photometric changes colors as in SSD's paper, or not at all"),
    "degrees translate scale shear perspective flipud bgr copy_paste cutmix erasing auto_augment": _no(
        "a pipeline of your own, --data.albumentations FILE.yaml, can do that", anyway=_OFF
    ),
    # Boxes
    "conf conf_thres score_thr score_thresh pred_score_thr": _same(
        "score_threshold", "postprocess.score_threshold", "skip_box_thr"
    ),
    "iou iou_thres iou_thr nms_thr nms_thresh": _same("postprocess.nms_iou", "iou_thr"),
    "agnostic_nms": _same("postprocess.class_agnostic"),
    "slice_height slice_width slice_size": _same("tile"),
    "overlap_height_ratio overlap_width_ratio overlap_ratio": _same("overlap"),
    "min_area_ratio": _same("min_share"),
    "ignore_negative_samples": Option(
        ("empty_ratio",), {"true": "0"}, answers=("--empty_ratio says how many tiles without objects are kept",)
    ),
    "max_det detections_per_img max_per_img": _no(
        "--postprocess.max_per_member limits the boxes of each member before they are fused; the fused ones have no "
        "limit"
    ),
    # Prediction
    "source input": Option(("sources",), answers=("--data.path names the data",)),
    "int8": _no("--runtime openvino with --precision int8", "--format openvino with --precision int8", anyway=_OFF),
    "dnn": _no("--runtime onnxruntime or openvino is faster than PyTorch on a CPU", anyway=_OFF),
    "stream": _no("images are read when their turn comes, --batch_size at a time", anyway=("true", "false")),
    "vid_stride stream_buffer save_frames": _no(
        "--frames all or newest says which of a stream are taken, --max_frames how many", anyway=("1", *_OFF)
    ),
    "tracker": _no("docs/prediction.md has a tracker that follows the detector's boxes, from Python", anyway=_OFF),
    "save_txt": _no("--save yolo writes label files", anyway=_OFF),
    "save_conf": _no(
        "detections.json in --output has all boxes that --checkpoint finds, with their scores", anyway=_OFF
    ),
    "save_json": _no("detections.json in --output has all boxes that --checkpoint finds", anyway=("true",)),
    "save_crop": _no("--save crops cuts out what was found", anyway=_OFF),
    "save": _no(_PICTURES, "--output has last.pt and best.pt; --train.keep keeps more", anyway=("true",)),
    "show view_img": _no(_PICTURES, anyway=_OFF),
    "show_labels show_conf show_boxes": _no(_PICTURES, anyway=("true",)),
    "line_width line_thickness": _no(
        "--output has the pictures of boxes above --score_threshold; lines and text follow their size"
    ),
    # The command and its folder
    "output_dir work_dir save_dir show_dir out_dir": _same("output"),
    "project name": _no("give the whole folder as --output"),
    "exist_ok": _no("a run in its folder is continued by --resume auto; for a new one give another --output"),
    "cfg": _no("a recipe is --config FILE.yaml"),
    "cfg_options": _no(
        "fields are options themselves, such as --train.epochs 30",
        "fields are options themselves, such as --postprocess.nms_iou 0.45",
    ),
    "task mode": _no("training, evaluation and prediction are the commands train-det, eval-det and detect"),
}
OPTIONS = {name: option for names, option in _TABLE.items() for name in names.split()}

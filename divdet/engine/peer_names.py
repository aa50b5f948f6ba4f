"""Option names of other trainers, and other ways to write values, understood on our command lines."""

import difflib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from divdet.engine.errors import UserError

# ultralytics', torchvision's and mmdetection's names; of several fields the first that the command has is meant.
_SAME = {
    "data": ("data.path", "data.root"),
    "data_path": ("data.path", "data.root"),
    "weights": ("checkpoint", "model.pretrained"),
    "model": ("checkpoint",),
    "source": ("sources",),
    "conf": ("score_threshold", "postprocess.score_threshold"),
    "conf_thres": ("score_threshold", "postprocess.score_threshold"),
    "iou": ("postprocess.nms_iou",),
    "iou_thres": ("postprocess.nms_iou",),
    "max_det": ("postprocess.max_per_member",),
    "imgsz": ("model.input_size",),
    "img_size": ("model.input_size",),
    "batch": ("batch_size", "train.batch_size"),
    "learning_rate": ("train.lr",),
    "lr0": ("train.lr",),
    "lr_steps": ("train.milestones",),
    "num_epochs": ("train.epochs",),
    "max_epochs": ("train.epochs",),
    "num_workers": ("train.workers",),
    "wd": ("train.weight_decay",),
    "fliplr": ("data.flip",),
    "output_dir": ("output",),
    "work_dir": ("output",),
    "save_dir": ("output",),
}
_NO_FIELD = {
    "imgsz": "detectors take images of any size and resize them to 300 x 300 pixels",
    "img_size": "detectors take images of any size and resize them to 300 x 300 pixels",
    "project": "give the whole folder as --output",
    "name": "give the whole folder as --output",
    "classes": "the classes are those of the annotations",
    "num_classes": "the classes are those of the annotations",
    "nc": "the classes are those of the annotations",
    "amp": "mixed precision is --train.precision bf16 or fp16",
    "half": "half precision is --precision bf16 or fp16",
    "optimizer": "the optimizer is SGD; its settings are train.lr, train.momentum and train.weight_decay",
    "lrf": "train.end_lr is the last rate itself",
    "cos_lr": "the rate falls along a cosine unless train.schedule says otherwise",
    "save_period": "train.keep keeps the checkpoints of so many epochs",
    "exist_ok": "a run in its folder is continued by --resume auto; for a new one give another --output",
    "single_cls": "give annotations of one class",
    **dict.fromkeys(("hsv_h", "hsv_s", "hsv_v"), "colors are changed as in SSD's paper; data.photometric turns it off"),
    **dict.fromkeys(("degrees", "translate", "scale", "shear", "perspective", "flipud"), "see data.albumentations"),
}


def fields_of(config_class: type, prefix: str = "") -> dict[str, Any]:
    """The types of a dataclass's fields by key, ``section.name`` for those of its sections."""
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(config_class).items():
        found |= fields_of(kind, f"{prefix}{name}.") if is_dataclass(kind) else {prefix + name: kind}
    return found


def translate(argv: Sequence[str], fields: Mapping[str, Any], positional: str | None = None) -> list[str]:
    """Rewrites arguments as ``--key=value`` with the names of ``fields``; what it does not know stays as it is.

    Understood are names without their section where one field alone has them (``--epochs``), other trainers' names,
    hyphens, ultralytics' ``key=value`` where the command takes no ``positional`` arguments, options without a value
    for truth values, ``--resume`` for ``--resume auto``, and lists as ``1,2`` or ``1 2``.

    Raises:
        UserError: for a name of another trainer that has no counterpart here.
    """
    words, done, refused = deque(argv), [], []
    while words:
        word = words.popleft()
        if word == "--":
            done += [word, *words]
            break
        if not positional and re.fullmatch(r"[a-z][\w.]*=.*", word):
            word = f"--{word}"
        name, equals, value = word[2:].partition("=")
        key = field_for(name, fields) if word.startswith("--") else None
        if key is None:
            answer = _NO_FIELD.get(name.replace("-", "_")) if word.startswith("--") else None
            if answer:
                refused.append(f"--{name}: there is no such option: {answer}")
            done.append(word)
            if word in ("--config", "-c") and words:
                done.append(words.popleft())
            continue
        values = [value] if equals else []
        if fields[key] is bool:
            if not equals and words and words[0].lower() in ("true", "false"):
                values = [words.popleft()]
            values = [values[0].lower() if values else "true"]
        elif not equals and words and not words[0].startswith("--"):
            values = [words.popleft()]
            while _takes_list(fields[key]) and key != positional and words and _is_number(words[0]):
                values.append(words.popleft())
        if not values and key == "resume":
            values = ["auto"]
        if key == positional:
            done += values
        elif not values:
            done.append(f"--{key}")  # whose value is missing: the parser says so
        else:
            done.append(f"--{key}={_as_value(','.join(values), fields[key])}")
    if refused:
        raise UserError("; ".join(refused))
    return done


def field_for(name: str, fields: Mapping[str, Any]) -> str | None:
    """The field that an option's name means, in a section or without it; None where none or several fit."""
    name = name.replace("-", "_")
    if name in fields:
        return name
    section, _, last = name.rpartition(".")
    same = [key for key in _SAME.get(last, ()) if key in fields and key.startswith(f"{section}." if section else "")]
    alike = [key for key in fields if key.rpartition(".")[2] == name]
    return same[0] if same else alike[0] if len(alike) == 1 else None


def close_field(name: str, fields: Mapping[str, Any]) -> str | None:
    """The field, or section, that a mistyped name may mean, for a suggestion; None where nothing is alike."""
    section, _, last = name.rpartition(".")
    if meant := field_for(name, fields) or field_for(last, fields):
        return meant
    sections = {key.rpartition(".")[0] for key in fields}
    if section not in sections:
        close = difflib.get_close_matches(section, sections, n=1, cutoff=0.75)
        return close[0] if close else None
    own = {key.rpartition(".")[2]: key for key in fields if not section or key.startswith(f"{section}.")}
    own |= {} if section else {title: title for title in sections}
    close = difflib.get_close_matches(last, own, n=1, cutoff=0.7)
    return own[close[0]] if close else None


def _as_value(text: str, kind: Any) -> str:
    """``1,2`` as ``[1,2]`` for a list; where other types are possible too, only numbers are a list."""
    listed = get_origin(kind) is list or (_takes_list(kind) and all(map(_is_number, text.split(","))))
    return f"[{text}]" if listed and not text.startswith("[") else text


def _takes_list(kind: Any) -> bool:
    """Whether a type is a list, or a union with one."""
    return any(get_origin(part) is list for part in (kind, *get_args(kind)))


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\s*-?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", word) is not None

"""The user's own augmentation: a pipeline of albumentations, read from a file, run on images and their boxes."""

import difflib
import os
import warnings
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detection.data.annotations import clip_boxes
from divdet.engine.errors import UserError
from divdet.engine.files import reason, refuse_special
from divdet.engine.recipes import load_yaml

_CLASS = "__class_fullname__"  # in what albumentations.save writes
_KEYS = ("transforms", "bbox_params", "p")  # of a pipeline
_SAVED = (_CLASS, "additional_targets", "is_check_shapes", "keypoint_params")  # which say nothing about boxes
_WHAT = "neither a pipeline that albumentations.save wrote nor a list of `- Name: {argument: value}`"


class UserPipeline:
    """A pipeline of albumentations from a YAML or JSON file.

    The file holds what ``albumentations.save`` writes; or a list of ``- Name: {argument: value}``; or ``transforms:``
    with such a list and ``bbox_params:`` (``min_area``, ``min_visibility``, …). Names are those of albumentations' own
    serializable transforms, so a file cannot name code. ``format`` and ``label_fields`` of ``bbox_params`` are ignored,
    since boxes are handed over in our own format.

    Args:
        path: the file.

    Raises:
        UserError: where the library is missing, the file cannot be read, or a name or an argument is wrong.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = import_albumentations()
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            self._compose = self._build(self._read())
        for note in notes:
            if not str(note.message).startswith("Got processor for bboxes"):  # none of them moves boxes
                print(f"note: {path}: {_one_line(note.message)}")

    def _read(self) -> Any:
        try:
            refuse_special(self.path)
            return load_yaml(Path(self.path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"data.albumentations: {self.path} cannot be read ({reason(error)})") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{self.path}: not a YAML or JSON file: {_one_line(error)}") from error

    def _build(self, content: Any) -> Any:
        if isinstance(content, Mapping) and isinstance(content.get("transform"), Mapping):
            self._check_keys(content, ("transform", "__version__"))
            content = content["transform"]
        if isinstance(content, Mapping) and _CLASS in content and _short(content[_CLASS]) != "Compose":
            content = [content]
        if isinstance(content, list):
            content = {"transforms": content}
        if not isinstance(content, Mapping) or not isinstance(content.get("transforms"), list):
            raise UserError(f"{self.path}: {_WHAT}")
        self._check_keys(content, _KEYS, _SAVED)
        given = content.get("bbox_params") or {}
        if not isinstance(given, Mapping):
            raise UserError(f"{self.path}: bbox_params is {given!r}: give it names and values, such as min_area: 16")
        own = {"format": "pascal_voc", "label_fields": ["indices"], "filter_invalid_bboxes": True}
        known = signature(self._library.BboxParams.__init__).parameters
        for name in given:
            if name not in known:
                raise UserError(f"{self.path}: bbox_params has no {name!r}: choose of {', '.join([*known][1:])}")
        boxes = self._library.BboxParams(**{**given, **own})
        p = content.get("p", 1.0)
        transforms = self._transforms(content["transforms"])
        return self._made("Compose", self._library.Compose, {"transforms": transforms, "p": p, "bbox_params": boxes})

    def _check_keys(self, content: Mapping, known: tuple[str, ...], others: tuple[str, ...] = ()) -> None:
        for key in content:
            if key not in known + others:
                raise UserError(f"{self.path}: {_one_line(key)} is no key of a pipeline: choose of {', '.join(known)}")

    def _transforms(self, entries: list[Any]) -> list[Any]:
        if not entries:
            raise UserError(f"{self.path}: a list of transforms is empty: add one, or leave data.albumentations out")
        return [self._transform(entry) for entry in entries]

    def _transform(self, entry: Any) -> Any:
        """The transform of an entry: ``Name``, ``{Name: arguments}``, or as albumentations writes it."""
        if isinstance(entry, Mapping) and _CLASS in entry:
            name, arguments = _short(entry[_CLASS]), {key: entry[key] for key in entry if key != _CLASS}
        elif isinstance(entry, Mapping) and len(entry) == 1:
            ((name, arguments),) = entry.items()
        else:
            name, arguments = entry, {}
        if arguments is None:
            arguments = {}
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise UserError(f"{self.path}: {_one_line(entry)} is not `Name: {{argument: value}}`")
        known = self._library.core.serialization.SERIALIZABLE_REGISTRY
        kind = known.get(name)
        if kind is None or not kind.__module__.startswith("albumentations."):
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{self.path}: albumentations has no transform {name!r} that a file can name{meant}")
        arguments = dict(arguments)
        if isinstance(arguments.get("transforms"), list):
            arguments["transforms"] = self._transforms(arguments["transforms"])
        elif hasattr(kind.__init__, "__signature__"):  # albumentations checks the arguments of these
            arguments["strict"] = True  # otherwise a wrong argument is a warning, and the default is used
        return self._made(name, kind, arguments)

    def _made(self, name: str, kind: type, arguments: dict[str, Any]) -> Any:
        try:
            return kind(**arguments)
        except Exception as error:  # albumentations' classes check their arguments by themselves, in many ways
            faults = error.__cause__.errors() if hasattr(error.__cause__, "errors") else []  # pydantic's
            each = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]
            raise UserError(f"{self.path}: {name}: {_one_line('; '.join(each) or error)}") from error

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, seed: int, name: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The image after the pipeline, with the boxes that are left, cut at its border.

        Args:
            image: ``[H, W, 3]`` uint8 RGB; it is not changed.
            boxes: ``[n, 4]`` xyxy in pixels, inside the image.
            labels: ``[n]``.
            seed: determines all random draws.
            name: of the image, for messages.

        Raises:
            UserError: where the pipeline fails, or returns no uint8 RGB image.
        """
        self._compose.set_random_seed(seed % 2**32)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they were shown when the pipeline was built
                found = self._compose(image=image.copy(), bboxes=boxes, indices=np.arange(len(boxes)))
        except Exception as error:  # whatever the transforms raise, the file is at fault
            kind = type(error).__name__
            raise UserError(f"{self.path}: the pipeline fails on {name}: {kind}: {_one_line(error)}") from error
        view = found["image"]
        shape = list(getattr(view, "shape", ()))
        if not isinstance(view, np.ndarray) or view.dtype != np.uint8:
            kind = f"{view.dtype} values" if isinstance(view, np.ndarray) else f"a {type(view).__name__}"
            raise UserError(
                f"{self.path}: the pipeline makes {kind} of {name}, not uint8 pixels: remove Normalize, ToFloat, "
                "ToTensorV2 and the like, since the network's input is normalized later"
            )
        if len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise UserError(f"{self.path}: the pipeline makes an image of shape {shape} of {name}, not [H, W, 3]")
        kept = np.asarray(found["indices"], np.int64).reshape(-1)
        left = np.asarray(found["bboxes"], np.float32).reshape(-1, 4)
        left, solid = clip_boxes(left, shape[1], shape[0])
        return np.ascontiguousarray(view), left[solid], labels[kept[solid]]


def import_albumentations() -> Any:
    """The library; UserError where it is missing."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # importing it would ask a server for the newest version
    try:
        import albumentations
    except ImportError as error:
        raise UserError("data.albumentations needs the library: pip install 'divdet[albumentations]'") from error
    return albumentations


def _short(name: Any) -> str:
    """``HorizontalFlip`` of ``albumentations.augmentations.….HorizontalFlip``; other packages' names stay whole."""
    text = str(name)
    return text.rsplit(".", 1)[-1] if text.startswith("albumentations.") else text


def _one_line(what: Any) -> str:
    text = " ".join(str(what).split())
    return text if len(text) <= 300 else f"{text[:299]}…"

"""Several detectors, of any libraries, as one: their boxes fused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch

from detection.detections import Detections
from detection.foreign import Found, as_call, classes_of, names_of, read_found
from detection.fusion import fuse_by_method
from detection.images import as_rgb, check_bgr, check_threshold, named_images, source_of
from detection.prediction_settings import ConfType, FusionMethod, FusionRule
from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from detection.detector import ImageLike

_SEPARATORS = re.compile(r"[\s_-]+")  # between the words of a class's name


class Fusion:
    """A detector that asks several detectors and fuses their boxes; classes are matched by name.

    A class that only some of the detectors have is found by them alone, and scored as one that the others missed. One
    detector alone keeps its boxes as they are.

    Attributes:
        detectors: as given.
        names: class names by label: those of the argument ``names`` or of the detectors, in the order in which they
            first appear. A detector that does not say its classes adds each when it first finds it.
        complete: whether every detector has said its classes, so that ``names`` will stay.
        rule: how boxes are fused.

    Example:
        >>> import numpy as np
        >>> from detection import Fusion
        >>> names = ["__background__", "cat", "dog"]
        >>> first = lambda image: {"boxes": [[10, 10, 50, 50]], "labels": [1], "scores": [0.8]}
        >>> second = lambda image: {"boxes": [[14, 10, 50, 50]], "labels": [1], "scores": [0.4]}
        >>> found = Fusion([first, second], names=names)(np.zeros((60, 80, 3), np.uint8))
        >>> found
        Detections(1 object: cat 0.60)
        >>> [len(member) for member in found.members]
        [1, 1]
    """

    def __init__(
        self,
        detectors: Iterable[Callable[[np.ndarray], Any]],
        weights: Sequence[float] | None = None,
        method: FusionMethod = "wbf",
        iou_thr: float = 0.55,
        skip_box_thr: float = 0.0,
        conf_type: ConfType = "avg",
        names: Sequence[str] | Sequence[Sequence[str] | None] | None = None,
    ) -> None:
        """Takes detectors that are called with an image, RGB uint8 ``[H, W, 3]``.

        Args:
            detectors: each returns ``Detections``; a dict of ``boxes``, ``labels`` and ``scores``;
                ``supervision.Detections``; or ultralytics results. Boxes are in pixels of the image, scores 0 to 1.
                divdet's ``Detector``, torchvision's models (in evaluation mode) and ultralytics' are taken as they are.
            weights: how much each counts; default: equally.
            method, iou_thr, skip_box_thr, conf_type: see ``FusionRule``.
            names: class names by label, for results that have labels alone; those of torchvision's models are
                ``weights.meta["categories"]``. Or one such list, or None, for each detector, where they differ.

        Raises:
            UserError: for arguments that do not fit.
        """
        if callable(detectors) or not isinstance(detectors, Iterable):
            raise UserError(f"detectors is {type(detectors).__name__}: give a list of detectors")
        self.detectors = list(detectors)
        if not self.detectors:
            raise UserError("detectors is empty: give at least one")
        self._calls = [as_call(detector, f"detectors[{i}]") for i, detector in enumerate(self.detectors)]
        weights = weights.tolist() if isinstance(weights, np.ndarray | torch.Tensor) else weights
        self.rule = FusionRule(
            method=method, weights=weights, iou_thr=iou_thr, skip_box_thr=skip_box_thr, conf_type=conf_type
        )
        if weights is not None and len(weights) != len(self.detectors):
            raise UserError(f"{len(weights)} weights for {len(self.detectors)} detectors: give one for each")
        self._given, common = _given_names(names, len(self.detectors))
        own = [
            names_of(detector) or (classes_of(given) if given else None)
            for detector, given in zip(self.detectors, self._given, strict=True)
        ]
        _refuse_two_spellings(own, self.detectors)
        self.complete = None not in own
        self.names = list(dict.fromkeys([*classes_of(common), *chain(*filter(None, own))]))
        self._ids: dict[str, set[int | None]] = {}
        for detector in self.detectors:
            if getattr(detector, "category_ids", None) and getattr(detector, "names", None):
                self._learn_ids(zip(detector.names, detector.category_ids, strict=False))
        self._pixels = [False] * len(self.detectors)  # which are known to give pixels
        self._orient = any(getattr(detector, "orientation", "auto") != "stored" for detector in self.detectors)

    def __repr__(self) -> str:
        classes = f"{len(self.names)} class{'es' * (len(self.names) > 1)}"
        return f"Fusion({len(self.detectors)} detectors, {classes}, {self.rule.method})"

    @property
    def category_ids(self) -> list[int]:
        """Category ids by label, where the detectors know one for every class and agree; else empty."""
        ids = [self._ids.get(name, set()) for name in self.names]
        single = [next(iter(own)) for own in ids if len(own) == 1]
        agree = len(single) == len(self.names) == len(set(single)) and None not in single
        return single if agree else []

    @overload
    def predict(self, images: ImageLike, score_threshold: float = ..., *, bgr: bool = ...) -> Detections: ...

    @overload
    def predict(
        self, images: Sequence[ImageLike], score_threshold: float = ..., *, bgr: bool = ...
    ) -> list[Detections]: ...

    @overload
    def predict(
        self, images: Iterable[ImageLike], score_threshold: float = ..., *, bgr: bool = ...
    ) -> Iterator[Detections]: ...

    def predict(self, images: Any, score_threshold: float = 0.0, *, bgr: bool = False) -> Any:
        """Finds objects in one image or in several, one after the other; ``fusion(images)`` does the same.

        Args:
            images: as ``Detector.predict`` takes them.
            score_threshold: lowest fused score that is returned, 0 to 1.
            bgr: arrays and tensors are BGR, as OpenCV reads images, instead of RGB.

        Returns:
            As ``Detector.predict``; ``members`` are what each of the detectors found.

        Raises:
            UserError: for an argument or an image that cannot be used, and for a result that does not fit; it names
                the detector's position.
        """
        named, single, listed = named_images(images)
        check_threshold(score_threshold)
        check_bgr(bgr)
        found = (self._detect(image, name, bgr, score_threshold) for name, image in named)
        if single:
            return next(found)
        return list(found) if listed else found

    __call__ = predict

    def stream(
        self,
        source: str | PathLike[str],
        score_threshold: float = 0.0,
        *,
        frames: Literal["all", "newest"] | None = None,
        max_frames: int | None = None,
    ) -> Iterator[Detections]:
        """Finds objects in each frame of a video; see ``Detector.stream``."""
        from detection.videos import Video, stream

        with Video(source, frames) as video:
            for _, found in stream(self, video, score_threshold, 1, max_frames):
                yield found

    def _detect(self, image: Any, name: str, bgr: bool, score_threshold: float) -> Detections:
        array = as_rgb(image, name, bgr, self._orient)
        size = array.shape[1::-1]
        members = []
        for i, (call, names) in enumerate(zip(self._calls, self._given, strict=True)):
            result = call(array)
            pixels = self._pixels[i] or isinstance(result, Detections)
            found = read_found(result, names, size, f"detectors[{i}]", pixels)
            self._pixels[i] |= len(found.boxes) > 0 and found.boxes.max() > 1
            if isinstance(result, Detections) and result.category_ids:
                ids = (result.category_ids[label] for label in result.labels.tolist())
                self._learn_ids(zip(result.names, ids, strict=True))
            self.names += [name for name in dict.fromkeys(found.names) if name not in self.names]
            members.append(_sorted(found))
        boxes, scores, labels = self._fuse(members, np.tile(np.array(size, np.float64), 2))
        source = source_of(image, array)
        kept = scores >= score_threshold
        own = tuple(self._detections(*member[:2], self._labels(member), source) for member in members)
        return self._detections(boxes[kept], scores[kept], labels[kept], source, own)

    def _fuse(self, members: list[Found], scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes in pixels, scores and labels; ``scale`` are width, height, width, height."""
        if len(members) == 1:
            return *members[0][:2], self._labels(members[0])
        boxes = np.concatenate([member.boxes for member in members]) / scale
        scores = np.concatenate([member.scores for member in members])
        labels = np.concatenate([self._labels(member) for member in members])
        counts = np.array([[len(member.scores) for member in members]])
        rule = asdict(self.rule)
        ((boxes, scores, labels),) = fuse_by_method(boxes, scores, labels, counts, **rule)
        return boxes * scale, scores, labels

    def _labels(self, found: Found) -> np.ndarray:
        labels = {name: label for label, name in enumerate(self.names)}
        return np.array([labels[name] for name in found.names], np.int64)

    def _learn_ids(self, pairs: Iterable[tuple[str, int | None]]) -> None:
        for name, number in pairs:
            self._ids.setdefault(name, set()).add(number)

    def _detections(
        self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, source: Any, members: tuple = ()
    ) -> Detections:
        columns = torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), torch.from_numpy(labels)
        names = [self.names[label] for label in labels.tolist()]
        return Detections(*columns, names, members, self.category_ids, source, self._orient)


def _sorted(found: Found) -> Found:
    """The same by falling score, as results of ``predict`` are."""
    order = np.argsort(-found.scores, kind="stable")
    return Found(found.boxes[order], found.scores[order], [found.names[row] for row in order.tolist()])


def _refuse_two_spellings(own: list[list[str] | None], detectors: list[Any]) -> None:
    """Raises UserError where one detector's ``Traffic light`` seems to be another's ``traffic_light``."""
    first: dict[str, tuple[str, int]] = {}
    for i, names in enumerate(own):
        for name in names or []:
            other, j = first.setdefault(_SEPARATORS.sub("", name).casefold() or name, (name, i))
            if name != other and name not in own[j] and other not in names:  # one may have "a" and "A"
                theirs, mine = (getattr(detectors[k], "source", None) or f"detectors[{k}]" for k in (j, i))
                raise UserError(
                    f"{mine} has the class {name!r}, {theirs} {other!r}; classes are matched by name, so each would "
                    "count as missed by the other: give them one name (a Detector's names is a list to change)"
                )


def _given_names(names: Any, detectors: int) -> tuple[list[Sequence[str] | None], Sequence[str]]:
    """Names by label for each detector, and those that are common to all."""
    if names is None:
        return [None] * detectors, []
    if isinstance(names, list | tuple) and names:
        if all(isinstance(name, str) for name in names):
            return [names] * detectors, names
        lists = all(own is None or _are_names(own) for own in names)
        if lists and len(names) == detectors:
            return list(names), []
        if lists:
            raise UserError(f"names has {len(names)} lists for {detectors} detectors: give one (or None) for each")
    raise UserError(f"names is {names!r:.99}: give class names by label, or one such list for each detector")


def _are_names(names: Any) -> bool:
    return isinstance(names, list | tuple) and bool(names) and all(isinstance(name, str) for name in names)

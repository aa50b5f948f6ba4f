"""What a detector found in an image."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from divdet.engine.errors import UserError

if TYPE_CHECKING:
    import supervision

BOX_DECIMALS = 2  # of pixels: COCO's own precision
SCORE_DECIMALS = 6


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image.

    ``len``, iteration and indexing are by object. A number, a slice, a boolean mask, or a list, array or tensor of
    positions selects objects; iteration yields one-object ``Detections``. Two ``Detections`` are equal if their boxes,
    scores, labels and names are.

    Attributes:
        boxes: ``[n, 4]`` float32, xyxy in the image's pixels, inside the image.
        scores: ``[n]`` float32 in 0…1, descending.
        labels: ``[n]`` int64, 0-based.
        names: the n class names.
        members: each member's own detections before fusion, whatever their scores; empty if unknown. Selecting
            objects leaves them as they are.
        category_ids: of the detector's classes in COCO's format, by label; empty if unknown.
        source: the image, as RGB uint8 ``[H, W, 3]`` (the caller's own array, not a copy), path or encoded bytes; None
            if unknown.
        orient: whether an image file is turned upright by its EXIF orientation.
        track_ids: ``[n]`` int64, which objects of a video's frames are the same, by a tracker; None without one.
        frame: of a video, the frame's number from 0; None for other images.
        seconds: of a video, the frame's time; None for other images.

    Example:
        >>> import numpy as np, torch
        >>> from detection import Detections
        >>> found = Detections(
        ...     boxes=torch.tensor([[10.0, 20.0, 60.0, 80.0], [50.0, 5.0, 90.0, 45.0]]),
        ...     scores=torch.tensor([0.9, 0.6]),
        ...     labels=torch.tensor([1, 0]),
        ...     names=["dog", "cat"],
        ...     category_ids=[17, 18],
        ...     source=np.zeros((100, 120, 3), np.uint8),
        ... )
        >>> found
        Detections(2 objects: dog 0.90, cat 0.60)
        >>> found[found.scores > 0.7]
        Detections(1 object: dog 0.90)
        >>> [one.names[0] for one in found]
        ['dog', 'cat']
        >>> found.plot().shape
        (100, 120, 3)
        >>> found[1].to_coco(image_id=42)
        [{'image_id': 42, 'category_id': 17, 'bbox': [50.0, 5.0, 40.0, 40.0], 'score': 0.6}]
        >>> found[1].to_json()
        '[{"name": "cat", "label": 0, "score": 0.6, "box": [50.0, 5.0, 90.0, 45.0]}]'
        >>> found[1].to_csv()
        'name,label,score,x1,y1,x2,y2\\ncat,0,0.6,50.0,5.0,90.0,45.0\\n'
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: list[str]
    members: tuple[Detections, ...] = ()
    category_ids: Sequence[int] = ()
    source: np.ndarray | str | Path | bytes | None = None
    orient: bool = True
    track_ids: Tensor | None = None
    frame: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, dtype in (("boxes", torch.float32), ("scores", torch.float32), ("labels", torch.int64)):
            if not isinstance(getattr(self, name), Tensor):  # lists or arrays of a user
                object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=dtype))
        if not self.boxes.numel():
            object.__setattr__(self, "boxes", self.boxes.reshape(-1, 4))  # of an empty list
        counts = [len(held) for held in (self.boxes, self.scores, self.labels, self.names)]
        if len(set(counts)) > 1 or self.boxes.shape[1:] != (4,):
            raise UserError(f"{counts} boxes, scores, labels and names: give as many of each, and boxes as [n, 4]")

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor) -> Detections:
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        rows = np.atleast_1d(np.arange(len(self))[index]).tolist()  # NumPy's rules, and its IndexErrors
        if rows and isinstance(rows[0], list):
            raise IndexError(f"Detections have one dimension, not those of the index {index!r}")
        names = [self.names[row] for row in rows]
        tracks = None if self.track_ids is None else self.track_ids[rows]
        columns = {"boxes": self.boxes[rows], "scores": self.scores[rows], "labels": self.labels[rows]}
        return replace(self, **columns, names=names, track_ids=tracks)

    def __iter__(self) -> Iterator[Detections]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        columns = (self.boxes, other.boxes), (self.scores, other.scores), (self.labels, other.labels)
        return self.names == other.names and all(a.dtype == b.dtype and a.equal(b) for a, b in columns)

    def __repr__(self) -> str:
        listed = [f"{name} {score:.2f}" for name, score in zip(self.names[:5], self.scores.tolist(), strict=False)]
        found = ", ".join(listed + ["…"] * (len(self) > 5))
        return f"Detections({len(self)} object{'s' * (len(self) != 1)}{': ' * bool(found)}{found})"

    @property
    def image(self) -> np.ndarray:
        """The image, RGB uint8 ``[H, W, 3]``. A file is read again, so that many results do not hold many images."""
        from detection.images import read_image

        if self.source is None:
            raise UserError("these detections have no image to show: give it as Detections(..., source=image)")
        return self.source if isinstance(self.source, np.ndarray) else read_image(self.source, orient=self.orient)

    def plot(self) -> np.ndarray:
        """Returns the image with the boxes, names and scores drawn: RGB uint8 ``[H, W, 3]``."""
        from detection.drawing import draw_boxes

        names = dict(zip(self.labels.tolist(), self.names, strict=True))
        return draw_boxes(self.image, self.boxes, self.labels, names, self.scores)

    def save(self, path: str | Path) -> None:
        """Writes the picture that ``plot`` draws, as ``.jpg``, ``.jpeg`` or ``.png``."""
        from detection.drawing import save_image

        save_image(Path(path), self.plot())

    def crops(self) -> list[np.ndarray]:
        """Returns a copy of each box's part of the image, at least one pixel: RGB uint8 ``[h, w, 3]``."""
        from detection.drawing import covered_pixels

        image = self.image
        corners = [covered_pixels(box, image.shape[1], image.shape[0]) for box in self.boxes.tolist()]
        return [image[y1:y2, x1:x2].copy() for x1, y1, x2, y2 in corners]

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Returns COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``score`` of each.

        Boxes are rounded to 2 decimals and scores to 6, as in ``detections.json``.
        """
        if len(self) and not len(self.category_ids):
            raise UserError("these detections have no category ids: give them as Detections(..., category_ids=[…])")
        boxes, scores = (values.tolist() for values in rounded(self.boxes, self.scores))
        ids = np.asarray(self.category_ids)[self.labels.numpy()].tolist()
        image_id = image_id.item() if isinstance(image_id, np.generic) else image_id  # which json cannot write
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for category_id, box, score in zip(ids, boxes, scores, strict=True)
        ]

    def to_json(self) -> str:
        """Returns a JSON list of objects: ``name``, ``label``, ``score`` and ``box`` (x1, y1, x2, y2 in pixels)."""
        keys = ("name", "label", "score", "box")
        return json.dumps([dict(zip(keys, row, strict=True)) for row in self._rows()], ensure_ascii=False)

    def to_csv(self) -> str:
        """Returns CSV text with the columns name, label, score, x1, y1, x2, y2."""
        header = ("name", "label", "score", "x1", "y1", "x2", "y2")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *((*row[:3], *row[3]) for row in self._rows())])
        return text.getvalue()

    def to_supervision(self) -> supervision.Detections:
        """Returns them as ``supervision.Detections``, with the class names under ``data["class_name"]``.

        ``track_ids`` are its ``tracker_id``; the objects' positions are under ``data["row"]``, for ``tracked``.
        """
        try:
            from supervision import Detections as Supervision
        except ImportError as error:
            raise UserError("to_supervision needs supervision: pip install supervision") from error
        boxes, scores, labels = self.boxes.numpy(), self.scores.numpy(), self.labels.numpy()
        names = np.array(self.names, dtype=str)
        tracks = None if self.track_ids is None else self.track_ids.numpy()
        known = {"confidence": scores, "class_id": labels, "tracker_id": tracks}
        return Supervision(xyxy=boxes, **known, data={"class_name": names, "row": np.arange(len(self))})

    def tracked(self, result: supervision.Detections) -> Detections:
        """Returns the objects that a tracker has given an id, with ``track_ids``.

        Args:
            result: what a tracker made of ``to_supervision()``: some of these objects, in any order. UserError for
                other ones.
        """
        rows, tracks = result.data.get("row"), result.tracker_id
        if rows is None and len(result):
            raise UserError("these are no objects of to_supervision(), which numbers them as data['row']")
        if tracks is None and len(result):
            raise UserError("these objects have no tracker_id: give them to a tracker first")
        rows = np.asarray([] if rows is None else rows, np.int64)
        tracks = np.asarray([] if tracks is None else tracks, np.int64)
        if len(np.unique(rows)) < len(rows) or not ((rows >= 0) & (rows < len(self))).all():
            raise UserError("these are not this image's objects: give what the tracker made of its to_supervision()")
        sure = tracks >= 0  # trackers give -1 to what they do not follow yet
        return replace(self[rows[sure]], track_ids=torch.from_numpy(tracks[sure]))

    def to_torchvision(self) -> dict[str, Tensor]:
        """Returns a dict of ``boxes``, ``labels`` and ``scores``, as torchvision's detectors do.

        Labels are 0-based and have no background, unlike those of torchvision's own detectors, which begin at 1.
        """
        return {"boxes": self.boxes, "labels": self.labels, "scores": self.scores}

    def _rows(self) -> Iterator[tuple[str, int, float, list[float]]]:
        boxes, scores = self.boxes.double().numpy().round(BOX_DECIMALS), rounded(self.boxes, self.scores)[1]
        return zip(self.names, self.labels.tolist(), scores.tolist(), boxes.tolist(), strict=True)


def rounded(boxes: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Converts boxes ``[n, 4]`` (xyxy, pixels) and scores ``[n]`` to COCO's format in results files' precision.

    Returns:
        Boxes ``[n, 4]`` as x, y, width and height, and scores ``[n]``: float64.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return sides.round(BOX_DECIMALS), np.asarray(scores, np.float64).reshape(-1).round(SCORE_DECIMALS)

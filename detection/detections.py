"""What a detector found in an image."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in an image. Two are equal if all their values are; they cannot be hashed.

    Attributes:
        boxes: ``[n, 4]`` float32, xyxy in the image's pixels, inside the image.
        scores: ``[n]`` float32 in 0…1, descending.
        labels: ``[n]`` int64, 0-based.
        names: the n class names.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.scores)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        columns = (self.boxes, other.boxes), (self.scores, other.scores), (self.labels, other.labels)
        return self.names == other.names and all(a.dtype == b.dtype and a.equal(b) for a, b in columns)

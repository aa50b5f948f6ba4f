"""COCO-format images as the network's inputs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, get_worker_info

from detection.data.annotations import CocoAnnotations, ImageRecord, clip_boxes
from detection.data.augmentation import TrainingAugmentation
from detection.images import read_image
from detection.preprocess import to_input
from divdet.engine.progress import progress
from divdet.engine.sampling import derived_seed

CACHE_BYTES = 4 * 2**30

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


def read_record(record: ImageRecord) -> np.ndarray:
    """Reads a record's image, ``[H, W, 3]`` uint8 RGB, in the layout (EXIF) in which it was annotated."""
    size = (record.width, record.height) if record.width and record.height else None
    return read_image(record.path, size, record.upright)


class TrainingImages(Dataset):
    """Augmented training images, indexed by the keys of ``EpochSampler``. Crowd boxes are left out of the targets.

    ``seed`` is the run's. ``cache`` keeps decoded images in memory, as many as fit in ``CACHE_BYTES``.
    """

    def __init__(
        self, annotations: CocoAnnotations, augmentation: TrainingAugmentation, seed: int, cache: bool
    ) -> None:
        self.records, self.augmentation, self.seed = annotations.images, augmentation, seed
        self.cached: dict[int, np.ndarray] = {}
        room = CACHE_BYTES
        for index, record in enumerate(progress(self.records, "caching images", unit="image") if cache else ()):
            image = read_record(record)
            room -= image.nbytes
            if room < 0:
                print(f"data.cache: the first {index} of {len(self)} images fill its {CACHE_BYTES / 2**30:g} GiB")
                return
            self.cached[index] = image

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, number = key
        index = number % len(self)
        record = self.records[index]
        image = self.cached[index] if index in self.cached else read_record(record)
        boxes, kept = clip_boxes(record.boxes, image.shape[1], image.shape[0])
        kept = kept & ~record.crowd
        seed = derived_seed(self.seed, "augmentation", epoch, number)
        return self.augmentation(image, boxes[kept], record.labels[kept], seed)


class EvaluationImages(Dataset):
    """Evaluation images in order: ``(input [300, 300, 3] uint8, width, height)``."""

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, int]:
        image = read_record(self.records[index])
        return to_input(image), image.shape[1], image.shape[0]


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """Stacks: images ``[N, V, 300, 300, 3]`` uint8, boxes ``[N, M, 4]`` padded by 0, labels ``[N, M]`` by -1."""
    images = torch.from_numpy(np.stack([image for image, _, _ in samples]))
    boxes = pad_sequence([torch.from_numpy(boxes) for _, boxes, _ in samples], batch_first=True)
    labels = pad_sequence([torch.from_numpy(labels) for _, _, labels in samples], batch_first=True, padding_value=-1)
    if get_worker_info() is not None:
        # Workers return batches in shared memory. If it is full, only an error raised here reaches the main process.
        for part in (images, boxes, labels):
            part.share_memory_()
    return images, boxes, labels

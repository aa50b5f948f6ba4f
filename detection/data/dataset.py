"""COCO-format images as the network's inputs."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from detection.data.annotations import CocoAnnotations, ImageRecord, clip_boxes
from detection.data.augmentation import TrainingAugmentation
from detection.data.mixing import Labelled, mixup, mosaic
from detection.data.user_pipeline import UserPipeline
from detection.heads import Input
from detection.images import read_image
from detection.prediction_settings import ViewSettings
from detection.preprocess import to_input
from detection.views import Shown, cut_views
from divdet.engine.progress import progress
from divdet.engine.sampling import derived_seed

CACHE_BYTES = 4 * 2**30
_TRIALS = 8  # of the user's pipeline on the first image, before the training begins

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


def read_record(record: ImageRecord) -> np.ndarray:
    """Reads a record's image, ``[H, W, 3]`` uint8 RGB, in the layout (EXIF) in which it was annotated."""
    size = (record.width, record.height) if record.width and record.height else None
    return read_image(record.path, size, record.upright)


class TrainingImages(Dataset):
    """Augmented training images, indexed by the keys of ``EpochSampler``. Crowd boxes are left out of the targets.

    An image passes the user's pipeline, the mosaic, SSD's augmentation and mixup, in this order. ``seed`` is the run's.
    ``cache`` keeps decoded images in memory, as many as fit in ``CACHE_BYTES``.

    Raises:
        UserError: where the user's pipeline cannot be read or fails on the first image.
    """

    def __init__(
        self, annotations: CocoAnnotations, augmentation: TrainingAugmentation, seed: int, cache: bool
    ) -> None:
        self.records, self.augmentation, self.seed = annotations.images, augmentation, seed
        self.settings = augmentation.settings
        self.pipeline = UserPipeline(self.settings.albumentations) if self.settings.albumentations else None
        self.cached: dict[int, np.ndarray] = {}
        for trial in range(_TRIALS if self.pipeline else 0):
            self._read(0, derived_seed(seed, "trial", trial))
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
        view = self._view(*key, "")
        if not self.settings.mixup:
            return view
        random = np.random.default_rng(derived_seed(self.seed, "mixup", *key))
        if random.random() >= self.settings.mixup:
            return view
        other = key[1] // len(self) * len(self) + int(random.integers(len(self)))
        return mixup(view, self._view(key[0], other, f"mixup of {key[1]}"), random)

    def _view(self, epoch: int, number: int, purpose: str) -> Sample:
        """An augmented image; ``purpose`` tells its draws from those of other views of the same image."""
        own = derived_seed(self.seed, "augmentation", epoch, number, *([purpose] if purpose else []))
        image = self._read(number % len(self), own)
        if self.settings.mosaic:
            random = np.random.default_rng(derived_seed(own, "mosaic"))
            if random.random() < self.settings.mosaic:
                others = random.integers(len(self), size=3).tolist()
                parts = [image, *(self._read(index, derived_seed(own, n)) for n, index in enumerate(others))]
                image = mosaic(parts, random, self.augmentation.form)
        return self.augmentation(*image, own)

    def _read(self, index: int, seed: int) -> Labelled:
        """An image and its boxes in pixels, through the user's pipeline, whose draws ``seed`` determines."""
        record = self.records[index]
        image = self.cached[index] if index in self.cached else read_record(record)
        boxes, kept = clip_boxes(record.boxes, image.shape[1], image.shape[0])
        kept = kept & ~record.crowd
        boxes, labels = boxes[kept], record.labels[kept]
        return self.pipeline(image, boxes, labels, seed, str(record.path)) if self.pipeline else (image, boxes, labels)


class EvaluationImages(Dataset):
    """Evaluation images in order: ``(input [size, size, 3] uint8, width, height)``."""

    def __init__(self, records: Sequence[ImageRecord], form: Input) -> None:
        self.records, self.form = records, form

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int, int]:
        image = read_record(self.records[index])
        return to_input(image, self.form), image.shape[1], image.shape[0]


class EvaluationViews(IterableDataset):
    """Evaluation images in tiles and other views: batches of ``cut_views``, of which each data worker cuts its own.

    Images are numbered as the records are. Load it with ``batch_size=None``.
    """

    def __init__(self, records: Sequence[ImageRecord], views: ViewSettings, form: Input, batch_size: int) -> None:
        self.records, self.views, self.form, self.batch_size = records, views, form, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, list[Shown]]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        images = ((index, read_record(self.records[index])) for index in range(first, len(self.records), step))
        for inputs, shown in cut_views(images, self.views, self.form, self.batch_size):
            yield _shared(inputs), shown


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """Stacks: images ``[N, V, size, size, 3]`` uint8, boxes ``[N, M, 4]`` padded by 0, labels ``[N, M]`` by -1."""
    images = torch.from_numpy(np.stack([image for image, _, _ in samples]))
    boxes = pad_sequence([torch.from_numpy(boxes) for _, boxes, _ in samples], batch_first=True)
    labels = pad_sequence([torch.from_numpy(labels) for _, _, labels in samples], batch_first=True, padding_value=-1)
    return _shared(images), _shared(boxes), _shared(labels)


def _shared(part: Tensor) -> Tensor:
    """Workers return batches in shared memory. If it is full, only an error raised here reaches the main process."""
    return part if get_worker_info() is None else part.share_memory_()

"""Training images on one core, from file to the network's input: ours, the released ones and torchvision's.

    python benchmarks/data.py                            # about 3 minutes
    python benchmarks/data.py --images 16 --rounds 3     # a quick look

The released implementation's pipeline is restated here, in its order: PIL decodes, a crop that all boxes overlap by the
drawn IoU, flip, resize, changes of color (all by PIL), normalization by torch; targets are encoded image by image in
the worker. torchvision's is its references' preset for SSD, transforms v2 on tensors, then its SSD's resize.
Photos: COCO's of at most 384 pixels a side ($DIVDET_SHARED/data/coco_subset), and 7 at original size (demo_photos,
given three boxes each).
"""

import argparse
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import io, tv_tensors
from torchvision.ops import box_convert, box_iou
from torchvision.transforms import ColorJitter, v2
from torchvision.transforms import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import describe, machine, table
from classification.data.statistics import IMAGENET_STATISTICS
from detection.data.annotations import ImageRecord
from detection.data.augmentation import TrainingAugmentation
from detection.data.coco import load_annotations
from detection.data.dataset import EvaluationImages, TrainingImages, collate, read_record
from detection.default_boxes import ssd300_default_boxes
from detection.heads import Input
from detection.models.matcher import Matcher
from detection.preprocess import Normalize
from detection.settings import DataSettings
from divdet.engine.timing import side_by_side
from divdet.engine.tuning import keep_freed_memory

SIZE = 300
BATCH = 32


class Released:
    """The released implementation's pipeline; ``encode`` adds the targets that its workers make."""

    def __init__(self, encode: bool = True, augment: bool = True) -> None:
        self.corners = box_convert(ssd300_default_boxes(), "cxcywh", "xyxy") if encode else None
        self.augment = augment
        self.colours = ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05)

    def __call__(self, record: ImageRecord, epoch: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        image = Image.open(record.path).convert("RGB")
        kept = ~record.crowd
        boxes = torch.from_numpy(record.boxes[kept]) / torch.tensor(image.size * 2)
        labels = torch.from_numpy(record.labels[kept])
        if self.augment:
            image, boxes, labels = self._crop(image, boxes, labels)
            if random.random() < 0.5:
                image = F.hflip(image)
                boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([1, 0, 1, 0])
        image = F.resize(image, [SIZE, SIZE])
        if self.augment:
            image = self.colours(image)
        image = F.normalize(F.to_tensor(image), *IMAGENET_STATISTICS)
        return (image, boxes, labels) if self.corners is None else (image, *self.encode(boxes, labels))

    def encode(self, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Each default box's box, cx cy w h, and class."""
        classes, own = torch.zeros(len(self.corners), dtype=torch.int64), self.corners.clone()
        if len(boxes):
            overlap = box_iou(boxes, self.corners)
            best, truth = overlap.max(dim=0)
            chosen = overlap.argmax(dim=1)
            best[chosen] = 2
            truth[chosen] = torch.arange(len(boxes))
            positive = best > 0.5
            classes[positive] = labels[truth[positive]] + 1
            own[positive] = boxes[truth[positive]]
        return box_convert(own, "xyxy", "cxcywh"), classes

    @staticmethod
    def _crop(image: Image.Image, boxes: Tensor, labels: Tensor) -> tuple[Image.Image, Tensor, Tensor]:
        while len(boxes):
            least = random.choice((None, 0.1, 0.3, 0.5, 0.7, 0.9, -1.0))
            if least is None:
                break
            width, height = random.uniform(0.3, 1), random.uniform(0.3, 1)
            if not 0.5 <= width / height <= 2:
                continue
            left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
            window = torch.tensor([[left, top, left + width, top + height]])
            if not (box_iou(boxes, window) > least).all():
                continue
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = ((centres > window[:, :2]) & (centres < window[:, 2:])).all(1)
            if not inside.any():
                continue
            corners = window[0] * torch.tensor(image.size * 2)
            boxes = torch.minimum(torch.maximum(boxes[inside], window[:, [0, 1, 0, 1]]), window[:, [2, 3, 2, 3]])
            boxes = (boxes - window[:, [0, 1, 0, 1]]) / torch.tensor([width, height, width, height])
            return image.crop([int(corner) for corner in corners]), boxes, labels[inside]
        return image, boxes, labels


class Torchvision:
    """torchvision v2's pipeline for SSD."""

    def __init__(self, augment: bool = True) -> None:
        mean = [255 * value for value in IMAGENET_STATISTICS[0]]
        noise = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=mean), v2.RandomIoUCrop()]
        noise += [v2.RandomHorizontalFlip(0.5), v2.SanitizeBoundingBoxes()]
        resize = v2.Resize([SIZE, SIZE], antialias=True)
        self.transform = v2.Compose([*(noise if augment else []), resize, v2.ToDtype(torch.uint8)])

    def __call__(self, record: ImageRecord, epoch: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        image = io.decode_image(io.read_file(str(record.path)), io.ImageReadMode.RGB)
        kept = ~record.crowd
        boxes = tv_tensors.BoundingBoxes(record.boxes[kept], format="XYXY", canvas_size=image.shape[1:])
        target = {"boxes": boxes, "labels": torch.from_numpy(record.labels[kept])}
        image, target = self.transform(tv_tensors.Image(image), target)
        return image, target["boxes"] / SIZE, target["labels"]


class Ours:
    """``TrainingImages``; ``batch`` adds what then happens to a batch on the device: normalisation and targets."""

    def __init__(self, records: Sequence[ImageRecord], batch: bool = False) -> None:
        class Annotations:
            images = records

        self.data = TrainingImages(Annotations(), TrainingAugmentation(DataSettings()), seed=0, cache=False)
        self.matcher = Matcher(ssd300_default_boxes()) if batch else None
        self.normalize = Normalize()

    def __call__(self, epoch: int) -> None:
        for start in range(0, len(self.data), BATCH):
            samples = [self.data[epoch, index] for index in range(start, min(start + BATCH, len(self.data)))]
            images, boxes, labels = collate(samples)
            if self.matcher is not None:
                self.normalize(images.transpose(0, 1).contiguous())
                self.matcher(boxes, labels)


def coco(folder: Path, count: int) -> list[ImageRecord]:
    """Evenly spaced images of the validation part that have objects."""
    annotations = load_annotations(folder / "annotations/instances_val.json", folder / "images")
    records = [record for record in annotations.images if (~record.crowd).any()]
    return records[:: max(len(records) // count, 1)][:count]


def photos(folder: Path) -> list[ImageRecord]:
    """The photos of a folder with three boxes each, which lie where objects of photos do."""
    records = []
    for number, path in enumerate(sorted(folder.glob("*.jpg"))):
        with Image.open(path) as image:
            width, height = image.size
        shares = np.array([[0.2, 0.25, 0.7, 0.8], [0.5, 0.5, 0.6, 0.65], [0.1, 0.6, 0.4, 0.95]], np.float32)
        boxes = shares * np.array([width, height, width, height], np.float32)
        records.append(ImageRecord(number, path.name, path, width, height, boxes, np.arange(3), np.zeros(3, np.bool_)))
    return records


def check_equal(records: Sequence[ImageRecord]) -> str:
    """Without augmentation all three must give the same picture, but for decoders and filters, and the same boxes."""
    settings = DataSettings(photometric=False, zoom_out=0, iou_crop=0, flip=0)
    released, torchvision = Released(encode=False, augment=False), Torchvision(augment=False)
    plain, inputs = TrainingAugmentation(settings), EvaluationImages(records, Input())
    encode, matcher = Released().encode, Matcher(ssd300_default_boxes())
    std, mean = (torch.tensor(values)[:, None, None] for values in IMAGENET_STATISTICS[::-1])
    apart = {"released": 0.0, "torchvision": 0.0}
    for index, record in enumerate(records):
        kept = ~record.crowd
        (view,), boxes, labels = plain(read_record(record), record.boxes[kept], record.labels[kept], seed=0)
        assert np.array_equal(view, inputs[index][0]), "an unaugmented view is not the evaluation's input"
        picture, *found = released(record)
        assert torch.equal(encode(*found)[1], matcher(*(part[None] for part in found))[1][0]), "other targets"
        pictures = {"released": (255 * (picture * std + mean), *found), "torchvision": torchvision(record)}
        for name, (other, own_boxes, own_labels) in pictures.items():
            own = own_boxes.clamp(0, 1)
            own = own[((own[:, 2:] - own[:, :2]) >= 1 / SIZE).all(1)]
            assert len(own) == len(boxes), f"{name}: {len(own_labels)} objects, ours {len(labels)}"
            assert np.abs(own.numpy() - boxes).max(initial=0) < 1e-5, f"{name}: boxes are not ours"
            difference = np.abs(other.permute(1, 2, 0).numpy().astype(float) - view).mean()
            assert difference < 4, f"{name}: {record.path} is {difference:.1f} of 255 apart from ours"
            apart[name] = max(apart[name], difference)
    listed = ", ".join(f"{name} {value:.2f}" for name, value in apart.items())
    return f"{len(records)} images as they are: boxes equal; pixels at most so far apart on average: {listed} of 255"


def over(pipeline: Callable[[ImageRecord], object], records: Sequence[ImageRecord]) -> Callable[[], None]:
    """A pass over the images, batch by batch as a loader stacks them."""

    def run() -> None:
        for start in range(0, len(records), BATCH):
            torch.stack([pipeline(record)[0] for record in records[start : start + BATCH]])

    return run


def main() -> None:
    """Checks, times, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="of coco_subset")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does; the others have it, too
    random.seed(0)
    torch.manual_seed(0)
    data = Path(os.environ.get("DIVDET_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    print(describe(machine("opencv-python-headless", "pillow", "numpy")))
    for name, records in (
        ("photos of at most 384 pixels", coco(data / "coco_subset", arguments.images)),
        ("photos at original size", photos(data / "demo_photos")),
    ):
        print(f"\n{name}: {check_equal(records)}\n")
        epoch = iter(range(10**9))
        ours, whole = Ours(records), Ours(records, batch=True)
        ways = {
            "released": over(Released(), records),
            "torchvision v2": over(Torchvision(), records),
            "ours": lambda ours=ours, epoch=epoch: ours(next(epoch)),
            "ours, with the batch's normalisation and targets": lambda ours=whole, epoch=epoch: ours(next(epoch)),
        }
        timings = side_by_side(ways, "released", arguments.rounds, seconds=0)
        print(table(timings, "released"))
        rates = ", ".join(f"{timing.name} {1000 * len(records) / timing.median:.0f}" for timing in timings)
        print(f"\nimages a second: {rates}")
        torchvision, own = timings[1], timings[2]
        ratios = [a / b for a, b in zip(torchvision.milliseconds, own.milliseconds, strict=True)]
        print(
            f"ours is {timings[3].ratio:.2f} x released with what that does too (targets, normalisation), "
            f"{np.median(ratios):.2f} x torchvision v2"
        )


if __name__ == "__main__":
    main()

"""Training steps of SSD300 a second: with divdet's settings, without each, without all, and torchvision's SSD.

A step is what the network, the loss and the optimizer do; the training loop's logs and checkpoints are not in it.

Every way is a process of its own, since the allocator's setting and compiled code belong to a process; they step in
turn, one at a time. It first checks that all ways with the same network begin with the same loss. At the end it
shows which share of an epoch's time the loop waits for its data.
"""

import argparse
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.models.detection.ssd import SSDHead

from benchmarks.machine import describe, machine, table
from detection import create_ssd
from detection.data.augmentation import TrainingAugmentation
from detection.data.coco import load_annotations
from detection.data.dataset import TrainingImages, collate
from detection.data.synthetic import generate
from detection.default_boxes import BOXES_PER_CELL, ssd300_default_boxes
from detection.models.matcher import Matcher
from detection.models.multibox_loss import multibox_loss
from detection.preprocess import Normalize
from detection.settings import DataSettings, DetectionTrainSettings
from divdet.engine.devices import autocast, precision_dtype, resolve_device
from divdet.engine.distributed import World
from divdet.engine.loop import training_loader
from divdet.engine.optimization import build_optimizer
from divdet.engine.timing import side_by_side
from divdet.engine.tuning import keep_freed_memory

CLASSES = 80
PLAIN = "plain loop"
# Of divdet's settings, what each way has: channels_last, the allocator's setting, the fused optimizer, compile.
WAYS = {
    PLAIN: "",
    "divdet": "clast alloc fused",
    "divdet without channels_last": "alloc fused",
    "divdet without the allocator's setting": "clast fused",
    "divdet without fused SGD": "clast alloc",
    "divdet with train.compile": "clast alloc fused compile",
}
SINGLE, PEER = "divdet, S=1", "torchvision's SSD, the same backbone, S=1"
TUNED_PEER = f"{PEER}, with channels_last, the allocator's setting and fused SGD"


class Levels(nn.Module):
    """A member's backbone and the extra layers as a backbone of torchvision's SSD: six feature maps by name."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        ssd = create_ssd(backbone, 1, CLASSES)
        self.member, self.extras = ssd.members[0], ssd.extras
        self.channels = [head.in_channels for head in ssd.loc]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        levels = [self.member(images)]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        return OrderedDict((str(number), level) for number, level in enumerate(levels))


def batch(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random images uint8 ``[N, 300, 300, 3]``, five boxes each ``[N, 5, 4]`` (xyxy, 0…1), labels ``[N, 5]``."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(size, 5, 2, generator=generator) * 0.6
    boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand(size, 5, 2, generator=generator)], -1)
    images = torch.randint(0, 256, (size, 300, 300, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (size, 5), generator=generator)
    return images.to(device), boxes.to(device), labels.to(device)


def stepper(way: str, arguments: argparse.Namespace) -> Callable[[], float]:
    """A training step of that way, which returns its loss."""
    device = resolve_device(arguments.device)
    options = WAYS.get(way, WAYS["divdet"] if way in (SINGLE, TUNED_PEER) else "").split()
    if "alloc" in options and device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    images, boxes, labels = batch(arguments.batch_size, device)
    dtype = precision_dtype(arguments.precision, device, training=True)
    if way in (PEER, TUNED_PEER):
        return peer(arguments, way == TUNED_PEER, device, dtype, images, boxes, labels)
    model = create_ssd(arguments.backbone, 1 if way == SINGLE else arguments.members, CLASSES).to(device).train()
    if "clast" in options:
        model = model.to(memory_format=torch.channels_last)
    settings = DetectionTrainSettings(lr=1e-3)
    optimizer = build_optimizer(model, settings, settings.weight_decay, scaled="fused" not in options)
    network = torch.compile(model) if "compile" in options else model
    matcher, normalize = Matcher(ssd300_default_boxes().to(device)), Normalize().to(device)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast(dtype, device):
            inputs = normalize(images)
            outputs = network(inputs if "clast" in options else inputs.contiguous())
            loss = multibox_loss(*outputs, *matcher(boxes, labels))["loss"]
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def peer(
    arguments: argparse.Namespace,
    tuned: bool,
    device: torch.device,
    dtype: torch.dtype | None,
    images: Tensor,
    boxes: Tensor,
    labels: Tensor,
) -> Callable[[], float]:
    """A step of torchvision's SSD with its own loss and transform; ``tuned``: with what divdet's loop sets."""
    levels = Levels(arguments.backbone)
    anchors = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    head = SSDHead(levels.channels, list(BOXES_PER_CELL), CLASSES + 1)
    model = TorchvisionSSD(levels, anchors, (300, 300), CLASSES + 1, head=head).to(device).train()
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4, fused=tuned)
    pictures = list(images.permute(0, 3, 1, 2).float().div(255))
    targets = [{"boxes": 300 * own, "labels": kind + 1} for own, kind in zip(boxes, labels, strict=True)]

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast(dtype, device):
            loss = sum(model(pictures, targets).values())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def serve(way: str, arguments: argparse.Namespace, connection: Connection) -> None:
    """Does a step for each message, and answers with its loss, until the other side closes."""
    step = stepper(way, arguments)
    while connection.recv():
        connection.send(step())


class Way:
    """A process that steps when it is called."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        # Forking spares the imports; CUDA does not survive it.
        context = get_context("spawn" if torch.cuda.is_available() else "fork")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(name, arguments, other), daemon=True)
        self.process.start()
        other.close()  # so that its end is noticed here

    def __call__(self) -> float:
        self.connection.send(True)
        return self.connection.recv()

    def close(self) -> None:
        """Ends the process."""
        self.connection.send(False)
        self.process.join()


def data_wait(arguments: argparse.Namespace) -> tuple[float, float]:
    """Images a second of an epoch on generated data, augmentation in the loader's processes included, and the share of
    its time in which the loop waited for a batch. The first batches, with which the processes start, do not count.
    """
    device = resolve_device(arguments.device)
    step = stepper("divdet", arguments)
    settings = DetectionTrainSettings(batch_size=arguments.batch_size, workers=arguments.workers)
    count = arguments.batch_size * (arguments.epoch_batches + 4)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), count, 1)
        names = (f"{folder}/annotations/instances_train.json", f"{folder}/images/train")
        annotations = load_annotations(*names)
        images = TrainingImages(annotations, TrainingAugmentation(DataSettings(), 1), 0, False)
        loader = training_loader(images, settings, 0, device, World(), collate_fn=collate)
        loader.sampler.epoch = loader.sampler.start = 0
        batches = iter(loader)
        for _ in range(3):
            next(batches)
            step()
        began, waited = time.perf_counter(), 0.0
        for _ in range(arguments.epoch_batches):
            asked = time.perf_counter()
            next(batches)
            waited += time.perf_counter() - asked
            step()
        total = time.perf_counter() - began
        del batches, loader
    return arguments.batch_size * arguments.epoch_batches / total, waited / total


def main() -> None:
    """Measures and prints."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="wrn50_2" if cuda else "resnet18_32")
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=32 if cuda else 4)
    parser.add_argument("--precision", default="auto", help="of all ways, torchvision's too")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=15 if cuda else 9)
    parser.add_argument("--workers", type=int, default=8 if cuda else 1, help="processes that load data")
    parser.add_argument("--epoch_batches", type=int, default=30 if cuda else 12, help="of the measured data wait")
    parser.add_argument("--compile", action="store_true", default=cuda, help="time train.compile too (on a GPU always)")
    arguments = parser.parse_args()
    names = [
        name for name in (*WAYS, SINGLE, PEER, TUNED_PEER) if arguments.compile or "compile" not in WAYS.get(name, "")
    ]
    ways = {name: Way(name, arguments) for name in names}
    print(describe(machine()))
    print(f"SSD300, {arguments.backbone}, S={arguments.members}, batch {arguments.batch_size}, {arguments.precision}\n")
    losses = {name: way() for name, way in ways.items()}
    for name in WAYS.keys() & losses.keys():
        if abs(losses[name] / losses[PLAIN] - 1) > (1e-4 if not cuda else 2e-2):
            raise SystemExit(f"{name}: its first loss is {losses[name]}, the plain loop's {losses[PLAIN]}")
    print(f"the first loss of all ways with S={arguments.members} is {losses[PLAIN]:.6g}\n")
    timings = side_by_side(ways, PLAIN, arguments.rounds, seconds=0)
    print(table(timings, PLAIN) + "\n")
    for timing in timings:
        print(f"{1000 * arguments.batch_size / timing.median:8.4g} images/s  {timing.name}")
    alone = {timing.name: timing.milliseconds for timing in timings}
    print()
    for other in (PEER, TUNED_PEER):
        ratios = sorted(peer / own for own, peer in zip(alone[SINGLE], alone[other], strict=True))
        print(f"{SINGLE}: {ratios[len(ratios) // 2]:.3g} times {other}")
    for way in ways.values():
        way.close()
    rate, share = data_wait(arguments)
    print(f"an epoch with its data: {rate:.4g} images/s; {100 * share:.2g} % of the time is spent waiting for a batch")


if __name__ == "__main__":
    main()

"""Training of a detector with S members."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from classification.backbones import TIMM
from classification.backbones.timm_models import check_copies_differ, note_other_division
from classification.dividing import check_start
from classification.foreign_weights import PIP
from classification.losses import cot_weight_at
from detection.data.annotations import CocoAnnotations
from detection.data.augmentation import TrainingAugmentation
from detection.data.dataset import TrainingImages, collate
from detection.data.prepare import read_splits
from detection.data.sampling import repeat_factors, take_fraction
from detection.detector import Detector, create_model
from detection.evaluation.evaluate import Evaluation, score
from detection.heads import find_head, input_of, title_of
from detection.models.head import DividedDetector, LossOptions
from detection.models.matcher import losses_of_members
from detection.preprocess import Normalize
from detection.settings import TrainDetection
from detection.training.class_weights import class_weights
from detection.training.pretrained import load_pretrained, load_slices
from divdet.engine import batch_norm, freezing
from divdet.engine.best import Best
from divdet.engine.callbacks import Callback
from divdet.engine.devices import resolve_precision
from divdet.engine.distributed import World, keep_local
from divdet.engine.errors import UserError
from divdet.engine.fingerprint import digest_file
from divdet.engine.launch import processes
from divdet.engine.loggers import check_loggers
from divdet.engine.loop import fit, training_loader
from divdet.engine.members import present
from divdet.engine.run_folder import RunFolder, run_path
from divdet.engine.sampling import derived_seed, epoch_length
from divdet.engine.schedule import steps_per_epoch

_MUCH_FOR_A_CPU = 10_000_000  # parameters; SSD300 on WRN-50-2 has 32 million


@dataclass(eq=False)
class DetectionTask:
    """What the training loop needs of detection (see ``divdet.engine.task.Task``).

    Attributes:
        evaluation: the best of this process, complete on the main one; None before the first.
    """

    config: TrainDetection
    detector: Detector
    training: CocoAnnotations
    ground_truth: CocoAnnotations
    meta: dict[str, Any]
    world: World
    evaluation: Evaluation | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.best_metric = None if self.ground_truth.truth.crowd.all() else "AP"
        self._best = Best(self.best_metric)
        self.model = self.network = self.detector.model
        self.weight_decay = self.config.train.weight_decay
        self.sliced = bool(self.config.model.divide_from)
        self.lr_factors = {"members.": self.config.train.backbone_lr}
        weights = class_weights(self.training, self.config.train.class_weights)
        self.class_weights = None if weights is None else weights.to(self.detector.device)
        self.normalize = Normalize().to(self.detector.device)
        spec = find_head(self.config.model.head)
        self.sizes = spec.sizes_around(self.model.input.size, self.config.train.multi_scale)

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], epoch: float) -> dict[str, Tensor]:
        """The head's loss of a batch of ``collate``."""
        images, boxes, labels = (part.to(self.detector.device, non_blocking=True) for part in batch)
        views = self.normalize(images.transpose(0, 1).contiguous())
        size = self.sizes[int(torch.randint(len(self.sizes), ()))] if len(self.sizes) > 1 else self.sizes[0]
        self.world.reseed()
        if size == self.model.input.size:
            return self._losses(views, boxes, labels, epoch)
        with self.model.at_size(size):
            views = F.interpolate(views.flatten(0, 1), size, mode="bilinear").unflatten(0, views.shape[:2])
            return self._losses(views, boxes, labels, epoch)

    def _losses(self, views: Tensor, boxes: Tensor, labels: Tensor, epoch: float) -> dict[str, Tensor]:
        outputs = self.network(views if len(views) > 1 else views[0])
        settings = self.config.train
        options = LossOptions(settings.neg_to_pos_ratio, self.class_weights)
        if settings.cot_weight and len(self.model.members) > 1:
            weight = cot_weight_at(epoch, settings.cot_weight, settings.cot_warmup_epochs)
            outputs = [self.world.gather_members(output) for output in outputs]
            return self.model.loss(*outputs, boxes, labels, replace(options, cot_weight=weight))
        own = self.model.loss(*outputs, boxes, labels, options)
        if self.world.members == 1:
            return own
        gathered = self.world.gather_members(torch.stack(list(own.values()))[None])  # [S, losses]
        total = dict(zip(own, gathered.sum(0), strict=True))
        return total | losses_of_members(gathered[:, list(own).index("loss")])

    def evaluate(self) -> dict[str, Any]:
        """The 12 COCO numbers of the fused boxes, and each member's AP."""
        self.model.eval()
        settings = self.config.train
        found = score(self.detector, self.ground_truth, settings.batch_size, settings.workers, self.world)
        members = {f"AP_member{i + 1}": member["AP"] for i, member in enumerate(found.metrics["members"])}
        line = {name: value for name, value in found.metrics.items() if isinstance(value, float)} | members
        if self._best.take(line):
            self.evaluation = found
        return line

    def name(self, index: int) -> str:
        """What a user calls a training image."""
        return str(self.training.images[index].path)


def freeze_backbones(model: DividedDetector, stages: int | Literal["all"]) -> None:
    """Takes the first ``stages`` of every member out of the training; raises UserError where there are fewer."""
    members = [member for _, member in present(model.members)] if stages else []
    if stages == "all":
        freezing.freeze(members)
        return
    told = set()
    for member in members:
        parts = freezing.stages(getattr(member, "network", member))  # timm's network is wrapped
        if stages > len(parts):
            raise UserError(f"train.freeze is {stages}, but the backbone has {len(parts)} stages: lower it, or set all")
        freezing.freeze(part for stage in parts[:stages] for part in stage.values())
        told.add(f"train.freeze {stages} of {len(parts)} stages: {freezing.in_words(parts[:stages])}")
    for line in sorted(told):
        print(line)


def _check_options(config: TrainDetection, model: DividedDetector) -> None:
    """Raises UserError for an option that does nothing with the head."""
    share, size = config.train.multi_scale, model.input.size
    if share and len(find_head(config.model.head).sizes_around(size, share)) == 1:
        raise UserError(
            f"train.multi_scale is {share}: no multiple of 32 lies so near {size} pixels; raise it, or set 0"
        )
    for name in model.unused_options:
        if name in ("cot_weight", "class_weights") and getattr(config.train, name):
            raise UserError(f"train.{name} does nothing with model.head {config.model.head}: leave it out")


def train(
    config: TrainDetection,
    finish: Callable[[DetectionTask, Path], object] | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Trains a detector; returns the last epoch's metrics. ``divdet.engine.run_folder`` describes the run's folder.

    The main process calls ``finish`` with the task and the folder, if it has evaluated anything, and ``callbacks``
    during the training.
    """
    check_loggers(config.train.loggers)
    check_start(config.model.divide_from, config.model.pretrained, config.train.freeze)
    with processes(config.device, config.model.members, config.train.member_parallel) as (world, device):
        metrics, task, folder = _train(config, world, device, callbacks)
    if finish and world.is_main_process and task.evaluation:  # the other processes need not wait
        finish(task, folder)
    return metrics


def _train(
    config: TrainDetection, world: World, device: torch.device, callbacks: Sequence[Callback]
) -> tuple[dict[str, Any], DetectionTask, Path]:
    if config.model.members * config.train.batch_size < 2 and config.train.batch_norm != "frozen":
        raise UserError(
            "train.batch_size is 1 with one member: batch normalization needs at least 2 images a step, unless "
            "train.batch_norm is frozen"
        )
    size = input_of(config.model.head, config.model.input_size).size
    config = replace(config, model=replace(config.model, input_size=size))
    precision = resolve_precision(config.train.precision, device, training=True)
    data = config.data
    training, ground_truth = read_splits(data, run_path(config, "detection"), world)
    training = take_fraction(training, config.train.fraction, config.seed)
    repeats = repeat_factors(training, data.class_balanced)
    config = replace(config, train=replace(config.train, precision=precision))  # what auto meant, for config.yaml
    if ground_truth.truth.crowd.all():
        print(f"note: {ground_truth.path} has no object, so AP is -1 in every epoch: best.pt is the newest epoch's")

    categories = zip(training.category_ids, training.names, strict=True)
    meta = {"categories": [{"id": number, "name": name} for number, name in categories]}
    splits = {"training": training, "validation": ground_truth} if world.is_main_process else {}  # it alone compares
    fingerprints = {name: split.fingerprint() for name, split in splits.items()}
    if data.albumentations and os.path.isfile(data.albumentations):  # the data set says where it is not
        fingerprints["data.albumentations"] = digest_file(data.albumentations)
    steps = steps_per_epoch(epoch_length(len(training.images), repeats), config.train, world.replicas)
    folder = RunFolder(config, "detection", meta, fingerprints, steps)
    config = folder.config
    torch.manual_seed(derived_seed(config.seed, "weights"))
    fetched = config.model.pretrained == "timm" and not folder.resumed
    if config.model.pretrained in ("timm", PIP) and not folder.resumed:
        check_copies_differ(config.model.backbone, config.model.members, config.data.different_views)
    model = create_model(config.model, len(training.names), fetched)
    if config.model.backbone.startswith(TIMM):
        note_other_division(config.model.backbone, config.model.members)
    _check_options(config, model)
    if config.model.pretrained not in (None, "timm") and not folder.resumed:
        views = config.data.different_views
        load_pretrained(model, config.model.pretrained, config.model.backbone, training.names, views)
    if config.model.divide_from and not folder.resumed:
        load_slices(model, config.model.divide_from, config.model.backbone, derived_seed(config.seed, "dividing"))
    if config.train.cot_weight and config.model.members == 1:
        print("note: train.cot_weight does nothing with one member")
    start = f"weights from {config.model.pretrained}" if config.model.pretrained else "from scratch"
    start = f"slices of {config.model.divide_from}" if config.model.divide_from else start
    start = "as resumed" if folder.resumed else start
    parameters = sum(parameter.numel() for parameter in model.parameters())
    title = title_of(config.model.head, config.model.input_size)
    print(f"{title}, {config.model.backbone}, S={config.model.members}: {parameters / 1e6:.2f} M parameters, {start}")
    if device.type == "cpu" and parameters > _MUCH_FOR_A_CPU:
        print("note: a step of a network of this size takes many seconds on a CPU; --config bccd has a small one")
    for layers in filter(None, (model.members, model.adapters)):
        keep_local(layers, world)
    freeze_backbones(model, config.train.freeze)
    if config.train.freeze and not config.model.pretrained:
        print("note: train.freeze keeps stages that were not pretrained (model.pretrained) as they are drawn at random")
    if not (config.model.pretrained or config.model.divide_from):
        batch_norm.note_fresh(config.train.batch_norm)
    detector = Detector(model, training.names, training.category_ids, config.postprocess, device)
    task = DetectionTask(config, detector, training, ground_truth, meta, world)
    images = TrainingImages(
        training, TrainingAugmentation(data, config.model.members, model.input), config.seed, data.cache
    )
    loader = training_loader(images, config.train, config.seed, device, world, repeats, collate_fn=collate)
    return fit(task, loader, folder, device, world, callbacks), task, folder.path

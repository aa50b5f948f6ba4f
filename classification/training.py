"""Co-training of a divided network (paper, Sec. III-B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from classification.backbones import TIMM
from classification.backbones.dividing import divide_weight_decay
from classification.backbones.timm_models import check_copies_differ, note_other_division, output_shape, statistics
from classification.data.datasets import default_image_size, load_training_images
from classification.data.views import SMALL, EvaluationViews, TrainingViews, erase, mixup, network_inputs
from classification.dividing import check_start, divided_weights
from classification.ensemble import Ensemble, create_ensemble
from classification.evaluation import FORM_DATASETS, load_ensemble, measure
from classification.foreign_weights import PIP, foreign_weights
from classification.losses import co_training_loss, cot_weight_at
from classification.settings import TrainClassification
from divdet.engine.batch_norm import note_fresh
from divdet.engine.callbacks import Callback
from divdet.engine.checkpoint import load_weights
from divdet.engine.class_rows import match_classes, take_rows
from divdet.engine.devices import resolve_precision
from divdet.engine.distributed import World, keep_local
from divdet.engine.errors import UserError
from divdet.engine.launch import processes
from divdet.engine.loading import Loader
from divdet.engine.loggers import check_loggers
from divdet.engine.loop import fit, training_loader
from divdet.engine.normalize import normalize
from divdet.engine.run_folder import RunFolder
from divdet.engine.sampling import derived_seed
from divdet.engine.schedule import steps_per_epoch
from divdet.engine.words import named


class CoTraining:
    """What the training loop needs to co-train an ensemble (`divdet.engine.task.Task`).

    Args:
        model: the ensemble, on its device.
        meta: what a checkpoint needs to be used alone: ``classes`` (names by label), ``stem`` (cifar or imagenet), and
            the inputs (see `network_inputs`).
        evaluation: batches of `EvaluationViews`, this replica's part of them.
    """

    best_metric = "top1"
    lr_factors: ClassVar[dict[str, float]] = {}

    def __init__(
        self,
        model: Ensemble,
        config: TrainClassification,
        meta: dict[str, Any],
        evaluation: Loader,
        views: TrainingViews,
        world: World,
    ) -> None:
        self.model, self.network, self.meta, self.settings = model, model, meta, config.train
        self.evaluation, self.views, self.world, self.erasing = evaluation, views, world, config.data.erasing > 0
        decay, division = config.train.weight_decay, config.train.weight_decay_division
        self.weight_decay = divide_weight_decay(decay, config.model.members, division)
        self.sliced = bool(config.model.divide_from)
        self.device = next(model.parameters()).device
        self.mean, self.std = (torch.tensor(meta[key], device=self.device) for key in ("mean", "std"))

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], epoch: float) -> dict[str, Tensor]:
        """``loss``, ``ce`` and ``cot`` of a batch of `TrainingViews`: [N,V,H,W,3], rectangles [N,V,4], labels [N]."""
        views, erased, targets = (part.to(self.device, non_blocking=True) for part in batch)
        images = normalize(views.transpose(0, 1).contiguous(), 255 * self.mean, 255 * self.std)
        if self.erasing:
            images = erase(images, erased.transpose(0, 1))
        if self.settings.mixup:
            images, targets = mixup(images, targets, len(self.meta["classes"]), self.settings.mixup)
        self.world.reseed()  # until here all processes of a replica draw alike, from here on differently (dropout)
        logits = self.world.gather_members(self.network(images if len(images) > 1 else images[0]))
        weight = cot_weight_at(epoch, self.settings.cot_weight, self.settings.cot_warmup_epochs)
        return co_training_loss(logits, targets, weight, self.settings.label_smoothing, self.settings.cot_loss)

    def evaluate(self) -> dict[str, Any]:
        """Metrics of the evaluation images; ``top1_member1`` and so on are the members'."""
        classes = len(self.meta["classes"])
        with self.evaluation:
            metrics = measure(self.model, self.evaluation, self.mean, self.std, classes, world=self.world)
        members = {f"top1_member{i}": member["top1"] for i, member in enumerate(metrics["members"], 1)}
        return {key: metrics[key] for key in ("top1", "top5", "cosine_similarity")} | members

    def name(self, index: int) -> str:
        """What a user calls a training image."""
        return self.views.images.name(index)


def train(config: TrainClassification, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Runs a recipe, in which the main process calls ``callbacks``; returns the last epoch's metrics."""
    check_loggers(config.train.loggers)
    model = config.model
    check_start(model.divide_from, model.pretrained, 0, model.same_initialization)
    with processes(config.device, config.model.members, config.train.member_parallel) as (world, device):
        return _train(config, world, device, callbacks)


def _train(
    config: TrainClassification, world: World, device: torch.device, callbacks: Sequence[Callback]
) -> dict[str, Any]:
    images, evaluation_images = load_training_images(config.data, config.seed)
    if config.train.batch_size < 2:
        raise UserError("train.batch_size is 1: batch normalization needs at least 2 images a step")
    size = default_image_size(config.data, images)
    stem = config.model.stem
    if stem == "auto":
        stem = "cifar" if size <= SMALL and config.data.dataset != "imagenet" else "imagenet"
    backbone, members, pretrained = config.model.backbone, config.model.members, config.model.pretrained
    inputs = network_inputs(config.data, size, statistics(backbone) if backbone.startswith(TIMM) else None)
    if pretrained in ("timm", PIP):
        check_copies_differ(backbone, members, config.data.different_views)
    meta = {"classes": images.classes, "stem": stem} | inputs
    config = replace(  # config.yaml says what auto stood for
        config,
        model=replace(config.model, stem=stem),
        data=replace(config.data, **inputs, **config.data.erased()),
        train=replace(config.train, precision=resolve_precision(config.train.precision, device, training=True)),
    )
    data = {}
    if world.is_main_process:  # which alone compares and saves it
        data = {"training": images.fingerprint(), "validation": evaluation_images.fingerprint()}
    steps = steps_per_epoch(len(images), config.train, world.replicas)
    folder = RunFolder(config, "classification", meta, data, steps)
    config = folder.config
    torch.manual_seed(derived_seed(config.seed, "weights"))
    fetched = pretrained == "timm" and not folder.resumed
    options = {"dropout": config.model.dropout, "drop_path": config.model.drop_path, "pretrained": fetched}
    model = create_ensemble(backbone, members, len(images.classes), FORM_DATASETS[stem], **options)
    if backbone.startswith(TIMM):  # whose models may refuse the size
        note_other_division(backbone, members)
        output_shape(model, f"data.image_size: {backbone}", size)
    if pretrained not in (None, "timm") and not folder.resumed:
        if found := foreign_weights(pretrained, backbone, members, config.data.different_views):
            load_plain(model, found)
        else:
            load_pretrained(model, pretrained, images.classes)
    if config.model.divide_from and not folder.resumed:
        load_slices(model, config, images.classes)
    if config.model.same_initialization:
        for number, member in enumerate(model.members, 1):
            what = f"model.same_initialization: member {number} of {backbone}"
            load_weights(member, model.members[0].state_dict(), what)
        if members > 1 and not config.data.different_views:
            print("note: members that start alike and see the same views stay alike, but for what dropout draws")
    if not (pretrained or config.model.divide_from):
        note_fresh(config.train.batch_norm)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    start = f", slices of {config.model.divide_from}" if config.model.divide_from and not folder.resumed else ""
    print(
        f"{backbone}, S={members}{start}: {parameters / 1e6:.2f} M parameters, {device}; "
        f"{len(images)} training and {len(evaluation_images)} evaluation images of {len(images.classes)} classes"
    )
    for part, own in (("training", images), ("evaluation", evaluation_images)):
        counts = np.bincount(own.labels, minlength=len(own.classes)).tolist()
        if absent := [name for name, count in zip(own.classes, counts, strict=True) if not count]:
            print(f"note: {len(absent)} of {len(counts)} classes have no {part} image ({named(absent)})")
    views = TrainingViews(images, config.data, size, members, config.seed)
    keep_local(model.members, world)
    own = range(world.replica, len(evaluation_images), world.replicas)
    own_views = Subset(EvaluationViews(evaluation_images, size, meta["eval_resize"], meta["interpolation"]), own)
    evaluation = Loader(own_views, config.train.batch_size, config.train.workers, device)
    task = CoTraining(model.to(device), config, meta, evaluation, views, world)
    loader = training_loader(views, config.train, config.seed, device, world)
    return fit(task, loader, folder, device, world, callbacks)


def load_plain(model: Ensemble, found: Sequence[tuple[str, dict[str, Tensor]]]) -> None:
    """Loads the members' weights of `foreign_weights`, all but the classifiers, whose classes are others."""
    for member, (source, weights) in zip(model.members, found, strict=True):
        heads = tuple(f"{name}." for name in _classifiers(member))
        fresh = {key: value for key, value in member.state_dict().items() if key.startswith(heads)}
        load_weights(member, {key: v for key, v in weights.items() if not key.startswith(heads)} | fresh, source)


def load_slices(model: Ensemble, config: TrainClassification, classes: Sequence[str]) -> None:
    """Loads slices of what ``model.divide_from`` names, its classifier by class name where the names are known."""
    path, seed = config.model.divide_from, derived_seed(config.seed, "dividing")
    trained, found = divided_weights(path, config.model.backbone, len(model.members), seed)
    if trained.stem not in (None, config.model.stem):
        raise UserError(
            f"{path}: was trained with model.stem = {trained.stem}, not {config.model.stem}; make them equal"
        )
    pairs = [] if trained.classes is None else match_classes(classes, trained.classes, path)
    for number, (member, weights) in enumerate(zip(model.members, found, strict=True), 1):
        own = member.state_dict()
        for key in (f"{name}.{part}" for name in _classifiers(member) for part in ("weight", "bias")):
            weights[key] = take_rows(own[key], weights[key], pairs)
        load_weights(member, weights, f"{path} (member {number})")


def load_pretrained(model: Ensemble, path: str, classes: Sequence[str]) -> None:
    """Loads a checkpoint's weights, those of the classifiers by class name; new classes keep their fresh weights."""
    source, saved = load_ensemble(path)
    if len(source.members) != len(model.members):
        raise UserError(
            f"{path}: holds {len(source.members)} members where model.members is {len(model.members)}; make them equal"
        )
    weights, own = source.state_dict(), model.state_dict()
    pairs = match_classes(classes, saved.meta["classes"], path)
    for number, member in enumerate(model.members):
        for name in _classifiers(member):
            for key in (f"members.{number}.{name}.weight", f"members.{number}.{name}.bias"):
                if key in own and key in weights and weights[key].shape[1:] == own[key].shape[1:]:
                    weights[key] = take_rows(own[key], weights[key], pairs)
    load_weights(model, weights, path)


def _classifiers(member: nn.Module) -> list[str]:
    """Names of the layers with a row for each class: the last linear layer, or what a timm model says."""
    modules = dict(member.named_modules())
    if not hasattr(member, "get_classifier"):
        return [name for name, layer in modules.items() if isinstance(layer, nn.Linear)][-1:]
    found = member.get_classifier()
    heads = found if isinstance(found, tuple) else (found,)
    return [name for name, layer in modules.items() if layer in heads]

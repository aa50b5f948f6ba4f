"""Accuracies of the members and of their ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from classification.config import EvaluateClassification
from classification.datasets import check_classes, load_images
from classification.ensemble import Ensemble, EnsembleOfEnsembles, combine, cosine_similarity, create_ensemble
from classification.views import EvaluationViews, normalize
from engine import checkpoint as checkpoints
from engine.concurrency import beside, concurrent
from engine.devices import Precision, autocast, precision_dtype, resolve_device, resolve_precision
from engine.distributed import World
from engine.errors import UserError
from engine.files import make_folder, write_json
from engine.loading import Loader
from engine.memory import keep_freed_memory
from engine.progress import progress

# Name in metrics.json -> arguments of ``combine`` (Table VI)
RULES: dict[str, dict[str, Any]] = {
    "mean": {"how": "mean"},
    "mean_softmax": {"how": "mean", "softmax": True},
    "max": {"how": "max"},
    "max_softmax": {"how": "max", "softmax": True},
    "geometric": {"how": "geometric"},
}
# What an Ensemble's dataset argument is for each form of the network
FORM_DATASETS = {"cifar": "cifar10", "imagenet": "imagenet"}


@torch.no_grad()
def measure(
    model: Ensemble | EnsembleOfEnsembles,
    loader: DataLoader,
    mean: Tensor,
    std: Tensor,
    precision: Precision = "auto",
    world: World | None = None,
) -> dict[str, Any]:
    """Evaluates on every image of ``loader``, which gives batches as `EvaluationViews`; in a ``world`` of several
    processes on the images of all of their loaders together.

    Returns:
        ``top1`` and ``top5`` of the ensemble (mean of logits), ``members`` (a list of the same), ``combine`` (top1 by
        rule), all in percent; ``cosine_similarity`` of the members' logits in -1…1, None for a single member;
        ``images``. With fewer than 5 classes ``top5`` counts among all of them, so it is 100.

    Raises:
        UserError: where the network's outputs are not finite.
    """
    world, device = world or World(), mean.device
    dtype = precision_dtype(precision, device)
    model.eval()
    members = len(model.members)
    images, similarity = 0, 0.0
    rules = dict.fromkeys(RULES, 0.0)
    top = torch.zeros(members + 1, 2)  # images right among the first 1 and 5; the ensemble's in the last row
    for views, labels in progress(loader, "evaluating", unit="batch"):
        views, labels = views.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with autocast(dtype, device):
            logits = model(beside(model.concurrent, views.device, normalize, views, mean, std))
        logits = world.gather_members(logits.float())
        if not torch.isfinite(logits).all():
            raise UserError("the network's outputs are not finite: its weights are damaged, or training diverged")
        scores = {name: combine(logits, **arguments) for name, arguments in RULES.items()}
        for name, values in scores.items():
            rules[name] += _count(values, labels, 1)
        for row, values in enumerate([*logits, scores["mean"]]):
            top[row] += torch.tensor([_count(values, labels, k) for k in (1, 5)])
        images += len(labels)
        similarity += (cosine_similarity(logits) or 0.0) * len(labels)
    # Each process of a replica has counted all members.
    counts = torch.cat([top.flatten().double(), torch.tensor([*rules.values(), images, similarity]).double()])
    counts = world.sum(counts.to(device)).cpu() / world.members
    top = counts[: top.numel()].view_as(top)
    *right, images, similarity = counts[top.numel() :].tolist()
    images, rules = round(images), dict(zip(rules, right, strict=True))
    accuracies = [{"top1": 100 * one / images, "top5": 100 * five / images} for one, five in top.tolist()]
    return {
        **accuracies[-1],
        "members": accuracies[:-1],
        "combine": {name: 100 * right / images for name, right in rules.items()},
        "cosine_similarity": similarity / images if members > 1 else None,
        "images": images,
    }


def _count(scores: Tensor, labels: Tensor, k: int) -> int:
    best = scores.topk(min(k, scores.shape[1])).indices
    return int((best == labels[:, None]).sum())


def load_ensemble(path: str | Path) -> tuple[Ensemble, dict[str, Any]]:
    """Rebuilds the network of a train_cls.py checkpoint, on the CPU.

    The checkpoint is a dict with ``model`` (weights, member i's under ``members.<i>.``), ``config`` and ``meta`` (see
    `classification.training.CoTraining`).

    Raises:
        UserError: where the checkpoint is unreadable, of another kind, or its weights do not fit its configuration.
    """
    found = checkpoints.load(path, "classification")
    try:
        model, meta = found["config"]["model"], found["meta"]
        stem, classes = FORM_DATASETS[meta["stem"]], len(meta["classes"])
        backbone, members, dropout = str(model["backbone"]), int(model["members"]), float(model["dropout"])
        drop_path = None if model["drop_path"] is None else float(model["drop_path"])
        statistics = torch.tensor([meta["mean"], meta["std"]], dtype=torch.float64)
        size, crop = meta["image_size"], meta["crop"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: its config or meta is incomplete or damaged; use a checkpoint of train_cls.py"
        ) from error
    checks = {
        "classes": isinstance(meta["classes"], list) and all(isinstance(name, str) for name in meta["classes"]),
        "mean or std": statistics.shape == (2, 3) and statistics.isfinite().all() and (statistics[1] > 0).all(),
        "image_size": type(size) is int and 8 <= size <= 4096,
        "crop": crop in ("padded", "resized", "none"),
        "dropout or drop_path": 0 <= dropout < 1 and 0 <= (drop_path or 0) < 1,
    }
    for name, right in checks.items():
        if not right:
            raise UserError(f"{path}: its {name} is damaged; use a checkpoint of train_cls.py")
    checkpoints.check_members(members, found, str(path))
    try:
        ensemble = create_ensemble(backbone, members, classes, stem, dropout=dropout, drop_path=drop_path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    checkpoints.load_weights(ensemble, found["model"], str(path))
    return ensemble, found


def checkpoint_data(config: EvaluateClassification) -> dict[str, Any]:
    """The data settings of the checkpoint, as defaults for the command line."""
    if config.checkpoint is None:
        raise UserError("--checkpoint is needed: a last.pt or best.pt of train_cls.py")
    found = checkpoints.load(config.checkpoint, "classification")
    try:
        return {f"data.{key}": found["config"]["data"][key] for key in ("dataset", "root")}
    except (KeyError, TypeError) as error:
        raise UserError(f"{config.checkpoint}: its config is incomplete; use a checkpoint of train_cls.py") from error


def evaluate(config: EvaluateClassification) -> dict[str, Any]:
    """Runs eval_cls.py: prints the metrics and writes metrics.json; returns them.

    Raises:
        UserError: for an unusable checkpoint, data that is missing or of other classes, or an unwritable output.
    """
    if config.checkpoint is None:
        raise UserError("--checkpoint is needed: a last.pt or best.pt of train_cls.py")
    device = resolve_device(config.device)
    keep_freed_memory()
    model, found = load_ensemble(config.checkpoint)
    meta = found["meta"]
    if config.others:
        model = EnsembleOfEnsembles([model, *(_load_peer(path, meta, config.checkpoint) for path in config.others)])
    images = load_images(config.data, "val")
    check_classes(images, meta["classes"], f"those of {config.checkpoint}")
    views = EvaluationViews(images, meta["image_size"], meta["crop"])
    mean, std = (torch.tensor(meta[key], device=device) for key in ("mean", "std"))
    model = model.to(device, memory_format=torch.channels_last).eval()
    model.concurrent = concurrent(model.branches(), config.concurrency, config.devices, device)
    with Loader(views, config.batch_size, config.workers, device) as loader:
        metrics = measure(model, loader, mean, std, config.precision)
    metrics["checkpoint"] = str(config.checkpoint)
    if config.others:
        metrics["others"] = config.others
    metrics["precision"] = resolve_precision(config.precision, device)
    folder = make_folder(config.output or Path(config.checkpoint).parent)
    if (folder / "metrics.json").exists():
        print(f"{folder / 'metrics.json'}: the earlier one is replaced; --output keeps them apart")
    write_json(metrics, folder / "metrics.json")
    print(describe(metrics))
    print(f"wrote {folder / 'metrics.json'}")
    return metrics


def _load_peer(path: str, meta: dict[str, Any], first: str) -> Ensemble:
    """The ensemble of another checkpoint, which must take the same inputs to the same classes."""
    ensemble, found = load_ensemble(path)
    for key in ("classes", "image_size", "crop", "mean", "std"):
        if found["meta"][key] != meta[key]:
            raise UserError(f"{path}: has other {key} than {first}; combine only checkpoints of the same data")
    return ensemble


def describe(metrics: dict[str, Any]) -> str:
    """The metrics as a table."""
    rows = {f"member {i}": member for i, member in enumerate(metrics["members"], 1)} | {"ensemble": metrics}
    lines = [f"{str(metrics['images']) + ' images':<26} {'top-1':>7} {'top-5':>7}"]
    lines += [f"{name:<26} {row['top1']:7.2f} {row['top5']:7.2f}" for name, row in rows.items()]
    lines += [f"{'combined by ' + name:<26} {top1:7.2f}" for name, top1 in metrics["combine"].items()]
    if metrics["cosine_similarity"] is not None:
        lines.append(f"cosine similarity of the members' outputs {metrics['cosine_similarity']:.4f}")
    return "\n".join(lines)

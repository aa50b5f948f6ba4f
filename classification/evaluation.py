"""Accuracies of the members and of their ensemble, and the network of a checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from classification.ensemble import Ensemble, combine, cosine_similarity, create_ensemble
from classification.probabilities import BINS, calibration_error, calibration_sums, error_sums, squared_error_terms
from classification.settings import Interpolation
from divdet.engine import checkpoint as checkpoints
from divdet.engine.concurrency import beside
from divdet.engine.devices import autocast, precision_dtype
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.normalize import normalize
from divdet.engine.progress import progress
from divdet.engine.settings import Precision

# Name in metrics.json -> arguments of `combine` (Table VI)
RULES: dict[str, dict[str, Any]] = {
    "mean": {"how": "mean"},
    "mean_softmax": {"how": "mean", "softmax": True},
    "max": {"how": "max"},
    "max_softmax": {"how": "max", "softmax": True},
    "geometric": {"how": "geometric"},
}
# Form of a network -> a data set that takes it, for `create_ensemble`
FORM_DATASETS = {"cifar": "cifar10", "imagenet": "imagenet"}
# Keys of a checkpoint's meta that describe the inputs, as in `EvalDataSettings`
INPUT = ("image_size", "eval_resize", "interpolation", "mean", "std")


@torch.no_grad()
def measure(
    model: Ensemble,
    loader: DataLoader,
    mean: Tensor,
    std: Tensor,
    num_classes: int,
    precision: Precision = "auto",
    world: World | None = None,
) -> dict[str, Any]:
    """Evaluates an ensemble.

    Args:
        model: the ensemble, on its device.
        loader: batches of `EvaluationViews`; in a ``world`` of several processes this process's part of them.
        mean: of the red, green and blue pixels in [0, 1], on the same device; ``std`` likewise.

    Returns:
        ``top1`` and ``top5`` of the ensemble (mean of logits), ``members`` (the same of each), ``combine`` and
        ``combine_top5`` (top1 and top5 by rule), all in percent; ``cosine_similarity`` of the members' logits in
        [-1, 1], None for a single member; ``ece`` (of ``ensemble`` and ``members``, see `calibration_error`);
        ``squared_error`` (see `squared_error_terms`); ``images``. With fewer than 5 classes top5 is 100.
    """
    world, device = world or World(), mean.device
    mean, std = 255 * mean, 255 * std  # of pixels
    dtype = precision_dtype(precision, device)
    model.eval()
    members = len(model.members)
    zeros = partial(torch.zeros, dtype=torch.float64, device=device)
    sums = {
        "images": zeros(1),
        "similarity": zeros(1),
        "correct": zeros(members + len(RULES), 2),  # images whose label is among the first 1 and 5
        "calibration": zeros(members + 1, BINS),
        "errors": zeros(members, num_classes),
        "products": zeros(members, members),
    }
    for views, labels in progress(loader, "evaluating", unit="batch"):
        views, labels = views.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with autocast(dtype, device):
            logits = model(beside(model.concurrent, views.device, normalize, views, mean, std))
        logits = world.gather_members(logits.float())
        if not torch.isfinite(logits).all():
            raise UserError("the network's outputs are not finite: its weights are damaged, or training diverged")
        combined = [combine(logits, **arguments) for arguments in RULES.values()]
        sums["images"] += len(labels)
        sums["similarity"] += (cosine_similarity(logits) or 0.0) * len(labels)
        scores = torch.stack([*logits, *combined])
        for column, k in enumerate((1, min(5, num_classes))):
            sums["correct"][:, column] += (scores.topk(k).indices == labels[:, None]).sum((1, 2))
        probabilities = torch.stack([*logits, combine(logits)]).double().softmax(-1)
        sums["calibration"] += calibration_sums(probabilities, labels)
        errors, products = error_sums(probabilities[:-1], labels)
        sums["errors"] += errors
        sums["products"] += products
    # Each process of a replica has counted all members.
    sums = {name: world.all_reduce(value).cpu() / world.members for name, value in sums.items()}
    images = round(sums["images"].item())
    top1, top5 = (100 * sums["correct"] / images).T.tolist()
    *of_members, of_ensemble = calibration_error(sums["calibration"], images)
    metrics = {
        "members": [{"top1": one, "top5": five} for one, five in zip(top1[:members], top5[:members], strict=True)],
        "combine": dict(zip(RULES, top1[members:], strict=True)),
        "combine_top5": dict(zip(RULES, top5[members:], strict=True)),
        "cosine_similarity": sums["similarity"].item() / images if members > 1 else None,
        "ece": {"ensemble": of_ensemble, "members": of_members},
        "squared_error": squared_error_terms(sums["errors"], sums["products"], images),
        "images": images,
    }
    return {"top1": metrics["combine"]["mean"], "top5": metrics["combine_top5"]["mean"]} | metrics


def load_ensemble(path: str | Path) -> tuple[Ensemble, checkpoints.Checkpoint]:
    """Builds the network of a train-cls checkpoint, with its weights, on the CPU.

    Member i's weights are under ``members.<i>.``; `classification.training.CoTraining` describes the ``meta``.

    Raises:
        UserError: where the checkpoint is unreadable, of another kind, or its weights do not fit its configuration.
    """
    found = checkpoints.load(path, "classification")
    try:
        model, meta = found.config["model"], found.meta
        stem, classes = FORM_DATASETS[meta["stem"]], len(meta["classes"])
        backbone, members, dropout = str(model["backbone"]), found.members, float(model["dropout"])
        drop_path = None if model["drop_path"] is None else float(model["drop_path"])
        statistics = torch.tensor([meta["mean"], meta["std"]], dtype=torch.float64)
        size, crop = meta["image_size"], meta["crop"]
        resize, interpolation = float(meta["eval_resize"]), meta["interpolation"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: config or meta is incomplete or damaged; use a train-cls checkpoint") from error
    checks = {
        "classes": isinstance(meta["classes"], list) and all(isinstance(name, str) for name in meta["classes"]),
        "mean or std": statistics.shape == (2, 3) and statistics.isfinite().all() and (statistics[1] > 0).all(),
        "image_size": type(size) is int and 8 <= size <= 4096,
        "crop": crop in ("padded", "resized", "none"),
        "eval_resize": 1 <= resize <= 4,
        "interpolation": interpolation in get_args(Interpolation),
        "dropout or drop_path": 0 <= dropout < 1 and 0 <= (drop_path or 0) < 1,
    }
    for name, right in checks.items():
        if not right:
            raise UserError(f"{path}: its {name} is damaged; use a checkpoint of train-cls")
    try:
        ensemble = create_ensemble(backbone, members, classes, stem, dropout=dropout, drop_path=drop_path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    checkpoints.load_weights(ensemble, found.model, str(path))
    return ensemble, found

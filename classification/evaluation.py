"""Accuracies of the members and of their ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from classification.data.datasets import check_classes, load_images
from classification.data.views import EvaluationViews, normalize
from classification.ensemble import Ensemble, EnsembleOfEnsembles, combine, cosine_similarity, create_ensemble
from classification.probabilities import BINS, calibration_error, calibration_sums, error_sums, squared_error_terms
from classification.settings import EvaluateClassification, Interpolation
from divdet.engine import checkpoint as checkpoints
from divdet.engine.concurrency import beside, concurrent
from divdet.engine.devices import autocast, precision_dtype, resolve_precision, use_device
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.faults import explained
from divdet.engine.files import make_folder, write_json
from divdet.engine.loading import Loader
from divdet.engine.progress import progress
from divdet.engine.settings import Precision

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
# Keys of a checkpoint's meta that describe the inputs, as in `classification.settings.EvalDataSettings`
INPUT = ("image_size", "eval_resize", "interpolation", "mean", "std")


@torch.no_grad()
def measure(
    model: Ensemble | EnsembleOfEnsembles,
    loader: DataLoader,
    mean: Tensor,
    std: Tensor,
    num_classes: int,
    precision: Precision = "auto",
    world: World | None = None,
) -> dict[str, Any]:
    """Evaluates on every image of ``loader``, which gives batches as `EvaluationViews`; in a ``world`` of several
    processes on the images of all of their loaders together.

    Returns:
        ``top1`` and ``top5`` of the ensemble (mean of logits), ``members`` (a list of the same), ``combine`` and
        ``combine_top5`` (top1 and top5 by rule), all in percent; ``cosine_similarity`` of the members' logits in -1…1,
        None for a single member; ``ece`` (of ``ensemble`` and ``members``; see `calibration_error`);
        ``squared_error`` (see `squared_error_terms`); ``images``. With fewer than 5 classes top5 counts among all of
        them, so it is 100.

    Raises:
        UserError: where the network's outputs are not finite.
    """
    world, device = world or World(), mean.device
    dtype = precision_dtype(precision, device)
    model.eval()
    members = len(model.members)
    shapes = {
        "images": (1,),
        "similarity": (1,),
        "right": (members + len(RULES), 2),  # images right among the first 1 and 5
        "calibration": (members + 1, BINS),
        "errors": (members, num_classes),
        "products": (members, members),
    }
    sums = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
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
        sums["right"] += _count_right(torch.stack([*logits, *combined]), labels)
        probabilities = torch.stack([*logits, combine(logits)]).double().softmax(-1)
        sums["calibration"] += calibration_sums(probabilities, labels)
        errors, products = error_sums(probabilities[:-1], labels)
        sums["errors"] += errors
        sums["products"] += products
    # Each process of a replica has counted all members.
    total = world.all_reduce(torch.cat([value.flatten() for value in sums.values()])).cpu() / world.members
    parts = total.split([value.numel() for value in sums.values()])
    sums = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    images = round(sums["images"].item())
    top1, top5 = (100 * sums["right"] / images).T.tolist()
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


def _count_right(scores: Tensor, labels: Tensor) -> Tensor:
    """scores [M,N,C] -> [M,2]: how many labels are among the first 1 and 5."""
    found = [scores.topk(min(k, scores.shape[-1])).indices == labels[:, None] for k in (1, 5)]
    return torch.stack([right.sum((1, 2)) for right in found], dim=1)


def load_ensemble(path: str | Path) -> tuple[Ensemble, checkpoints.Checkpoint]:
    """Rebuilds the network of a train_cls.py checkpoint, on the CPU.

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
        resize, interpolation = float(meta.get("eval_resize", 1)), meta.get("interpolation", "area")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: its config or meta is incomplete or damaged; use a checkpoint of train_cls.py"
        ) from error
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
            raise UserError(f"{path}: its {name} is damaged; use a checkpoint of train_cls.py")
    try:
        ensemble = create_ensemble(backbone, members, classes, stem, dropout=dropout, drop_path=drop_path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    checkpoints.load_weights(ensemble, found.model, str(path))
    return ensemble, found


def checkpoint_data(config: EvaluateClassification) -> dict[str, Any]:
    """The data settings of the checkpoint, as defaults for the command line."""
    if config.checkpoint is None:
        raise UserError("--checkpoint is needed: a last.pt or best.pt of train_cls.py")
    found = checkpoints.load(config.checkpoint, "classification")
    return {key: found.setting(key, str) for key in ("data.dataset", "data.root")}


def evaluate(config: EvaluateClassification) -> dict[str, Any]:
    """Runs eval_cls.py: prints the metrics and writes metrics.json; returns them.

    Raises:
        UserError: for an unusable checkpoint, data that is missing or of other classes, or an unwritable output.
    """
    if config.checkpoint is None:
        raise UserError("--checkpoint is needed: a last.pt or best.pt of train_cls.py")
    device = use_device(config.device)
    model, found = load_ensemble(config.checkpoint)
    meta = input_meta(found.meta, config)
    if config.others:
        model = EnsembleOfEnsembles([model, *(_load_peer(path, meta, config) for path in config.others)])
    images = load_images(config.data, "val")
    check_classes(images, meta["classes"], f"those of {config.checkpoint}")
    if "eval_resize" not in found.meta:
        print(
            f"{config.checkpoint}: from an earlier version, which did not save how to resize images: taking its "
            f"--data.eval_resize {meta['eval_resize']:.4g} --data.interpolation {meta['interpolation']}"
        )
    views = EvaluationViews(images, meta["image_size"], meta["eval_resize"], meta["interpolation"])
    mean, std = (torch.tensor(meta[key], device=device) for key in ("mean", "std"))
    model = model.to(device, memory_format=torch.channels_last).eval()
    model.concurrent = concurrent(model.branches(), config.concurrency, config.devices, device)
    faults = explained(config.batch_size, config.workers, "nothing was written", section="")
    with faults, Loader(views, config.batch_size, config.workers, device) as loader:
        metrics = measure(model, loader, mean, std, len(meta["classes"]), config.precision)
    metrics["checkpoint"] = str(config.checkpoint)
    if config.others:
        metrics["others"] = config.others
    metrics["precision"] = resolve_precision(config.precision, device)
    metrics["input"] = {key: meta[key] for key in INPUT}
    folder = make_folder(config.output or Path(config.checkpoint).parent)
    if (folder / "metrics.json").exists():
        print(f"{folder / 'metrics.json'}: the earlier one is replaced; --output keeps them apart")
    write_json(metrics, folder / "metrics.json")
    print(describe(metrics))
    print(f"wrote {folder / 'metrics.json'}")
    return metrics


def input_meta(meta: dict[str, Any], config: EvaluateClassification) -> dict[str, Any]:
    """A checkpoint's meta, with `INPUT` overridden by ``config.data`` and completed where earlier versions lack it."""
    earlier = {"eval_resize": 1 / 0.875 if meta["crop"] == "resized" else 1.0, "interpolation": "area"}
    given = {key: getattr(config.data, key) for key in INPUT}
    return earlier | meta | {key: value for key, value in given.items() if value is not None}


def _load_peer(path: str, meta: dict[str, Any], config: EvaluateClassification) -> Ensemble:
    """The ensemble of another checkpoint, which must take the same inputs to the same classes."""
    ensemble, found = load_ensemble(path)
    own = input_meta(found.meta, config)
    for key in ("classes", *INPUT):
        if own[key] != meta[key]:
            raise UserError(
                f"{path}: has other {key} than {config.checkpoint}; combine only checkpoints of the same data"
            )
    return ensemble


def describe(metrics: dict[str, Any]) -> str:
    """The metrics as a table."""
    calibration, squared = metrics["ece"], metrics["squared_error"]
    rows = {f"member {i}": member for i, member in enumerate(metrics["members"], 1)} | {"ensemble": metrics}
    errors = [*calibration["members"], calibration["ensemble"]]
    lines = [f"{str(metrics['images']) + ' images':<26} {'top-1':>7} {'top-5':>7} {'ECE':>7}"]
    lines += [
        f"{name:<26} {row['top1']:7.2f} {row['top5']:7.2f} {error:7.4f}"
        for (name, row), error in zip(rows.items(), errors, strict=True)
    ]
    lines += [
        f"{'combined by ' + name:<26} {top1:7.2f} {metrics['combine_top5'][name]:7.2f}"
        for name, top1 in metrics["combine"].items()
    ]
    if metrics["cosine_similarity"] is not None:
        lines.append(f"cosine similarity of the members' outputs {metrics['cosine_similarity']:.4f}")
    members = len(metrics["members"])
    terms = f"bias² {squared['bias_squared']:.4f} + variance {squared['variance']:.4f}"
    if members > 1:
        terms += f" / {members} + covariance {squared['covariance']:.4f} · (1 - 1 / {members})"
    lines.append(f"squared error of the mean probabilities {squared['ensemble']:.4f} = {terms}")
    return "\n".join(lines)

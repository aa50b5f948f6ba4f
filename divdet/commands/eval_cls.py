"""The eval_cls command: accuracies of a classifier's members and of their ensemble."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from classification.backbones import TIMM
from classification.backbones.timm_models import output_shape
from classification.data.datasets import check_classes, load_images
from classification.data.views import EvaluationViews
from classification.ensemble import Ensemble, MeanOfMembers
from classification.evaluation import INPUT, load_ensemble, measure
from classification.settings import EvaluateClassification
from divdet.engine import checkpoint
from divdet.engine.concurrency import concurrent
from divdet.engine.devices import resolve_precision, use_device
from divdet.engine.errors import UserError
from divdet.engine.faults import explained
from divdet.engine.files import make_folder, write_json
from divdet.engine.loading import Loader


def checkpoint_defaults(config: EvaluateClassification) -> dict[str, Any]:
    """The data settings that the checkpoint brings along, as defaults below the command line."""
    if config.checkpoint is None:
        return {}
    found = checkpoint.load(config.checkpoint, "classification")
    return {key: found.setting(key, str) for key in ("data.dataset", "data.root")}


def evaluate(config: EvaluateClassification) -> dict[str, Any]:
    """Evaluates a checkpoint; prints the metrics, writes metrics.json and returns them.

    Raises:
        UserError: for an unusable checkpoint, data that is missing or of other classes, or an unwritable output.
    """
    if config.checkpoint is None:
        raise UserError("--checkpoint is missing: give a checkpoint of train-cls")
    device = use_device(config.device)
    model, found = load_ensemble(config.checkpoint)
    meta = _with_inputs(found.meta, config)
    if config.others:
        ensembles = [model, *(_load_peer(path, meta, config) for path in config.others)]
        model = Ensemble(nn.ModuleList(map(MeanOfMembers, ensembles)))
    if found.setting("model.backbone", str).startswith(TIMM):  # whose models may refuse the size
        output_shape(model, f"data.image_size: {config.checkpoint}", meta["image_size"])
    images = load_images(config.data, "val")
    check_classes(images, meta["classes"], f"those of {config.checkpoint}")
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


def _with_inputs(meta: dict[str, Any], config: EvaluateClassification) -> dict[str, Any]:
    """A checkpoint's meta with `INPUT` overridden by ``config.data``."""
    given = {key: getattr(config.data, key) for key in INPUT}
    return meta | {key: value for key, value in given.items() if value is not None}


def _load_peer(path: str, meta: dict[str, Any], config: EvaluateClassification) -> Ensemble:
    """Loads another checkpoint; raises UserError where its inputs or classes are different."""
    ensemble, found = load_ensemble(path)
    own = _with_inputs(found.meta, config)
    for key in ("classes", *INPUT):
        if own[key] != meta[key]:
            raise UserError(
                f"{path}: has other {key} than {config.checkpoint}; combine only checkpoints of the same data"
            )
    return ensemble


def describe(metrics: dict[str, Any]) -> str:
    """Formats the metrics as a table."""
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

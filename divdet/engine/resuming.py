"""The checkpoint that a run continues from, checked and compared with the current settings and data."""

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from divdet.engine import checkpoint
from divdet.engine.cli import flatten, to_dict
from divdet.engine.errors import UserError

# Settings that may differ between the parts of one run without changing its weights.
_FREE = {"output", "device", "resume", "train.workers", "train.save_every", "train.keep", "train.member_parallel"}
# Settings that a checkpoint's weights and optimizer state are made for.
_FIXED = ("model.", "seed", "train.decay_all")
# Settings that decide what an evaluation measures, and those that name its data.
_MEASURE = ("postprocess.", "data.orientation")
_VALIDATION = ("data.val_", "data.dataset", "data.root")
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}  # torch.amp.GradScaler's


def read_run(file: Path, kind: str) -> dict[str, Any]:
    """The checkpoint of a run of this kind.

    Raises:
        UserError: when it is missing or damaged, or no run can continue from it.
    """
    found = checkpoint.load(file, kind)
    if "optimizer" not in found:
        raise UserError(f"{file}: holds no optimizer state, so no run can continue from it; use a last.pt")
    kinds = {"config": dict, "meta": dict, "epoch": int, "history": list, "scaler": dict, "optimizer": dict}
    kinds |= {"batch": int, "layout": dict, "totals": dict, "trained": dict, "average_steps": int, "best": float}
    absent = [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]
    if absent:
        raise UserError(f"{file}: holds no {absent[0]}, so no run can continue from it; use a last.pt")
    found = {"data": {}, "kept": []} | found  # checkpoints of earlier versions have neither
    counts = [found[key] for key in ("epoch", "batch", "average_steps")]
    counts += [found["layout"].get(key) for key in ("batches", "batch_images", "accumulate")]
    counts += found["kept"] if isinstance(found["kept"], list) else [None]
    tensors = [*found["trained"].items(), *found["optimizer"].items()]
    if (
        not all(isinstance(count, int) and 0 <= count < 2**63 for count in counts)
        or found["scaler"].keys() not in (set(), _SCALER)
        or not all(isinstance(n, int | float) and 0 <= n < 2**63 for n in found["scaler"].values())
        or math.isnan(found["best"])
        or not all(isinstance(total, float) for total in found["totals"].values())
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors)
        or len(found["history"]) != found["epoch"]
        or not all(_is_line(line, epoch) for epoch, line in enumerate(found["history"], 1))
        or not isinstance(found["data"], dict)
    ):
        raise UserError(f"{file}: what it says of its run is damaged; use another last.pt")
    return found


def _is_line(line: Any, epoch: int) -> bool:
    """Whether it is an epoch's line of metrics.jsonl: numbers by name."""
    numbers = isinstance(line, dict) and line.get("epoch") == epoch
    return numbers and all(isinstance(n, float) or (isinstance(n, int) and abs(n) < 2**63) for n in line.values())


def compare(found: dict[str, Any], file: Path, config: Any, meta: dict[str, Any], data: dict[str, str]) -> bool:
    """Prints what a run changes as it continues from ``found``.

    Args:
        found: the checkpoint.
        file: where it was read.
        config: the current settings.
        meta: what checkpoints hold beside the weights.
        data: fingerprints of the current data, by name.

    Returns:
        Whether evaluations still measure the same, so that best.pt remains the best.

    Raises:
        UserError: where it must not change.
    """
    old, new = flatten(found["config"]), flatten(to_dict(config))
    changed = sorted(key for key in old.keys() | new.keys() if key not in _FREE and old.get(key) != new.get(key))
    fixed = [key for key in changed if key.startswith(_FIXED)]
    if fixed:
        key = fixed[0]
        raise UserError(f"{file}: was trained with {key} = {old.get(key)}, not {new.get(key)}; resume with that")
    differing = [key for key in meta if found["meta"].get(key) != meta[key]]
    if differing and differing[0] not in found["meta"]:
        raise UserError(f"{file}: comes from an earlier version, which did not save {differing[0]}; start a new run")
    if differing:
        raise UserError(f"{file}: was trained with other {differing[0]}; resume with the same data and settings")
    inside = f" and batch {found['batch']} of the next" if found["batch"] else ""
    print(f"resuming {file} after epoch {found['epoch']}{inside}")
    for key in changed:
        print(f"  changed: {key} = {new.get(key)}" + (f", was {old[key]}" if key in old else ", a later setting"))
    others = [name for name in data if found["data"].get(name, data[name]) != data[name]]
    for name in others:
        print(f"  changed: the {name} data (annotations, or the names or sizes of images); the run uses the new ones")
    measure = _MEASURE if "validation" in found["data"] else _MEASURE + _VALIDATION
    return "validation" not in others and not any(key in old and key.startswith(measure) for key in changed)

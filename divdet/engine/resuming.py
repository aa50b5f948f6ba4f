"""Compares the checkpoint that a run continues from with the current settings and data."""

import json
import shlex
from typing import Any

from divdet.engine.checkpoint import Checkpoint
from divdet.engine.cli import flatten, to_dict
from divdet.engine.errors import UserError

# Settings that may change without changing the weights.
_FREE = {"output", "device", "resume", "train.workers", "train.save_every", "train.keep", "train.member_parallel"}
_FREE |= {"data.check", "report", "train.loggers", "train.log_every"}
# Settings that a checkpoint's weights and its optimizer's state depend on.
_FIXED = ("model.", "seed", "train.optimizer", "train.decay_all", "train.freeze")
# Settings that decide what an evaluation measures, and those that name its data.
_MEASURE = ("postprocess.", "data.orientation")
_VALIDATION = ("data.val_", "data.dataset", "data.root")


def compare(saved: Checkpoint, config: Any, meta: dict[str, Any], data: dict[str, str]) -> bool:
    """Prints what changes as a run continues.

    Args:
        saved: the checkpoint, with the state of its run.
        config: the current settings.
        meta: see ``divdet.engine.task.Task``.
        data: fingerprints of the current data, by name.

    Returns:
        Whether evaluations still measure the same, so that best.pt stays the best.

    Raises:
        UserError: where something changed that must not.
    """
    file, known = saved.source, saved.run.data
    old, new = flatten(saved.config), flatten(to_dict(config))
    if "train.optimizer" in new:  # earlier versions had no other optimizer
        old = {"train.optimizer": "sgd"} | old
    changed = sorted(key for key in old.keys() | new.keys() if key not in _FREE and old.get(key) != new.get(key))
    for key in changed:
        if key in old and key.startswith(_FIXED):
            was, now = (value if isinstance(value, str) else json.dumps(value) for value in (old[key], new.get(key)))
            raise UserError(
                f"{file}: was trained with {key} = {was}, not {now}; add --{key} {shlex.quote(was)}, or a new --output"
            )
    for key in meta:
        if key not in saved.meta:
            raise UserError(f"{file}: comes from an earlier version, which did not save {key}; start a new run")
        if saved.meta[key] != meta[key]:
            raise UserError(
                f"{file}: was trained with other {key}; resume with the same data and settings, or give a new --output"
            )
    inside = f" and batch {saved.run.batch} of the next" if saved.run.batch else ""
    print(f"resuming {file} after epoch {saved.epoch}{inside}")
    for key in changed:
        print(f"  changed: {key} = {new.get(key)}" + (f", was {old[key]}" if key in old else " (new setting)"))
    other_data = [name for name in data if known.get(name, data[name]) != data[name]]
    for name in other_data:
        if name in ("training", "validation"):
            what = f"the {name} data (annotations, or the names or sizes of images)"
        else:
            what = f"the content of {name}"
        print(f"  changed: {what}; the run uses the new ones")
    measure = _MEASURE if "validation" in known else _MEASURE + _VALIDATION
    return "validation" not in other_data and not any(key in old and key.startswith(measure) for key in changed)

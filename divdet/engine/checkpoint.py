"""Checkpoints: typed, checked when read, written atomically; on disk one dict, read without unpickling code."""

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from divdet.engine.archive import check_archive, is_archive
from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special, write_atomically

# What torch.save says about a full disk or a closed folder, as a RuntimeError.
_WRITE_ERRORS = ("PytorchStreamWriter", "inline_container", "Parent directory")
_MAX_DEPTH = 10  # levels of dicts and lists
_TENSORS = ("model", "trained", "optimizer")  # entries that are tensors by name


@dataclass
class RunState:
    """What only a resumed run needs.

    Attributes:
        batch: batches done of the current epoch.
        layout: ``EpochSampler.layout`` of the run.
        totals: sums of the losses over those batches, by name.
        trained: the trained weights where ``Checkpoint.model`` holds their moving average; otherwise empty.
        average_steps: steps in that average.
        optimizer: what ``optimizer_state`` returns.
        scaler: state of ``torch.amp.GradScaler``; empty without fp16.
        best: highest value of the metric that chooses best.pt.
        waited: evaluations since that value.
        data: fingerprints of the ``training`` and ``validation`` data.
        kept: epochs whose checkpoints are kept beside last.pt, oldest first.
        origin: the other folder's checkpoint that this folder's run started from.
    """

    batch: int
    layout: dict[str, int]
    totals: dict[str, float]
    trained: dict[str, Tensor]
    average_steps: int
    optimizer: dict[str, Tensor]
    scaler: dict[str, Any]
    best: float
    waited: int = 0
    data: dict[str, str] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)
    origin: str | None = None


@dataclass
class Checkpoint:
    """A checkpoint.

    Attributes:
        kind: ``classification`` or ``detection``.
        model: weights by name.
        config: the recipe, as nested dicts.
        meta: what else is needed to use the weights alone, such as class names.
        epoch: whole epochs trained.
        history: a line of metrics.jsonl for each epoch.
        run: what a resumed run needs; None in best.pt and imported checkpoints.
        source: the file it was read from, for messages.
    """

    kind: str
    model: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    run: RunState | None = None
    source: str = ""

    def entries(self) -> dict[str, Any]:
        """The dict on disk."""
        own = {key: value for key, value in vars(self).items() if key not in ("run", "source")}
        return own | (vars(self.run) if self.run else {})

    def setting(self, key: str, *types: type) -> Any:
        """The setting ``section.name`` of ``config``.

        Raises:
            UserError: where it is missing or of none of ``types``.
        """
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
        if type(value) not in types:
            raise UserError(f"{self.source}: its {key} is missing or damaged; use another checkpoint")
        return value

    @property
    def members(self) -> int:
        """``model.members``, at most the number of weights: a corrupt value would build a huge network."""
        members = self.setting("model.members", int)
        if not 1 <= members <= len(self.model):
            raise UserError(
                f"{self.source}: its model.members is {members}, but it holds {len(self.model)} weights; "
                "use another checkpoint"
            )
        return members


def is_text(value: Any) -> bool:
    """Whether ``value`` is a string that can be encoded as UTF-8."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _is_dict(value: Any, check: Callable[[Any], bool], keys: set[str] | None = None) -> bool:
    if not isinstance(value, dict) or (keys is not None and value.keys() != keys):
        return False
    return all(isinstance(key, str) and check(entry) for key, entry in value.items())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


_LAYOUT = {"batches", "batch_images", "accumulate"}
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}  # torch.amp.GradScaler's
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "history": lambda lines: (
        isinstance(lines, list)
        and all(_is_dict(line, _is_number) and line.get("epoch") == epoch for epoch, line in enumerate(lines, 1))
    ),
    "batch": _is_count,
    "layout": lambda layout: _is_dict(layout, _is_count, _LAYOUT),
    "totals": lambda totals: _is_dict(totals, lambda total: type(total) is float),
    "trained": lambda weights: _is_dict(weights, _is_tensor),
    "average_steps": _is_count,
    "optimizer": lambda state: _is_dict(state, _is_tensor),
    "scaler": lambda state: state == {} or _is_dict(state, lambda n: _is_number(n) and 0 <= n < 2**63, _SCALER),
    "best": lambda best: type(best) is float and not math.isnan(best),
    "waited": _is_count,
    "data": lambda data: _is_dict(data, is_text),
    "kept": lambda kept: isinstance(kept, list) and all(map(_is_count, kept)),
    "origin": lambda origin: origin is None or is_text(origin),
}


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint; ``path`` always holds the old or the new one, whole."""
    write_atomically(path, lambda temporary: _write(checkpoint.entries(), temporary))


def _write(entries: dict[str, Any], path: Path) -> None:
    try:
        torch.save(entries, path)
    except RuntimeError as error:
        if not any(known in str(error) for known in _WRITE_ERRORS):  # for example a data worker's death
            raise
        with open(path, "ab") as file:  # torch hides the reason; another write raises it
            file.write(bytes(2**20))
        raise OSError(str(error).partition("\n")[0]) from error


_YOLO = ("ultralytics.", "models.yolo.")  # YOLOv5's own files have the latter
# How torch names the class that it does not unpickle
_FOREIGN_CLASS = re.compile(r"GLOBAL ([\w.]+) (?:was not|whose module)")


def read(path: str | Path, wanted: str = "a checkpoint of weights alone") -> Any:
    """Reads what ``torch.save`` wrote, tensors and plain values only, onto the CPU.

    Args:
        path: the file.
        wanted: what to use instead of a file that holds more, for its message.

    Raises:
        UserError: where the file is missing, damaged, or holds anything else (nothing of it is executed).
    """
    try:
        refuse_special(path)
        if is_archive(path):
            check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that torch then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a checkpoint in it, such as {Path(path) / 'best.pt'}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: damaged, or not written by torch.save: {error}; use another checkpoint") from error
    except pickle.UnpicklingError as error:
        found = _FOREIGN_CLASS.search(str(error))
        what = f"holds a pickled {found[1]}" if found else "is no checkpoint, damaged, or more than tensors and numbers"
        library = " (a whole model of ultralytics)" if found and found[1].startswith(_YOLO) else ""
        raise UserError(f"{path}: refused, since it {what}{library}; use {wanted}") from error
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory to read it, or it is damaged") from error
    except Exception as error:  # unpickling raises a dozen kinds
        raise UserError(f"{path}: not a readable checkpoint (damaged, or another format)") from error


def load(path: str | Path, kind: str | None = None) -> Checkpoint:
    """Reads a checkpoint of this project onto the CPU and checks the type and range of every entry.

    Args:
        path: the file.
        kind: ``classification`` or ``detection``, where only one will do.

    Raises:
        UserError: as `read`, and where it is damaged or not a checkpoint of this project or kind.
    """
    found = read(path)
    if not (isinstance(found, dict) and isinstance(found.get("model"), dict) and is_text(found.get("kind"))):
        raise UserError(f"{path}: not a checkpoint of this toolkit (it has no 'model' and 'kind')")
    if not _is_dict(found["model"], _is_tensor):
        raise UserError(f"{path}: its 'model' holds other things than weights by name")
    for key, value in found.items():
        if key not in _TENSORS and not (is_text(key) and _is_plain(value)):
            raise UserError(f"{path}: its {key} holds other things than text, numbers, lists and dicts; it is damaged")
    for key in ("config", "meta"):
        if not isinstance(found.get(key, {}), dict):
            raise UserError(f"{path}: its {key} is damaged; use another checkpoint")
    bad = [key for key, check in _CHECKS.items() if key in found and not check(found[key])]
    if bad or (len(found.get("history", ())) != found.get("epoch", 0) and "history" in found):
        raise UserError(f"{path}: what it says of its run is damaged ({(bad or ['epoch'])[0]}); use another checkpoint")
    if kind and found["kind"] != kind:
        raise UserError(f"{path}: a {found['kind']} checkpoint where a {kind} checkpoint is needed")
    own = {entry.name: found[entry.name] for entry in fields(Checkpoint) if entry.name in found}
    state = {entry.name: found[entry.name] for entry in fields(RunState) if entry.name in found}
    needed = {entry.name for entry in fields(RunState) if entry.default is entry.default_factory is MISSING}
    run = RunState(**state) if needed <= state.keys() else None
    return Checkpoint(**own | {"run": run, "source": str(path)})


def _is_plain(value: Any) -> bool:
    """Whether ``value`` is a small tree of lists, dicts with text keys, and scalars, with no shared or cyclic parts."""
    left, met = [(value, 0)], set()
    while left:
        part, depth = left.pop()
        if isinstance(part, dict | list):
            if id(part) in met or depth > _MAX_DEPTH or (isinstance(part, dict) and not all(map(is_text, part))):
                return False
            met.add(id(part))
            left += [(child, depth + 1) for child in (part.values() if isinstance(part, dict) else part)]
        elif part is not None and type(part) not in (int, float, bool) and not is_text(part):
            return False
    return True


def load_weights(module: torch.nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Loads ``weights`` into ``module``. Raises UserError as `check_weights`."""
    check_weights(module.state_dict(), weights, source)
    module.load_state_dict(weights)


def check_weights(own: dict[str, Tensor], weights: dict[str, Tensor], source: str) -> None:
    """Compares ``weights`` with a network's ``own``: names, shapes and kinds must match, precisions may differ.

    Raises:
        UserError: naming ``source`` and the first missing, unexpected or mismatched keys.
    """
    both = own.keys() & weights.keys()
    faults = {
        "missing": [key for key in own if key not in weights],
        "unexpected": [key for key in weights if key not in own],
        "of another shape": [
            f"{key} is {list(weights[key].shape)}, not {list(value.shape)}"
            for key, value in own.items()
            if key in both and weights[key].shape != value.shape
        ],
        "of another kind of numbers, or not dense": [
            key for key, value in own.items() if key in both and not _is_like(weights[key], value)
        ],
    }
    listed = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in faults.items()
        if keys
    ]
    if listed:
        raise UserError(f"{source}: its weights do not fit this network: {'; '.join(listed)}")


def _is_like(value: Tensor, own: Tensor) -> bool:
    """Whether ``value`` is a dense tensor of real numbers, and of floats where ``own`` is."""
    dense = value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_complex())
    return dense and value.is_floating_point() >= own.is_floating_point()

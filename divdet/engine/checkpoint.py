"""Checkpoints: one dict per file, written atomically, read without unpickling code."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from divdet.engine.archive import check_archive, is_archive
from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special, write_atomically

# What torch.save says of a full disk or a closed folder, as a RuntimeError.
_WRITER = ("PytorchStreamWriter", "inline_container", "Parent directory")

_TENSORS = ("model", "trained", "optimizer")  # a checkpoint's entries of tensors by name
_DEEPEST = 10  # levels of dicts and lists in the others


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint; ``path`` holds the old or the new one at every moment."""
    write_atomically(path, lambda temporary: _write(checkpoint, temporary))


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    try:
        torch.save(checkpoint, path)
    except RuntimeError as error:  # others can come meanwhile, such as a data worker's death
        if any(known in str(error) for known in _WRITER):
            with open(path, "ab") as file:  # torch hides the reason; another write tells it
                file.write(bytes(2**20))
            raise OSError(str(error).partition("\n")[0]) from error
        raise


def read(path: str | Path) -> Any:
    """Reads what ``torch.save`` wrote, tensors and plain values only, onto the CPU.

    Raises:
        UserError: when the file is missing, damaged, or holds anything else (of which nothing is executed).
    """
    try:
        refuse_special(path)
        if is_archive(path):
            check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a format that is refused in a moment
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: damaged, or not written by torch.save: {error}; use another checkpoint") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, since it is damaged or holds more than tensors and plain values; "
            "use a checkpoint of weights alone"
        ) from error
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory to read it, or it is damaged") from error
    except Exception as error:  # unpickling has a dozen kinds
        raise UserError(f"{path}: not a readable checkpoint (damaged, or another format)") from error


def load(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Reads a checkpoint of this project onto the CPU.

    Args:
        path: the file.
        kind: ``classification`` or ``detection``, where only one will do.

    Raises:
        UserError: as `read`, and when it is not a checkpoint of this project or kind.
    """
    checkpoint = read(path)
    if not (isinstance(checkpoint, dict) and isinstance(checkpoint.get("model"), dict) and "kind" in checkpoint):
        raise UserError(f"{path}: not a checkpoint of this toolkit (it has no 'model' and 'kind')")
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in checkpoint["model"].items()):
        raise UserError(f"{path}: its 'model' holds other things than weights by name")
    odd = [key for key, value in checkpoint.items() if key not in _TENSORS and not (is_text(key) and _is_plain(value))]
    if odd:
        raise UserError(f"{path}: its {odd[0]} holds other things than text, numbers, lists and dicts; it is damaged")
    if kind and checkpoint["kind"] != kind:
        raise UserError(f"{path}: a {checkpoint['kind']} checkpoint where a {kind} checkpoint is needed")
    return checkpoint


def is_text(value: Any) -> bool:
    """Whether it is a string that can be written as UTF-8."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value))


def _is_plain(value: Any) -> bool:
    """Whether it is a small tree: lists, dicts by text, and single values, nothing inside itself or in two places."""
    left, met = [(value, 0)], set()
    while left:
        part, depth = left.pop()
        if isinstance(part, dict | list):
            if id(part) in met or depth > _DEEPEST:
                return False
            met.add(id(part))
            if isinstance(part, dict) and not all(map(is_text, part)):
                return False
            left += [(child, depth + 1) for child in (part.values() if isinstance(part, dict) else part)]
        elif part is not None and type(part) not in (int, float, bool) and not is_text(part):
            return False
    return True


def check_members(members: int, checkpoint: dict[str, Any], source: str) -> None:
    """Raises UserError, naming ``source``, unless the checkpoint's weights can be those of S members.

    It comes before a network of S members is built, which a damaged number would make endless.
    """
    count = len(checkpoint["model"])
    if not 1 <= members <= count:
        raise UserError(
            f"{source}: its model.members is {members}, but it holds {count} weights; use another checkpoint"
        )


def load_weights(module: torch.nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Loads ``weights`` into ``module``, every key, shape and kind matching. Raises UserError as `check_weights`."""
    check_weights(module.state_dict(), weights, source)
    module.load_state_dict(weights)


def check_weights(own: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], source: str) -> None:
    """Compares ``weights`` with a network's ``own``: every key, shape and kind must match, not the precision.

    Raises:
        UserError: naming ``source`` and the first missing, unexpected or mismatched keys.
    """
    missing = [key for key in own if key not in weights]
    unexpected = [key for key in weights if key not in own]
    reshaped = [
        f"{key} is {list(weights[key].shape)}, not {list(value.shape)}"
        for key, value in own.items()
        if key in weights and weights[key].shape != value.shape
    ]
    unlike = [key for key, value in own.items() if key in weights and not _is_like(weights[key], value)]
    faults = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
            ("of another kind of numbers, or not dense", unlike),
        )
        if keys
    ]
    if faults:
        raise UserError(f"{source}: its weights do not fit this network: {'; '.join(faults)}")


def _is_like(value: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether ``value`` is a dense tensor of real numbers; whole ones, as counts are, do not stand for weights."""
    dense = value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_complex())
    return dense and value.is_floating_point() >= own.is_floating_point()

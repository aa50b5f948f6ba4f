"""Networks with random weights whose speed is that of trained ones, for the commands that time."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from classification.backbones.timm_models import output_shape
from classification.ensemble import create_ensemble
from classification.evaluation import FORM_DATASETS
from detection.models.head import DividedDetector, create_detector
from detection.prediction_settings import PostprocessSettings
from divdet.engine.cost import Cost, count_cost
from divdet.engine.errors import UserError
from divdet.engine.limits import cores

# Scores above the threshold, of each member on an image: no fewer than a trained detector has.
CANDIDATES = 1000


@dataclass(frozen=True)
class TimedNetwork:
    """A network by what decides its speed.

    Attributes:
        backbone: name of the backbone before dividing.
        members: S.
        classes: without the background.
        image_size: pixels a side.
        head: of a detector; None is a classifier.
        form: of a classifier, cifar or imagenet.
    """

    backbone: str
    members: int
    classes: int
    image_size: int
    head: str | None = None
    form: str = "imagenet"

    @property
    def task(self) -> str:
        """cls or det."""
        return "det" if self.head else "cls"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.backbone} S={self.members}"

    def create(self, device: torch.device) -> nn.Module:
        """Creates it in evaluation mode.

        Raises:
            UserError: for an unknown name, a form that the backbone lacks, a division that its rule does not allow, or
                images that it does not take.
        """
        network = self._build().to(device, memory_format=torch.channels_last).eval()
        if self.head:
            _find_candidates(network, torch.randn(1, 3, self.image_size, self.image_size, device=device))
        return network

    def cost(self) -> Cost:
        """What it costs on one image, counted without weights. Raises UserError as ``create``."""
        with torch.device("meta"):
            network = self._build()
        return count_cost(network, (1, 3, self.image_size, self.image_size))

    def _build(self) -> nn.Module:
        if self.head:
            return create_detector(self.head, self.backbone, self.members, self.classes, self.image_size)
        network = create_ensemble(self.backbone, self.members, self.classes, FORM_DATASETS[self.form])
        output_shape(network, self.backbone, self.image_size)
        return network


@torch.inference_mode()
def _find_candidates(network: DividedDetector, image: Tensor) -> None:
    """Sets the class heads so that each member has about ``CANDIDATES`` scores above the threshold, not none or all."""
    regressions, logits = network(image)
    scale = 3 / logits.std().clamp(min=1e-12)
    # The background's logit goes up, or where there is none, those of the classes go down.
    first, sign = (slice(0, 1), 1) if network.background else (slice(None), -1)
    low, high = 0.0, 60.0
    for _ in range(20):
        shift, values = (low + high) / 2, logits * scale
        values[..., first] += sign * shift
        _, scores = network.decode(regressions, values)
        many = (scores > PostprocessSettings().score_threshold).sum() > CANDIDATES * len(logits)
        low, high = (shift, high) if many else (low, shift)
    weights = network.state_dict()
    for key in network.class_keys():
        weights[key] *= scale
        if weights[key].ndim == 1:  # (class, box shape)
            weights[key].unflatten(0, (network.background + network.num_classes, -1))[first] += sign * shift


def difference(name: str, found: Any, wanted: Any, limit: float) -> float:
    """The largest deviation of outputs from ``wanted``, relative to the largest; UserError where it is above ``limit``.

    Both are a tensor, or sequences of tensors; ``name`` is what made ``found``.
    """
    pairs = [(found, wanted)] if isinstance(wanted, Tensor) else list(zip(found, wanted, strict=True))
    worst = max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in pairs)
    if not worst <= limit:
        raise UserError(f"{name}: its outputs differ from those in sequence by {worst:.2g} of the largest")
    return worst


def device_title(device: torch.device) -> str:
    """What is timed on, for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cores()} CPU cores"


def note_load(device: torch.device) -> None:
    """Says on stderr where other programs occupy the cores that are to be timed."""
    if device.type == "cpu" and (load := os.getloadavg()[0]) > 0.5 * cores():
        effect = "times and ratios are far off" if load > cores() else "times may be too long"
        print(f"note: a load of {load:.1f} on {cores()} cores: beside other programs, {effect}", file=sys.stderr)


def positive_numbers(text: str, key: str, what: str) -> list[int]:
    """Whole numbers from 1, separated by commas, each once; UserError, which names ``key``, for anything else."""
    words: Sequence[str] = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise UserError(f"{key} {text}: give {what} from 1, separated by commas")
    return list(dict.fromkeys(map(int, words)))

"""A training run that ends as though it were killed."""

import pytest
import torch

from classification.settings import TrainClassification
from classification.training import train


class KilledError(Exception):
    """Stands for a kill: nothing in the product catches it."""


def train_until(config: TrainClassification, step: int) -> None:
    """Trains until ``step`` (from 1) would begin, and is killed there."""
    original, seeds = torch.manual_seed, []

    def stop(seed: int) -> torch.Generator:
        seeds.append(seed)
        if len(seeds) == step + 1:  # the first seeds the weights, each other a step
            raise KilledError
        return original(seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "manual_seed", stop)
        with pytest.raises(KilledError):
            train(config)

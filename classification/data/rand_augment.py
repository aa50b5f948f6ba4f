"""RandAugment with a magnitude drawn for each operation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2


class RandAugment(v2.RandAugment):
    """torchvision's RandAugment, with magnitudes from a normal distribution around ``magnitude`` (timm's ``mstd``).

    Their standard deviation is ``deviation``. Magnitudes are clipped to the scale; strengths between two of its levels
    are interpolated.
    """

    def __init__(self, *args: Any, deviation: float = 0.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.deviation = deviation

    def _get_random_item(self, dct: dict[str, Any]) -> tuple[str, tuple[Callable[..., Tensor | None], bool]]:
        name, (strengths, signed) = super()._get_random_item(dct)
        if not self.deviation:
            return name, (strengths, signed)
        drawn = float(torch.normal(float(self.magnitude), self.deviation, ()))
        position = min(max(drawn, 0.0), self.num_magnitude_bins - 1.0)

        def interpolated(*args: int) -> Tensor | None:
            found = strengths(*args)
            if found is None:
                return None
            strength = np.interp(position, range(len(found)), found.numpy())
            return torch.full((len(found),), strength)  # the base class takes entry ``magnitude``

        return name, (interpolated, signed)

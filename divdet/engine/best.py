"""The best evaluation of a run, and early stopping."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Best:
    """Follows the metric that chooses best.pt.

    Attributes:
        metric: its name, higher is better; None makes every epoch the best.
        patience: evaluations without a better one after which a run stops; 0 never stops it.
        value: the highest so far.
        waited: evaluations since then.
    """

    metric: str | None
    patience: int = 0
    value: float = -math.inf
    waited: int = 0

    def take(self, line: Mapping[str, float]) -> bool:
        """Whether an epoch, of which ``line`` holds the metrics, is the best so far."""
        if self.metric is None:
            return True
        if self.metric not in line:  # not evaluated
            return False
        better = line[self.metric] > self.value
        self.value, self.waited = (line[self.metric], 0) if better else (self.value, self.waited + 1)
        return better

    def no_better(self) -> str:
        """Why a run stops early, in words; empty where it goes on."""
        if not self.patience or self.waited < self.patience:
            return ""
        return f"no better {self.metric} than {self.value:.4g} in {self.waited} evaluations"

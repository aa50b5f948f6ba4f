"""Divided classification networks: dividing rules, backbones, co-training and evaluation."""

import divdet.engine  # noqa: F401 - before torch is loaded
from classification.ensemble import combine, create_ensemble

__all__ = ["combine", "create_ensemble"]

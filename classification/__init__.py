"""Divided classification networks: dividing rules, backbones, co-training and evaluation."""

from classification.ensemble import combine, create_ensemble

__all__ = ["combine", "create_ensemble"]

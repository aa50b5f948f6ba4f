"""Divided classification networks: dividing rules, backbones, co-training and evaluation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classification.ensemble import combine, create_ensemble

__all__ = ["combine", "create_ensemble"]


def __getattr__(name: str) -> Any:  # on first use: settings are read without torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("classification.ensemble"), name)

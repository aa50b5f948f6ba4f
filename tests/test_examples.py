"""The examples in docstrings of the public API."""

import doctest
from importlib import import_module

import pytest
import torch


@pytest.mark.parametrize("module", ["detection.detections", "detection.detector", "detection.models.ssd"])
def test_examples_run_as_printed(module: str) -> None:
    failed, attempted = doctest.testmod(import_module(module), extraglobs={"torch": torch})
    assert attempted
    assert not failed

"""A detector's network in 8 bits for OpenVINO, by NNCF's post-training quantisation."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from detection.images import find_images, read_image
from detection.preprocess import to_input
from detection.runtimes.backends import FromPixels, library, to_openvino
from divdet.engine.errors import UserError
from divdet.engine.files import write_atomically
from divdet.engine.signal_stack import kept_signal_stack

_RECIPE = 1  # another number for every change to how it is quantised here: what is kept is then made anew
IMAGES = 100  # more do not narrow the ranges much, and each costs a pass of the network


def quantized(pixels: FromPixels, folder: str | None, keep: Path | None) -> Any:
    """The network as an OpenVINO model whose weights and activations have 8 bits where the CPU has kernels for it.

    Weights have a scale for each output channel, activations one for each tensor, taken from runs on images. Weights
    use half of their range: a CPU without instructions for dot products of 8 bits (AVX2) adds two products in 16 bits,
    which whole ones overflow.

    Args:
        pixels: the network. It is left as it is.
        folder: holds the images, at any depth, of which 100 evenly spaced ones are used.
        keep: a file beside which the result is kept, and taken from the next time that weights and images are the
            same; None, or a folder that cannot be written, keeps nothing.

    Raises:
        UserError: where NNCF is not installed, or there are no readable images; and as ``to_openvino``.
    """
    openvino, nncf = library("openvino", "openvino"), library("nncf", "openvino")
    if not folder:
        raise UserError("precision int8 needs images to calibrate with: give a folder of them as --calibration")
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder: give one of images to calibrate int8 with as --calibration")
    paths = find_images([os.path.join(glob.escape(folder), "**")])
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(IMAGES, len(paths))).round().astype(int)]
    kept = keep and keep.with_name(f"{keep.stem}.int8-{_key(pixels, paths)}.xml")
    if kept and kept.exists():
        try:
            return openvino.Core().read_model(kept)
        except RuntimeError as error:
            raise UserError(f"{kept}: cannot be read; remove it and its .bin, and they are made anew") from error
    print(f"calibrating int8 with {len(paths)} images of {folder}")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with kept_signal_stack():
        result = nncf.quantize(
            to_openvino(pixels),
            nncf.Dataset([to_input(read_image(path, orient=True))[None] for path in paths]),
            subset_size=len(paths),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
    if kept and os.access(kept.parent, os.W_OK):
        with tempfile.TemporaryDirectory() as made:
            openvino.save_model(result, f"{made}/model.xml")
            for suffix in (".bin", ".xml"):  # the second says that both are there
                source = f"{made}/model{suffix}"
                write_atomically(kept.with_suffix(suffix), lambda target, source=source: shutil.copy(source, target))
    return result


def _key(pixels: FromPixels, paths: list[Path]) -> str:
    """Changes with the weights, the images, the libraries that quantise, and how they are used here."""
    found = hashlib.sha256(f"{_RECIPE} {version('nncf')} {version('openvino')}".encode())
    for name, value in pixels.state_dict().items():
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.contiguous().numpy().data)
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:12]

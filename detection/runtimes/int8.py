"""A detector's network in 8 bits for OpenVINO, by NNCF's post-training quantization."""

from __future__ import annotations

import glob
import logging
import os
from typing import Any

import numpy as np

from detection.images import read_image
from detection.preprocess import FromPixels, to_input
from detection.runtimes.exporting import library, to_openvino
from detection.sources import find_images
from divdet.engine.errors import UserError
from divdet.engine.signal_stack import kept_signal_stack
from divdet.engine.words import counted

IMAGES = 100  # more hardly change the ranges, and each costs a forward pass


def quantize(pixels: FromPixels, folder: str | None) -> Any:
    """Converts a network to an OpenVINO model with weights and activations in 8 bits.

    Weights have a scale for each output channel, activations one for each tensor, measured on images. Weights use half
    of their range: AVX2, without dot products of 8 bits, adds two products in 16 bits, where full-range weights would
    overflow.

    Args:
        pixels: the network; it is not changed.
        folder: searched for images at any depth; 100 evenly spaced ones are used.
    """
    nncf = library("nncf", "openvino")
    if not folder:
        raise UserError("precision int8 needs images to calibrate with: give a folder of them as --calibration")
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder: give one of images to calibrate int8 with as --calibration")
    paths = find_images([os.path.join(glob.escape(folder), "**")])
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(IMAGES, len(paths))).round().astype(int)]
    print(f"calibrating int8 with {counted(len(paths), 'image')} of {folder}")
    form = pixels.network.input
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with kept_signal_stack():
        return nncf.quantize(
            to_openvino(pixels),
            nncf.Dataset([to_input(read_image(path, orient=True), form)[None] for path in paths]),
            subset_size=len(paths),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )

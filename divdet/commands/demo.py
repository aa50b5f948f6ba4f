"""The demo command: a page to try a detector."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from detection.detector import Detector, saved_settings
from detection.heads import title_of
from detection.prediction_settings import FusionMethod
from detection.runtimes.exported import is_exported
from detection.runtimes.exporting import library
from divdet.commands.demo_settings import Demo
from divdet.commands.fused_checkpoints import checkpoints_of, read_saved
from divdet.demo.examples import example_files, make_examples
from divdet.demo.outputs import find, run
from divdet.demo.server import serving, uploads_folder
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.errors import UserError
from divdet.engine.stopping import Stopped, stop_on_signals
from divdet.engine.words import counted
from divdet.serving.sockets import address_of, bind


def demo(config: Demo) -> None:
    """Serves the page until it is stopped.

    Raises:
        UserError: for a checkpoint, examples or an address that cannot be used, or where the extra is missing.
        Stopped: after SIGINT or SIGTERM.
    """
    if not config.checkpoint:
        raise UserError("--checkpoint is missing: give a checkpoint of train-det")
    if len(checkpoints_of(config)) > 1:
        raise UserError(f"--checkpoint {config.checkpoint}: the page takes one; several are fused by divdet detect")
    bound = bind(config.host, config.port, listen=True)  # before anything slow is loaded
    with stop_on_signals() as stopping, uploads_folder() as folder, bound:
        library("gradio", "demo", "divdet demo")
        from divdet.demo.page import Page

        saved = read_saved(config.checkpoint)
        detector = Detector.load(config.checkpoint, config.device, config.postprocess, config)
        files = example_files(config.examples, saved_settings(saved)[1])
        orient = detector.orientation != "stored"
        examples = make_examples(files, folder, config.max_pixels, orient)
        title, subtitle = describe(detector, saved)
        page = Page(
            detector,
            title,
            subtitle,
            exported=is_exported(config.checkpoint),
            score_threshold=config.score_threshold,
            examples=examples,
            max_pixels=config.max_pixels,
        )
        compile_all(detector)
        with serving(page, bound, config.max_bytes) as runs:
            address = address_of(bound)
            print(f"{detector!r}\nopen {address} (Ctrl-C ends it)", flush=True)
            if config.open:
                import webbrowser

                webbrowser.open(address)
            while runs() and not stopping.signal:
                time.sleep(0.1)
    if stopping.signal:
        raise Stopped(stopping.signal, "stopped; uploads are removed")


def compile_all(detector: Detector) -> None:
    """Runs all there is to choose once, since what is compiled at first takes seconds, for all users."""
    outputs = run(detector, np.zeros((64, 64, 3), np.uint8))
    for method in get_args(FusionMethod) if len(detector.model.members) > 1 else ():
        find(detector, outputs, replace(detector.settings, fusion_method=method, score_threshold=0.0), 0.0)
    find(detector, outputs, detector.settings, 0.0)


def describe(detector: Detector, saved: Checkpoint) -> tuple[str, str]:
    """Which model it is: a title, and a line below it."""
    backbone, head = saved.setting("model.backbone", str), saved.config["model"].get("head", "ssd300")
    members, name = len(detector.model.members), title_of(head)
    form = detector.input
    names = ", ".join(detector.names[:12]) + ", …" * (len(detector.names) > 12)
    count = counted(len(detector.names), "class", "classes")
    title = f"{name} on {members} members of {backbone}" if members > 1 else f"{name} on {backbone}"
    place = Path(saved.source)
    return title, f"S = {members} · {form.size} px · {count}: {names} · {Path(place.parent.name) / place.name}"

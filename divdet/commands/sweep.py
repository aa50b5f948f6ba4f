"""The sweep command: a detector's post-processing settings, found on one half of the images and judged on the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detection.data.annotations import CocoAnnotations
from detection.data.category_match import match_categories
from detection.data.prepare import read_validation
from detection.detector import Detector
from detection.evaluation.candidates import Candidates, collect
from detection.evaluation.class_choice import choose_truth
from detection.evaluation.intervals import Interval
from detection.evaluation.setting_search import OPTIONS, Search, difference, measure, search
from detection.prediction_settings import PostprocessSettings
from detection.runtimes.exported import is_exported
from divdet.commands import eval_det
from divdet.commands.settings import Sweep
from divdet.engine import checkpoint
from divdet.engine.devices import use_device
from divdet.engine.errors import UserError
from divdet.engine.faults import explained
from divdet.engine.files import make_folder, write_json
from divdet.engine.words import counted

_HALVES = ("to choose on", "held out")


def checkpoint_defaults(config: Sweep) -> dict[str, Any]:
    """A checkpoint's own settings and data as defaults."""
    _refuse_exported(config)
    return eval_det.checkpoint_defaults(config)


def sweep(config: Sweep) -> dict[str, Any]:
    """Searches settings, prints what each option changes and what is gained on images held out; writes sweep.json.

    Returns:
        The content of sweep.json.

    Raises:
        UserError: for a checkpoint, data or ``write`` that cannot be used, and for too few images.
    """
    if not config.checkpoint:
        raise UserError("--checkpoint is missing: give a checkpoint of train-det")
    _refuse_exported(config)
    _check_write(config)
    use_device(config.device)
    detector = Detector.load(config.checkpoint, config.device, config.postprocess)
    folder = make_folder(config.output or Path(config.checkpoint).parent / "sweep")
    annotations = match_categories(detector.category_ids, detector.names, read_validation(config.data, folder))
    annotations = choose_truth(annotations, detector.rules)
    halves = _halves(annotations, config.seed)
    print(f"{annotations.path}: {annotations.describe()}; {halves[0].sum()} to choose on, {halves[1].sum()} held out")

    started = time.perf_counter()
    lowest = min([config.postprocess.score_threshold, *config.score_threshold])
    workers = min(2, torch.get_num_threads() - 1) if detector.device.type == "cpu" else 4
    with explained(config.batch_size, None, "nothing was written", section=""):
        candidates = collect(detector, annotations, lowest, config.batch_size, workers)
    network = time.perf_counter() - started
    compiling = _compile(candidates, annotations, config)
    print(
        f"network once: {len(candidates.scores):,} boxes of {counted(candidates.counts.shape[1], 'member')} with "
        f"scores above {lowest:g} in {network:.1f} s; compiled in {compiling:.1f} s"
    )
    started = time.perf_counter()
    grids = {option: getattr(config, "weights" if option == "member_weights" else option) for option in OPTIONS}
    found = search(candidates.part(halves[0]), annotations, config.postprocess, grids, config.metric, config.rounds)
    seconds = time.perf_counter() - started
    print(_speed(len(found.tried), int(halves[0].sum()), seconds, candidates))
    print(*_effects(found), sep="\n")

    best, chosen = found.best
    today = found.tried[0][1]
    results = [candidates.part(halves[1]).results(settings) for settings in (found.start, best)]
    before, after, gain = difference(annotations, *results, halves[1], config.metric, (today.score, chosen.score))
    content = {
        "metric": config.metric,
        "images": {"chosen_on": int(halves[0].sum()), "held_out": int(halves[1].sum()), "seed": config.seed},
        "today": _trial(found.start, today) | {"held_out": before},
        "best": _trial(best, chosen) | {"held_out": after},
        "gain": gain.numbers(),
        "seconds": {"network": network, "compiling": compiling, "settings": seconds} | dict(candidates.seconds),
        "tried": [_trial(*trial) for trial in found.tried],
    }
    write_json(content, folder / "sweep.json")
    print(*_verdict(found, before, after, gain), sep="\n")
    print(f"wrote {folder / 'sweep.json'}")
    if config.write:
        saved = checkpoint.load(config.checkpoint, "detection")
        saved.config = saved.config | {"postprocess": asdict(best)}
        checkpoint.save(saved, Path(config.write))
        print(f"wrote {config.write}, the same detector with these settings")
    return content


def _refuse_exported(config: Sweep) -> None:
    if config.checkpoint and is_exported(config.checkpoint):
        raise UserError(
            f"{config.checkpoint}: has thresholds and suppression built in: give the checkpoint that it was made of, "
            "and export what --write writes"
        )


def _check_write(config: Sweep) -> None:
    """Refuse what could not be written at the end, or would replace the checkpoint."""
    if not config.write:
        return
    path, source = Path(config.write), Path(config.checkpoint)
    if path.is_dir() or not path.name:
        raise UserError(f"write is {path}: a folder: give a file, such as tuned.pt")
    if path.resolve() == source.resolve() or (path.exists() and source.exists() and path.samefile(source)):
        raise UserError(f"write is {path}: the checkpoint itself, which is never replaced: give another file")
    make_folder(path.parent)


def _halves(annotations: CocoAnnotations, seed: int) -> list[np.ndarray]:
    """Which images are to choose on, and which are held out, bool [images] each."""
    images = len(annotations.images)
    first = np.zeros(images, bool)
    first[np.random.default_rng(seed).permutation(images)[: (images + 1) // 2]] = True
    truth = annotations.truth
    for half, name in zip((first, ~first), _HALVES, strict=True):
        if not half[truth.image[~truth.crowd]].any():
            raise UserError(
                f"{annotations.path}: {half.sum()} of {images} images are {name}, and none of them has an object: "
                "give more images, or another --seed"
            )
    return [first, ~first]


def _compile(candidates: Candidates, annotations: CocoAnnotations, config: Sweep) -> float:
    """Applies each way of fusion once, since the first call of each compiles; returns the seconds."""
    started, images = time.perf_counter(), np.arange(len(annotations.images)) < 1
    for method in {config.postprocess.fusion_method, *config.fusion_method}:
        results = candidates.part(images).results(replace(config.postprocess, fusion_method=method))
        measure(annotations, results, images, config.metric)
    candidates.seconds.clear()
    return time.perf_counter() - started


def _speed(settings: int, images: int, seconds: float, candidates: Candidates) -> str:
    total = sum(candidates.seconds.values()) or 1
    parts = ", ".join(f"{name} {share / total:.0%}" for name, share in candidates.seconds.most_common() if share)
    return f"{settings} settings of {images} images in {seconds:.1f} s, {settings / seconds:.0f} a second ({parts})"


def _effects(found: Search) -> Iterator[str]:
    """A line for each option: its values and the metric on the images to choose on."""
    yield f"{found.metric} on the images to choose on, one option varied, the others as found (* is the best found):"
    best = found.best[0]
    for option, tried in found.effects.items():
        values = [f"{_show(value)} {number:.3f}" + "*" * (value == getattr(best, option)) for value, number in tried]
        yield f"  {option:16}{'  '.join(values)}"


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "equal"}[value]
    return ":".join(f"{one:g}" for one in value) if isinstance(value, list) else str(value)


def _verdict(found: Search, before: float, after: float, gain: Interval) -> Iterator[str]:
    """What is better on the images held out, and by which settings."""
    (best, chosen), today = found.best, found.tried[0][1]
    changed = [name for name, value in asdict(found.start).items() if value != getattr(best, name)]
    if not changed:
        yield f"nothing tried is better than today's settings: {found.metric} {today.value:.3f}, {before:.3f} held out"
        return
    yield f"{'':10}{'chosen on':>10}{'held out':>10}"
    yield f"{'today':10}{today.value:10.3f}{before:10.3f}"
    yield f"{'found':10}{chosen.value:10.3f}{after:10.3f}"
    verdict = ": no more than chance" * (gain.low <= 0 <= gain.high)
    yield f"gain on the images held out: {gain}, 95 % interval over images{verdict}"
    yield "found: " + " ".join(f"--postprocess.{name} {_flag(getattr(best, name))}" for name in changed)
    if chosen.score is not None:
        yield f"F1 is of detections with scores from {chosen.score:.3f} on (today {today.score:.3f})"


def _flag(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower().replace(" ", "") if isinstance(value, bool | list) else str(value)


def _trial(settings: PostprocessSettings, measured: Any) -> dict[str, Any]:
    own = {"settings": asdict(settings), "value": measured.value}
    return own if measured.score is None else own | {"score": measured.score}

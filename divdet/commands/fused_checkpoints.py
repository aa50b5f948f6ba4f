"""The checkpoints that a command names: their settings, and several of them as one detector."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from detection.detector import Detector, saved_settings
from detection.ensembles import Fusion
from detection.prediction_settings import PostprocessSettings, RuntimeSettings
from detection.runtimes.exported import is_exported, run_defaults, saved_of
from divdet.commands.demo_settings import Demo
from divdet.commands.serve_settings import Serve
from divdet.commands.settings import Detect, EvaluateDetection, Export
from divdet.engine import checkpoint
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.devices import use_device
from divdet.engine.errors import UserError
from divdet.engine.words import counted

_AFTER_FUSION = ("class_agnostic", "class_thresholds")
_OF_FUSION = ("fusion_iou", "fusion_skip", "fusion_conf", "fusion_method", "member_weights")


_Config = EvaluateDetection | Detect | Export | Serve | Demo


def checkpoints_of(config: _Config) -> list[str]:
    """The files that ``checkpoint`` names, separated by commas."""
    if not config.checkpoint:
        return []
    if Path(config.checkpoint).is_file():  # whose own name may have a comma
        return [config.checkpoint]
    return [part for part in (part.strip() for part in config.checkpoint.split(",")) if part] or [config.checkpoint]


def read_saved(path: str) -> Checkpoint:
    """What a checkpoint or an exported file holds; raises UserError where it cannot be read."""
    return saved_of(path) if is_exported(path) else checkpoint.load(path, "detection")


def prediction_defaults(config: _Config, saved: Checkpoint | None = None) -> dict[str, Any]:
    """The post-processing of a checkpoint, the first of several, as defaults; of one exported file also its runtime.

    ``saved`` is that checkpoint, where it has been read already.
    """
    if not config.checkpoint:
        return {}
    first, *others = checkpoints_of(config)
    saved = saved or read_saved(first)
    defaults = {f"postprocess.{name}": value for name, value in asdict(saved_settings(saved)[0]).items()}
    return defaults | (run_defaults(saved) if is_exported(first) and not others else {})


def runs_of(config: EvaluateDetection | Detect | Serve) -> list[RuntimeSettings]:
    """What runs each checkpoint: an exported file as it is, where the user asks for nothing else."""
    asked = RuntimeSettings(**{field.name: getattr(config, field.name) for field in fields(RuntimeSettings)})
    as_it_is = asked == RuntimeSettings()
    return [
        RuntimeSettings(**run_defaults(saved_of(path))) if as_it_is and is_exported(path) else asked
        for path in checkpoints_of(config)
    ]


def describe_runs(config: EvaluateDetection | Detect | Serve) -> dict[str, str]:
    """``runtime`` and ``precision`` of the checkpoints, each kind once."""
    runs = runs_of(config)
    return {name: ", ".join(dict.fromkeys(getattr(run, name) for run in runs)) for name in ("runtime", "precision")}


def load_fusion(config: EvaluateDetection | Detect | Serve) -> Fusion:
    """The detectors of several checkpoints, fused by ``config.postprocess``, which defaults to the first one's.

    Each keeps the post-processing of its own checkpoint, except for what differs from the first one's: the user has
    asked for that. Settings of the fusion are for the boxes of the detectors, not for those of their members.
    """
    if config.several:
        raise UserError("--tile and --tta take one checkpoint: leave them out, or name one")
    paths = checkpoints_of(config)
    own = [saved_settings(read_saved(path))[0] for path in paths]
    asked = {
        field.name: getattr(config.postprocess, field.name)
        for field in fields(PostprocessSettings)
        if getattr(config.postprocess, field.name) != getattr(own[0], field.name)
    }
    for name in _AFTER_FUSION:
        if asked.get(name) or any(getattr(settings, name) for settings in own):
            raise UserError(f"postprocess.{name} takes one checkpoint: leave it out, or name one")
    use_device(config.device)
    common = {name: value for name, value in asked.items() if name not in _OF_FUSION}
    detectors = [
        Detector.load(path, config.device, replace(settings, **common), run)
        for path, settings, run in zip(paths, own, runs_of(config), strict=True)
    ]
    chosen = config.postprocess
    fusion = Fusion(
        detectors,
        weights=asked.get("member_weights"),  # a checkpoint's own are those of its members
        method=chosen.fusion_method,
        iou_thr=chosen.fusion_iou,
        skip_box_thr=chosen.fusion_skip,
        conf_type=chosen.fusion_conf,
    )
    if not fusion.category_ids:
        raise UserError(
            f"{', '.join(paths)}: they give a class of one name other category ids, so results would be ambiguous: "
            "train them on files that agree"
        )
    print(f"fusing {', '.join(paths)}: {counted(len(fusion.names), 'class', 'classes')}")
    for path, detector in zip(paths, detectors, strict=True):
        lacking = [name for name in fusion.names if name not in detector.names]
        if lacking:
            listed = ", ".join(lacking[:3]) + ", …" * (len(lacking) > 3)
            lacks = f"{counted(len(lacking), 'class', 'classes')} ({listed})"
            print(f"note: {path} lacks {lacks}: it counts as a detector that missed them")
    return fusion

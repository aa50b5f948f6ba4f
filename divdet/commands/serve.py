"""The serve command: a detector as an HTTP service."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from detection.runtimes.exporting import library
from divdet.commands.finding import load_detector, views_of
from divdet.commands.fused_checkpoints import checkpoints_of, describe_runs
from divdet.commands.serve_settings import Serve
from divdet.engine.errors import UserError
from divdet.engine.limits import cores
from divdet.engine.stopping import SIGNALS

if TYPE_CHECKING:
    from divdet.serving.runner import Runner

_MORE_SECONDS = 5  # for accepted requests when the service stops, beyond the time that each has


def serve(config: Serve) -> None:
    """Serves until it is stopped; see docs/serving.md.

    Raises:
        UserError: for a checkpoint or address that cannot be used, or where the extra is missing.
        SystemExit: with code 1 where accepted requests were not answered in time after the signal.
    """
    if not config.checkpoint:
        raise UserError("--checkpoint is missing: give a checkpoint of train-det")
    for name in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        library(name, "serve", "divdet serve")
    from divdet.serving.app import create_app
    from divdet.serving.batching import Batcher
    from divdet.serving.guard import Guard
    from divdet.serving.metrics import Metrics
    from divdet.serving.runner import Runner
    from divdet.serving.server import serve_until_stopped
    from divdet.serving.sockets import bind

    for number in SIGNALS:  # nothing is accepted yet
        signal.signal(number, _end)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("divdet.serving").setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # of forms that clients get wrong, they are told
    bound = bind(config.host, config.port)
    detector = load_detector(config)
    views = views_of(config, detector) if config.several else None
    compiled = config.runtime == "compile" or config.concurrency == "graph"
    runner = Runner(detector, config.postprocess, views, config.max_pixels, config.max_batch, compiled)
    metrics = Metrics()
    guard = Guard(metrics, config.access_log)
    batcher = Batcher(
        runner.prepare,
        runner.run,
        metrics,
        max_batch=config.max_batch if runner.shared else 1,
        max_wait=config.max_wait_ms / 1000,
        queue=config.queue,
        workers=config.workers or min(4, cores()),
        before=runner.warm_up,
    )
    batcher.wait_until_ready()
    info = describe(config, runner)
    print(f"{info['model']}: {', '.join(info['classes'][:12])}{', …' * (len(info['classes']) > 12)}")
    print(", ".join(f"{name} {value}" for name, value in info["settings"].items()))
    gc.collect()
    # What was loaded stays, so that collections come as often as requests leave garbage: from request 1,000 to 3,000
    # memory grew by 0.0 MiB instead of 4.9.
    gc.freeze()
    app = create_app(runner, batcher, guard, info, config.max_bytes, config.score_threshold, config.timeout)
    left = serve_until_stopped(guard.around(app), guard, bound, config.timeout + _MORE_SECONDS)
    batcher.close(_MORE_SECONDS)
    if left:
        sys.exit(f"stopped; {left} requests were not answered in time")
    print(f"stopped; {guard.answered} requests were answered")


def _end(*_: Any) -> NoReturn:
    print("stopped before it was ready", flush=True)
    sys.exit(0)


def describe(config: Serve, runner: Runner) -> dict[str, Any]:
    """What ``/info`` says: model, classes and settings."""
    from importlib.metadata import version

    import torch

    detector = runner.detector
    several = getattr(detector, "detectors", [detector])
    settings = {
        **describe_runs(config),
        "device": ", ".join(dict.fromkeys(str(one.device) for one in several)),
        "threads": torch.get_num_threads(),
        "max_batch": config.max_batch if runner.shared else 1,
        "max_wait_ms": config.max_wait_ms,
        "queue": config.queue,
        "timeout": config.timeout,
        "max_bytes": config.max_bytes,
        "max_pixels": config.max_pixels,
        "score_threshold": config.score_threshold,
    }
    ids = detector.category_ids
    return {
        "model": ", ".join(Path(path).name for path in checkpoints_of(config)),
        "members": [len(one.model.members) for one in several],
        "input_size": [one.input.size for one in several],
        "classes": [detector.names[label] for label in runner.labels],
        "category_ids": [ids[label] for label in runner.labels] if ids else [],
        "settings": settings,
        "postprocess": asdict(config.postprocess),
        "views": runner.views or {},
        "version": version("divdet"),
    }

"""Services to test: processes of their own, and threads around a detector that does what a test wants."""

import asyncio
import contextlib
import io
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn
from PIL import Image

from detection import Detections
from divdet.serving.app import create_app
from divdet.serving.batching import Batcher
from divdet.serving.guard import Guard
from divdet.serving.metrics import Metrics
from divdet.serving.protocol import Protocol
from divdet.serving.runner import Found
from divdet.serving.sockets import address_of, bind
from tests.processes import command, environment


class Process:
    """A running ``serve.py``."""

    def __init__(self, checkpoint: Path, *arguments: str) -> None:
        words = command("serve.py", f"--checkpoint={checkpoint}", "--device=cpu", "--port=0", *arguments)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(words, env=environment(), **streams)
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("serving http://"):
                self.address = line.split()[1].removesuffix("/predict")
                return
        raise AssertionError("".join(self.lines))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> tuple[int, str]:
        """Exit code and output, once it has ended."""
        text = self.process.communicate(timeout=60)[0]
        return self.process.returncode, "".join(self.lines) + text

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class Stub:
    """A detector that finds an object of the score that the first byte of an image says.

    Attributes:
        open: while it is cleared, nothing is found.
        seen: the batches.
    """

    def __init__(self) -> None:
        self.open, self.seen = threading.Event(), []
        self.open.set()

    def wanted(self, score_threshold: float, classes: str | None) -> float:
        return score_threshold

    def prepare(self, data: bytes) -> bytes:
        return data

    def run(self, images: Sequence[bytes], wanted: Sequence[float]) -> list[Found]:
        self.seen.append(images)
        assert self.open.wait(20)
        if any(image.startswith(b"boom") for image in images):
            raise RuntimeError("boom")
        return [Found(found_of(image), (4, 3)) for image in images]


def found_of(image: bytes) -> Detections:
    """What ``Stub`` finds."""
    boxes, scores, labels = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([image[0] / 256]), torch.tensor([0])
    return Detections(boxes, scores, labels, ["thing"], (), [7])


@contextlib.contextmanager
def stub_service(
    patience: float = 20, queue: int = 4, timeout: float = 10, **options: Any
) -> Iterator[SimpleNamespace]:
    """A service in a thread: ``address``, ``runner`` (a ``Stub``), ``batcher``, ``guard``."""
    runner, metrics = Stub(), Metrics()
    guard = Guard(metrics)
    batcher = Batcher(runner.prepare, runner.run, metrics, queue=queue, **options)
    app = create_app(runner, batcher, guard, {"model": "stub"}, max_bytes=100_000, score_threshold=0.3, timeout=timeout)
    protocol = type("Impatient", (Protocol,), {"patience": patience})
    quiet = {"ws": "none", "lifespan": "off", "log_config": None, "log_level": "critical", "access_log": False}
    server = uvicorn.Server(uvicorn.Config(guard.around(app), http=protocol, **quiet))
    bound = bind("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([bound])))
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield SimpleNamespace(address=address_of(bound), runner=runner, batcher=batcher, guard=guard)
    finally:
        runner.open.set()
        server.should_exit = True
        thread.join(20)
        batcher.close(20)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.005)


def gather(
    address: str, requests: Sequence[dict[str, Any]], path: str = "/predict"
) -> list[httpx.Response | Exception]:
    """The answers to requests that are sent at the same time, each on a connection of its own."""

    async def go() -> list[Any]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits, trust_env=False) as client:
            posts = [client.post(path, **request) for request in requests]
            return await asyncio.gather(*posts, return_exceptions=True)

    return asyncio.run(go())


def encoded(image: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def noise(seed: int, width: int = 80, height: int = 60) -> np.ndarray:
    """An image of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

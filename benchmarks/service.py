"""The HTTP service: ``python benchmarks/service.py CHECKPOINT [--images FOLDER] [--memory 10000]``.

Requests a second and latencies at 1, 8 and 64 clients beside the bare detector on the same images; memory after the
1,000th and the last request; 200 good and bad requests at once; a stop in the middle. Clients are a process of their
own, each with one connection, which sends its next request when it has the answer.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image

from benchmarks.machine import describe, machine
from detection import Detector
from divdet.serving.answers import objects_of

ROOT = Path(__file__).parents[1]
THRESHOLD = 0.3


class Answer(NamedTuple):
    """Of a request: status (0: the connection closed), seconds, which image, and the detections' JSON if asked for."""

    status: int
    seconds: float
    image: int
    body: bytes


async def client(
    address: tuple[str, int], images: list[bytes], numbers: Any, keep: bool, answers: list[Answer]
) -> None:
    """Sends the images that ``numbers`` yields, one after the other, on one connection."""
    reader = writer = None
    for number in numbers:
        image = number % len(images)
        head = f"POST /predict HTTP/1.1\r\nHost: service\r\nContent-Length: {len(images[image])}\r\n\r\n"
        began, status, body = time.perf_counter(), 0, b""
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection(*address)
            writer.write(head.encode() + images[image])
            received = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(re.search(rb"content-length: (\d+)", received, re.IGNORECASE)[1]))
            status = int(received[9:12])
        except (OSError, asyncio.IncompleteReadError):
            pass
        answers.append(Answer(status, time.perf_counter() - began, image, body if keep else b""))
        if not status or b"connection: close" in received.lower():
            return
    writer.close()


def _clients(pipe: Any, address: tuple[str, int], images: list[bytes], count: int, requests: int, keep: bool) -> None:
    """The process of the clients: sends through ``pipe`` the answers and the seconds that they took."""

    async def go() -> list[Answer]:
        answers: list[Answer] = []
        numbers = iter(range(requests))  # shared: each takes the next one
        await asyncio.gather(*(client(address, images, numbers, keep, answers) for _ in range(count)))
        return answers

    began = time.perf_counter()
    answers = asyncio.run(go())
    pipe.send((answers, time.perf_counter() - began))


class Load:
    """Clients in a process of their own."""

    def __init__(self, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_clients, args=(theirs, *arguments))
        self.process.start()
        theirs.close()

    def result(self) -> tuple[list[Answer], float]:
        """Answers and seconds, at their end."""
        found = self.pipe.recv()
        self.process.join()
        return found


class Service:
    """A running ``serve.py``."""

    def __init__(self, checkpoint: str, *options: str) -> None:
        words = ["tools/serve.py", f"--checkpoint={checkpoint}", "--port=0", f"--score_threshold={THRESHOLD}", *options]
        paths = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=paths, stdout=subprocess.PIPE, text=True
        )
        for line in self.process.stdout:
            print(f"  {line}", end="")
            if found := re.match(r"serving http://(.*):(\d+)/", line):
                self.address = found[1], int(found[2])
                return
        sys.exit("the service did not start")

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def metric(self, name: str) -> float:
        """A number of ``/metrics``."""
        with urllib.request.urlopen(f"http://{self.address[0]}:{self.address[1]}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def end(self) -> tuple[int, str]:
        """Exit code and last output after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        text = self.process.communicate(timeout=120)[0]
        return self.process.returncode, text


def bare(detector: Detector, images: list[bytes], batch: int, seconds: float) -> float:
    """Images a second of ``predict``."""
    some = images[: max(1, len(images) // batch * batch)]
    detector.predict(some, THRESHOLD, batch)
    began, done = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        detector.predict(some, THRESHOLD, batch)
        done += len(some)
    return done / (time.perf_counter() - began)


def rates(service: Service, detector: Detector, images: list[bytes], args: argparse.Namespace) -> None:
    """Prints the table."""
    print("| | images/s | p50, ms | p99, ms | images a batch | times bare |\n|---|---|---|---|---|---|")
    reference = {}
    for batch in (1, args.max_batch):
        reference[batch] = rate = bare(detector, images, batch, args.seconds)
        print(f"| `predict`, batch {batch} | {rate:.1f} | {1000 * batch / rate:.1f} | | {batch} | 1 |", flush=True)
    Load(service.address, images, 8, 50, False).result()
    for count in args.clients:
        before = [service.metric(f"divdet_batch_size_{part}") for part in ("sum", "count")]
        answers, seconds = Load(service.address, images, count, args.requests, False).result()
        after = [service.metric(f"divdet_batch_size_{part}") for part in ("sum", "count")]
        assert {answer.status for answer in answers} == {200}, Counter(answer.status for answer in answers)
        p50, p99 = (1000 * np.percentile([answer.seconds for answer in answers], percent) for percent in (50, 99))
        rate, size = len(answers) / seconds, (after[0] - before[0]) / (after[1] - before[1])
        against = reference[1 if count == 1 else args.max_batch]
        print(
            f"| {count} clients | {rate:.1f} | {p50:.1f} | {p99:.1f} | {size:.1f} | {rate / against:.2f} |", flush=True
        )


def good_and_bad(service: Service, detector: Detector, images: list[bytes]) -> None:
    """200 requests at the same time, every third one bad; each answer is looked at."""
    bad = [b"no image", images[0][:300], b"\0" * 1000]
    wanted = [objects_of(found) for found in detector.predict(images, THRESHOLD)]
    asked = [bad[number // 3 % 3] if number % 3 == 2 else images[number % len(images)] for number in range(200)]
    answers, _ = Load(service.address, asked, 200, 200, True).result()
    exact = near = 0
    for answer in answers:
        if answer.image % 3 == 2:
            assert answer.status == 422, answer
            continue
        found, expected = json.loads(answer.body)["detections"], wanted[answer.image % len(images)]
        exact += found == expected
        assert len(found) == len(expected), (len(found), len(expected))
        near += all(np.allclose(one["box"], two["box"], atol=0.01) for one, two in zip(found, expected, strict=True))
    statuses = dict(Counter(answer.status for answer in answers))
    print(f"200 good and bad at once: {statuses}; of {statuses[200]} results {exact} equal, {near} within 0.01 pixels")


def memory(service: Service, images: list[bytes], total: int) -> None:
    """Resident memory after 1,000 requests and after ``total``."""
    done = 0
    for until in sorted({min(1000, total), total // 2, total}):
        answers, _ = Load(service.address, images, 16, until - done, False).result()
        assert {answer.status for answer in answers} == {200}
        done = until
        print(
            f"memory after {done} requests: {service.metric('process_resident_memory_bytes') / 2**20:.0f} MiB",
            flush=True,
        )


def stop(service: Service, images: list[bytes], clients: int) -> None:
    """SIGTERM while ``clients`` send: all that the service accepted must have been answered."""
    requests = ("divdet_active_requests", "divdet_images_total")
    before = service.metric(requests[1])
    load = Load(service.address, images, clients, 10**6, False)
    while service.metric(requests[0]) <= clients or service.metric(requests[1]) < before + clients:
        time.sleep(0.02)
    began = time.perf_counter()
    code, text = service.end()
    took = time.perf_counter() - began
    statuses = Counter(answer.status for answer in load.result()[0])
    active = int((re.search(r"stopping: (\d+)", text) or [0, 0])[1])
    print(
        f"stop with {active} requests at work: exit code {code} after {took:.1f} s; clients saw {statuses[200]} "
        f"answers, {statuses[503]} refusals, {statuses[0]} connections closed before a request was accepted"
    )
    print(f"  {text.splitlines()[-1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--images", help="folder of JPEGs; default: noise of 640 x 480")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=1000, help="for each number of clients")
    parser.add_argument("--memory", type=int, default=10_000, help="requests")
    parser.add_argument("--seconds", type=float, default=10, help="of the bare detector")
    parser.add_argument("--max_batch", type=int, default=8)
    parser.add_argument("--options", nargs="*", default=[], help="of serve.py, such as --max_wait_ms=2")
    args = parser.parse_args()
    images = [path.read_bytes() for path in sorted(Path(args.images).rglob("*.jpg"))[:32]] if args.images else _noise()
    print(describe(machine("uvicorn")), f"{len(images)} images of {sum(map(len, images)) / len(images) / 1000:.0f} kB")
    detector = Detector.load(args.checkpoint)
    options = [f"--max_batch={args.max_batch}", "--queue=300", *args.options]
    with Service(args.checkpoint, *options) as service:
        rates(service, detector, images, args)
        good_and_bad(service, detector, images)
        stop(service, images, 64)
    with Service(args.checkpoint, *options) as service:
        memory(service, images, args.memory)


def _noise() -> list[bytes]:
    images = []
    for seed in range(16):
        file = io.BytesIO()
        small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((640, 480)).save(file, "JPEG")
        images.append(file.getvalue())
    return images


if __name__ == "__main__":
    main()

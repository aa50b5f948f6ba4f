"""``serve.py`` as a process, asked by a client: its numbers are ``Detector.predict``'s, and nothing is lost."""

import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from detection import Detector
from divdet.commands import COMMANDS
from divdet.engine.errors import UserError
from divdet.serving.answers import objects_of
from tests.detection.generated import write_detector
from tests.divdet.serving.services import Process, encoded, gather, noise, wait_for

ADDRESS = "/predict"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("serve") / "tiny.pt", 2, {"id": 7, "name": "thing"})


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> Detector:
    return Detector.load(checkpoint, "cpu")


@pytest.fixture(scope="module")
def process(checkpoint: Path) -> Iterator[Process]:
    limits = ("--max_bytes=100000", "--max_pixels=100000", "--queue=300", "--max_batch=4", "--timeout=60")
    with Process(checkpoint, *limits, "--score_threshold=0.1", "--access_log") as started:
        yield started


@pytest.fixture(scope="module")
def service(process: Process) -> str:
    return process.address


@pytest.fixture(scope="module")
def client(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=60, trust_env=False) as opened:
        yield opened


def answer(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return response.json()


def expected(detector: Detector, data: bytes, threshold: float = 0.1, **options: Any) -> dict[str, Any]:
    """The part of an answer that ``predict`` decides."""
    found = detector.predict(data, threshold, **options)
    return {"detections": objects_of(found), "members": [objects_of(member) for member in found.members]}


def test_numbers_are_those_of_predict_to_the_last_bit(client: httpx.Client, detector: Detector) -> None:
    for number, kind in enumerate(("PNG", "JPEG", "WEBP", "BMP")):
        data = encoded(noise(number, 90 + number), kind)
        found = answer(client.post(ADDRESS, content=data, params={"members": "true"}))
        wanted = expected(detector, data)
        assert {name: found[name] for name in wanted} == wanted
        assert len(found["detections"]) > 0
        assert (found["width"], found["height"], found["model"]) == (90 + number, 60, "tiny.pt")
    first = found["detections"][0]
    assert (first["name"], first["label"], first["category_id"]) == ("thing", 0, 7)
    as_file = answer(client.post(ADDRESS, files={"file": ("a.bmp", data)}))
    as_image = answer(client.post(ADDRESS, content=data, headers={"content-type": "image/bmp"}))
    assert as_file["detections"] == as_image["detections"] == wanted["detections"]
    assert "members" not in as_file
    stages = as_file["timings"]
    assert sum(stages.values()) - stages["total_ms"] == pytest.approx(stages["total_ms"], abs=50)


def test_photos_are_turned_upright(client: httpx.Client, detector: Detector) -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    data = encoded(noise(5, 120, 60), "JPEG", exif=exif)
    found = answer(client.post(ADDRESS, content=data))
    assert (found["width"], found["height"]) == (60, 120)
    assert found["detections"] == expected(detector, data)["detections"]
    assert found["detections"] != expected(detector, encoded(noise(5, 120, 60), "JPEG"))["detections"]


def test_requests_of_one_batch_have_parameters_of_their_own(service: str, detector: Detector) -> None:
    data = encoded(noise(3))
    thresholds = [0.05 * number for number in range(16)]
    asked = [{"content": data, "params": {"score_threshold": threshold, "classes": "7"}} for threshold in thresholds]
    for threshold, response in zip(thresholds, gather(service, asked), strict=True):
        assert answer(response)["detections"] == expected(detector, data, threshold, classes=["thing"])["detections"]


def huge_png() -> bytes:
    """A small file that says it has 100 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    """The same as a JPEG."""
    data = bytearray(encoded(noise(0), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 10_000, 10_000)
    return bytes(data)


BAD = [
    (b"no image", 422, "not an image"),
    (b"", 422, "empty"),
    (encoded(noise(0))[:500], 422, "cut off"),
    (huge_png(), 413, "more than 100000 pixels"),
    (huge_jpeg(), 413, "more than 100000 pixels"),
    (bytes(100_001), 413, "more than 100000 bytes"),
]


@pytest.mark.parametrize(("data", "status", "named"), BAD)
def test_images_that_cannot_be_used(client: httpx.Client, data: bytes, status: int, named: str) -> None:
    response = client.post(ADDRESS, content=data)
    assert (response.status_code, named in response.json()["error"]) == (status, True), response.text


def test_a_class_that_there_is_not(client: httpx.Client) -> None:
    response = client.post(ADDRESS, content=encoded(noise(0)), params={"classes": "thong"})
    assert response.status_code == 422
    assert response.json() == {"error": "classes: 'thong' is no class of the detector: did you mean thing?"}


def test_200_good_and_bad_requests_at_once(service: str, detector: Detector) -> None:
    images = [encoded(noise(number), "JPEG") for number in range(4)]
    wanted = [expected(detector, data)["detections"] for data in images]
    asked = [images[number % 4] if number % 3 else BAD[number // 3 % len(BAD)][0] for number in range(200)]
    before = httpx.get(f"{service}/metrics", trust_env=False).text
    answers = gather(service, [{"content": data} for data in asked])
    for number, response in enumerate(answers):
        if number % 3:
            assert answer(response)["detections"] == wanted[number % 4]
        else:
            assert response.status_code == BAD[number // 3 % len(BAD)][1]
    after = httpx.get(f"{service}/metrics", trust_env=False).text
    assert _counted(after, "divdet_images_total") - _counted(before, "divdet_images_total") == 133
    assert _counted(after, "divdet_batch_size_sum") - _counted(before, "divdet_batch_size_sum") == 133
    batches = _counted(after, "divdet_batch_size_count") - _counted(before, "divdet_batch_size_count")
    assert 133 / 4 <= batches < 100
    assert _counted(after, "divdet_queue_length") == 0
    assert max(response.json().get("batch", 0) for response in answers) == 4


def _counted(text: str, name: str) -> float:
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_a_stop_in_the_middle_loses_no_accepted_request(process: Process) -> None:  # the last one of this process
    data, count = encoded(noise(1), "JPEG"), 100
    host, port = process.address.removeprefix("http://").split(":")
    clients = [socket.create_connection((host, int(port)), timeout=60) for _ in range(count + 1)]
    request = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    clients[count].sendall(request[:50])  # of a client that never sends the rest
    before = _accepted(process.address)
    for client in clients[:count]:
        client.sendall(request)
    wait_for(lambda: _accepted(process.address) == before + count)
    process.stop()
    answers = [b""] * count
    for number, client in enumerate(clients[:count]):
        while piece := client.recv(2**16):
            answers[number] += piece
    code, text = process.ended()
    for client in clients:
        client.close()
    assert all(received.startswith(b"HTTP/1.1 200 ") and received.endswith(b"}}") for received in answers)
    assert code == 0, text
    assert "stopping: " in text  # it was in the middle
    assert "requests were answered" in text.splitlines()[-1]
    assert "Traceback" not in text
    assert "POST /predict 200" in text


def _accepted(address: str) -> float:
    """Requests for detections that were answered, or are being answered."""
    text = httpx.get(f"{address}/metrics", trust_env=False).text
    return _counted(text, 'divdet_requests_total{path="/predict",status="200"}') + _counted(
        text, "divdet_active_requests"
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--checkpoint is missing"),
        (["--checkpoint=nothing.pt"], "nothing.pt"),
        (["--port=70000"], "port is 70000"),
        (["--max_batch=0"], "max_batch is 0"),
        (["--queue=2"], "queue is 2"),
    ],
)
def test_a_bad_start_is_said_in_a_line(words: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        COMMANDS["serve"].call(COMMANDS["serve"].parse(words, "serve.py"))

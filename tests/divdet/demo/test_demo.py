"""The page to try a detector, in a real browser and beside ``Detector.predict``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from detection import Detector
from divdet.commands import COMMANDS
from divdet.demo.examples import Example
from divdet.demo.server import bounded, serving, uploads_folder
from divdet.engine.errors import UserError
from divdet.engine.stopping import Stopped
from divdet.serving.sockets import address_of, bind
from tests.browser import CHROMIUM
from tests.detection.generated import write_detector

pytest.importorskip("gradio")
fastapi = pytest.importorskip("fastapi")
TestClient = pytest.importorskip("fastapi.testclient").TestClient
playwright = pytest.importorskip("playwright.sync_api")

IN_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
# Gradio's client says so whenever it ends a stream
GRADIOS_OWN = "Method not implemented."
SCORE = 0.72  # the untrained detector finds some 30 boxes above


def draw(path: Path, seed: int, size: tuple[int, int] = (120, 160)) -> Path:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)).save(path)
    return path


class Counting:
    """A network that counts its runs."""

    def __init__(self, network: Any) -> None:
        self.network, self.runs = network, 0

    def __call__(self, images: torch.Tensor) -> Any:
        self.runs += 1
        return self.network(images)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("model") / "best.pt", 2, {"id": 7, "name": "<b>cell</b>"})


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any, Path]]:
    """The page's address, the page, and the folder of uploads."""
    images = tmp_path_factory.mktemp("examples")
    with uploads_folder() as folder, bind("127.0.0.1", 0, listen=True) as listening:
        from divdet.demo.page import Page

        detector = Detector.load(checkpoint, "cpu")
        detector.settings = replace(detector.settings, fusion_conf="max")
        detector.network = Counting(detector.network)
        examples = [Example(draw(images / f"{n}.png", n), draw(folder / f"{n}.png", n)) for n in range(2)]
        page = Page(detector, "SSD300", "S = 2", score_threshold=SCORE, examples=examples, max_pixels=10**6)
        with serving(page, listening, 10**6):
            yield f"{address_of(listening)}/", page, folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """Somebody with a browser of their own, who notes what it says and whom it asks."""

    def __init__(self, browser: Any, address: str, width: int = 1200) -> None:
        self.address = address
        self.page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
        self.said: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.goto(address)
        self.open_json()

    def open_json(self) -> None:
        self.page.locator("#details [role=tab]").nth(1).evaluate("tab => tab.click()")  # hidden until there is a result

    def upload(self, path: Path) -> None:
        self.page.locator("#source input[type=file]").set_input_files(path)

    def move(self, label: str, value: float) -> None:
        self.page.get_by_role("slider", name=f"range slider for {label}", exact=True).fill(str(value))

    def json(self) -> Any:
        return self.page.locator("#json").evaluate("part => part.querySelector('pre')?.textContent")

    def await_json(self, expected: str) -> None:
        """Waits until the page shows these boxes."""
        end = time.monotonic() + 15
        while (text := self.json()) is None or json.loads(text) != json.loads(expected):
            assert time.monotonic() < end, f"{(text or '')[:300]} instead of {expected[:300]}"
            self.page.wait_for_timeout(20)

    def leave(self) -> None:
        """Ends the visit: the console was silent, and no other host was asked."""
        self.page.context.close()
        assert [line for line in self.said if line != GRADIOS_OWN] == []
        assert [url for url in self.asked if not url.startswith((self.address, "data:", "blob:" + self.address))] == []


@pytest.fixture
def visitor(served: tuple[str, Any, Path], browser: Any) -> Iterator[Visitor]:
    visitor = Visitor(browser, served[0])
    yield visitor
    visitor.leave()


def predicted(page: Any, path: Path, threshold: float = SCORE, **changes: Any) -> str:
    """What ``Detector.predict`` says; the network's runs are not counted."""
    own = page.detector
    settings = replace(own.settings, **changes)
    detector = Detector(own.model, own.names, own.category_ids, settings, own.device, own.network.network)
    return detector.predict(path, threshold).to_json()


@IN_BROWSER
def test_sliders_act_without_another_run_of_the_network(served: Any, visitor: Visitor, tmp_path: Path) -> None:
    page, image = served[1], draw(tmp_path / "photo.png", 5)
    before = page.detector.network.runs
    visitor.upload(image)
    visitor.await_json(predicted(page, image))
    assert page.detector.network.runs == before + 1
    picture = visitor.page.locator("#fused img").get_attribute("src")
    assert visitor.page.locator("#members img").count() == 2
    visitor.move("Score", 0.74)
    visitor.await_json(predicted(page, image, 0.74))
    assert visitor.page.locator("#fused img").get_attribute("src") != picture
    typed = visitor.page.get_by_label("number input for NMS IoU")
    for text, meant in (("5", 1), ("", 0)):  # out of range, and emptied
        typed.fill(text)
        visitor.await_json(predicted(page, image, 0.74, nms_iou=meant))
    visitor.move("NMS IoU", 0.1)
    visitor.await_json(predicted(page, image, 0.74, nms_iou=0.1))
    visitor.move("Fusion IoU", 0.9)
    visitor.await_json(predicted(page, image, 0.74, nms_iou=0.1, fusion_iou=0.9))
    visitor.page.get_by_label("Fusion", exact=True).click()
    visitor.page.get_by_role("option", name="NMS", exact=True).click()
    expected = predicted(page, image, 0.74, nms_iou=0.1, fusion_iou=0.9, fusion_method="nms")
    visitor.await_json(expected)
    assert page.detector.network.runs == before + 1
    playwright.expect(visitor.page.get_by_label("Fused score")).to_be_disabled()
    rows = visitor.page.locator("#table tbody tr")
    boxes = len(json.loads(expected))
    assert rows.count() == (boxes if boxes <= 100 else 101)  # the last one says how many more
    assert visitor.page.locator("#table b").count() == 0  # the class's name is text, not HTML
    times = visitor.page.locator("#summary").inner_text()
    assert re.search(r"160 × 120 pixels\s+decode \+ resize [\d.]+ ms\s+network [\d.]+ ms\s+suppression", times), times
    with visitor.page.expect_download() as download:
        visitor.page.get_by_text("Save JSON").click()
    assert Path(download.value.path()).read_text() == expected
    with visitor.page.expect_download() as download:
        visitor.page.get_by_text("Save picture").click()
    assert cv2.imread(download.value.path()).shape == (720, 960, 3)


@IN_BROWSER
def test_examples_and_what_is_no_image(served: Any, visitor: Visitor, tmp_path: Path) -> None:
    page = served[1]
    visitor.page.locator("#examples button").nth(1).click()
    visitor.await_json(predicted(page, page.examples[1].path))
    text = tmp_path / "notes.jpg"
    text.write_text("no image")
    visitor.upload(text)
    alert = visitor.page.get_by_role("alert")
    playwright.expect(alert).to_have_text(
        "notes.jpg: not an image, or one that is damaged or cut off; replace the file"
    )
    assert visitor.page.locator("#fused img").count() == 0
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(2**20 + 1))
    visitor.upload(large)
    playwright.expect(visitor.page.get_by_text("exceed the maximum allowed size of 976")).to_be_visible()
    Image.new("L", (1001, 1000)).save(tmp_path / "wide.png")
    visitor.upload(tmp_path / "wide.png")
    playwright.expect(alert).to_have_text("wide.png: has more than 1000000 pixels; shrink it")
    visitor.upload(good := draw(tmp_path / "good.png", 3))  # the page lives on
    visitor.await_json(predicted(page, good))
    assert alert.count() == 0
    sent = {"files": large.read_bytes()}  # by a client that does not look at the size first
    assert httpx.post(f"{visitor.address}gradio_api/upload", files=sent, trust_env=False).status_code == 413


def test_uploads_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/a.jpg").write_bytes(bytes(100_001))

    app = fastapi.FastAPI()
    app.post("/gradio_api/upload")(lambda: "taken")
    app.post("/other")(lambda: "done")
    clients = [TestClient(bounded(app, most)) for most in (100_000, 100_001)]
    answers = [client.post(path).status_code for client in clients for path in ("/gradio_api/upload", "/other")]
    assert answers == [503, 200, 200, 200]


@IN_BROWSER
def test_two_visitors_do_not_mix(served: Any, browser: Any, visitor: Visitor, tmp_path: Path) -> None:
    address, page, folder = served
    other = Visitor(browser, address)
    images = [draw(tmp_path / f"{n}.png", 10 + n) for n in range(2)]
    for one, image in zip((visitor, other), images, strict=True):
        one.upload(image)
    for step in range(1, 6):
        visitor.move("Score", 0.78 - step / 100)
        other.move("NMS IoU", 0.7 - step / 10)
    visitor.await_json(predicted(page, images[0], 0.73))
    other.await_json(predicted(page, images[1], nms_iou=0.2))
    kept = len(page.sessions)
    assert kept >= 2
    assert list(folder.rglob("*/1.png"))  # the upload
    other.leave()
    end = time.monotonic() + 10
    while len(page.sessions) >= kept:
        assert time.monotonic() < end, "a session that has ended is kept"
        visitor.page.wait_for_timeout(50)


@IN_BROWSER
def test_a_phone_shows_it_without_scrolling_sideways(served: Any, browser: Any, tmp_path: Path) -> None:
    phone = Visitor(browser, served[0], width=400)
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 400
    phone.upload(draw(tmp_path / "photo.png", 5, (200, 100)))
    phone.page.locator("#members img").nth(1).wait_for()
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 400
    places = [phone.page.locator(part).bounding_box()["y"] for part in ("#source", "#fused", "#members", "#controls")]
    assert places == sorted(places)
    phone.leave()


def test_files_of_the_server_stay_there(served: Any, tmp_path: Path) -> None:
    address, secret = f"{served[0]}gradio_api/", draw(tmp_path / "secret.png", 1)
    with httpx.Client(trust_env=False, timeout=20) as client:
        assert client.get(f"{address}file={secret}").status_code == 403
        values = [0.3, 0.45, "wbf", 0.6, "avg", [], 0.05, 200, False]
        image = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
        client.post(f"{address}queue/join", json={"data": [image, *values], "fn_index": 0, "session_hash": "forged"})
        with client.stream("GET", f"{address}queue/data?session_hash=forged") as answers:
            answer = next(line for line in answers.iter_lines() if "process_completed" in line)
    assert json.loads(answer.removeprefix("data: "))["success"] is False
    assert "it was not uploaded by a user" in answer


def ask(*words: str) -> None:
    COMMANDS["demo"].call(COMMANDS["demo"].parse(list(words), "demo"))


def test_bad_usage_is_one_line(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"--checkpoint={checkpoint}"
    with pytest.raises(UserError, match="--checkpoint is missing"):
        ask()
    with pytest.raises(UserError, match=r"gone\.pt"):
        ask("--checkpoint=gone.pt")
    with pytest.raises(UserError, match="the page takes one"):
        ask(f"--checkpoint={checkpoint},{checkpoint}")
    with pytest.raises(UserError, match="no image found"):
        ask(own, "--port=0", f"--examples={tmp_path}")
    in_use = pytest.raises(UserError, match="is in use: choose another with --port")
    with socket.create_server(("127.0.0.1", 0)) as taken, in_use:
        ask(own, f"--port={taken.getsockname()[1]}")
    with pytest.raises(UserError, match="cannot listen there"):
        ask(own, "--host=192.0.2.1", "--port=0")
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=re.escape("needs gradio: pip install 'divdet[demo]'")):
        ask(own, "--port=0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_removes_uploads(
    number: int, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with bind("127.0.0.1", 0) as free:
        address = f"{address_of(free)}/"
    seen: list[Any] = []

    def visit() -> None:
        end = time.monotonic() + 60
        while "SSD300 on 2 members" not in (text := _get(address)) and time.monotonic() < end:
            time.sleep(0.05)
        with httpx.stream("GET", f"{address}gradio_api/heartbeat/page", timeout=20, trust_env=False) as open_page:
            beats = open_page.iter_text()
            next(beats)
            seen.extend([text, *tmp_path.glob("divdet-demo-*"), time.monotonic()])
            os.kill(os.getpid(), number)
            assert [beat for beat in beats if "ALIVE" not in beat] == []

    visitor = threading.Thread(target=visit)
    visitor.start()
    with pytest.raises(Stopped, match="uploads are removed") as stopped:
        ask(f"--checkpoint={checkpoint}", f"--port={urlsplit(address).port}", "--device=cpu")
    visitor.join()
    text, folder, start = seen
    assert time.monotonic() - start < 5
    assert stopped.value.exit_code == 128 + number
    assert not folder.exists()
    assert "googleapis" not in text
    assert caplog.messages == []


def _get(address: str) -> str:
    try:
        return httpx.get(address, trust_env=False).text
    except httpx.TransportError:
        return ""

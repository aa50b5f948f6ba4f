"""The detect command on videos: what it writes, what a stop leaves, what it refuses."""

import json
import os
import signal
import struct
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest
import torch

from detection import Detector
from divdet.commands.detect import detect
from divdet.commands.detect_stream import _Writer, detect_stream
from divdet.commands.settings import Detect
from divdet.engine.addresses import fetch
from divdet.engine.errors import UserError
from divdet.engine.stopping import Stopped
from tests.detection.generated import write_detector


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "best.pt"
    return write_detector(path, 2, {"id": 7, "name": 'a "b", c'})


@pytest.fixture
def config(trained: Path, tmp_path: Path) -> Detect:
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    random = np.random.default_rng(0)
    for _ in range(6):
        writer.write(random.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    return Detect(str(trained), [str(path)], score_threshold=0.5, output=str(tmp_path / "out"), device="cpu")


def frames_of(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), 0
    while capture.read()[0]:
        count += 1
    return count


def test_results_are_those_of_predict(config: Detect, capsys: pytest.CaptureFixture[str]) -> None:
    capture = cv2.VideoCapture(config.sources[0], cv2.CAP_FFMPEG)
    images = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(2)]
    expected = Detector.load(config.checkpoint, "cpu").predict(images, 0.0)
    lowest = min(one.scores[3].item() for one in expected) - 1e-6
    expected = [one[one.scores >= lowest] for one in expected]
    config = replace(config, score_threshold=lowest, save="crops,csv,yolo,jsonl", show="members", max_frames=2)
    detect_stream(config)
    out = Path(config.output)
    rows = json.loads((out / "detections.json").read_text())
    assert [row["image_id"] for row in rows] == [number for number in (0, 1) for _ in expected[number].scores]
    assert np.allclose([row["score"] for row in rows], torch.cat([one.scores for one in expected]), atol=1e-4)
    assert {row["file_name"] for row in rows} == {f"{config.sources[0]}/frame_00000{i}.jpg" for i in (0, 1)}
    table = pandas.read_csv(out / "detections.csv")
    assert len(table) == len(rows)
    assert set(table["category"]) == {'a "b", c'}
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [(line["image_id"], line["seconds"]) for line in lines] == [(0, 0.0), (1, 0.1)]
    assert len(np.loadtxt(out / "labels/a_000001.txt")) == len(expected[1])
    assert len(list((out / "crops").rglob("*.jpg"))) == len(rows)
    assert frames_of(out / "a.mp4") == 2
    said = capsys.readouterr().out
    assert "no sound" in said
    assert f"{len(rows)} objects in 2 frames, " in said
    assert "frames a second" in said


def test_only_a_live_source_has_a_latency(
    config: Detect, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # whose thread would outlive the test
    detect_stream(config)
    shown = capsys.readouterr().err
    assert "/6 [" in shown
    assert "latency" not in shown


def test_a_signal_leaves_a_whole_video_and_all_results(config: Detect, monkeypatch: pytest.MonkeyPatch) -> None:
    add = detect_stream.__globals__["PartialResults"].add

    def interrupt(self: object, number: int, *rest: object) -> None:
        add(self, number, *rest)
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(detect_stream.__globals__["PartialResults"], "add", interrupt)
    with pytest.raises(Stopped, match="stopped after 3 frames"):
        detect_stream(replace(config, save="jsonl"))
    assert len((Path(config.output) / "detections.jsonl").read_text().splitlines()) == 3
    assert frames_of(Path(config.output) / "a.mp4") == 3


def test_a_video_of_variable_rate_keeps_its_speed(tmp_path: Path) -> None:
    writer = _Writer(tmp_path / "a.mp4", 10.0, live=False)
    for seconds in (0.0, 0.1, 0.12, 0.15, 1.0, 1.1):  # no frame is left out
        writer.write(seconds, np.zeros((48, 64, 3), np.uint8))
    writer.close()
    assert frames_of(tmp_path / "a.mp4") == 12


def test_a_header_that_announces_too_many_frames(config: Detect, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(config.sources[0])
    data = bytearray(path.read_bytes())
    for chunk, offset in ((b"avih", 24), (b"strh", 40)):
        struct.pack_into("<I", data, data.index(chunk) + offset, 5000)
    path.write_bytes(data)
    for most, said in ((None, "; 4,994 frames could not be read of about 5,000"), (4, None)):
        detect_stream(replace(config, max_frames=most))
        assert frames_of(Path(config.output) / "a.mp4") == (most or 6)
        printed = capsys.readouterr().out
        assert said in printed if said else "could not" not in printed  # by the frames that were read ahead


def test_a_video_without_frames(config: Detect) -> None:
    path = Path(config.sources[0])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"has no frame|cannot be opened"):
        detect_stream(config)
    assert not (Path(config.output) / "detections.json").exists()


def test_what_is_refused(config: Detect) -> None:
    for wrong, message in (
        ({"sources": [*config.sources, "b.jpg"]}, "a video or stream is looked at alone"),
        ({"resume": "auto"}, "leave out --resume"),
        ({"sources": ["none.mp4"]}, r"none\.mp4: no such file"),
        ({"output": str(Path(config.sources[0]))}, "a.avi"),
    ):
        with pytest.raises(UserError, match=message):
            detect_stream(replace(config, **wrong))


class _Camera(BaseHTTPRequestHandler):
    """Pictures without an end, as mjpg-streamer and other cameras send them."""

    def do_GET(self) -> None:
        picture = cv2.imencode(".jpg", np.full((48, 64, 3), 99, np.uint8))[1].tobytes()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            while True:
                self.wfile.write(head + picture + b"\r\n")
                time.sleep(0.01)
        except OSError:  # the client has left
            pass

    def log_message(self, *_: object) -> None:
        pass


def test_a_camera_whose_address_has_no_ending_of_videos(config: Detect) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Camera) as served:
        served.daemon_threads, served.block_on_close = True, False
        threading.Thread(target=served.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{served.server_port}/?action=stream"
        detect(replace(config, sources=[address], max_frames=3, save="jsonl", no_pictures=True))
        assert len((Path(config.output) / "detections.jsonl").read_text().splitlines()) == 3
        with pytest.raises(UserError, match=r"is a stream: give it alone to divdet detect, or to detector\.stream"):
            fetch(address)
        served.shutdown()


def test_stream_in_python_ends_its_thread(config: Detect) -> None:
    before = threading.active_count()
    found = Detector.load(config.checkpoint, "cpu").stream(config.sources[0], 0.5)
    first = next(found)
    assert (first.frame, first.seconds, first.source.shape) == (0, 0.0, (48, 64, 3))
    found.close()
    assert threading.active_count() == before

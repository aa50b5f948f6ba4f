"""Frames of videos and cameras: which come, in what order, and how broken sources end."""

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection import videos
from divdet.engine.errors import UserError

SIZE = (64, 48)


def write_video(path: Path, frames: int, code: str = "MJPG") -> Path:
    """Frame i is gray with the value 10 i."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), 10.0, SIZE)
    for number in range(frames):
        writer.write(np.full((SIZE[1], SIZE[0], 3), 10 * number % 256, np.uint8))
    writer.release()
    return path


def values(path: Path) -> tuple[list[int], list[int], int]:
    """Numbers and gray values of a video's frames, and how many were broken."""
    with videos.Video(str(path)) as video:
        frames = list(video)
        return [frame.number for frame in frames], [round(frame.image.mean() / 10) for frame in frames], video.broken


@pytest.mark.parametrize(("suffix", "code"), [("avi", "MJPG"), ("mp4", "mp4v")])
def test_all_frames_of_a_file_come_in_order(tmp_path: Path, suffix: str, code: str) -> None:
    path = write_video(tmp_path / f"a.{suffix}", 25, code)
    assert values(path) == (list(range(25)), list(range(25)), 0)
    with videos.Video(str(path)) as video:
        assert (video.rate, video.total, video.live) == (10.0, 25, False)
        assert np.allclose([frame.seconds for frame in video], np.arange(25) / 10, atol=0.051)


def test_the_rate_of_a_clock_is_not_that_of_frames(tmp_path: Path) -> None:
    """A minute of a browser's WebM would be drawn as 60,000 frames."""
    path = str(tmp_path / "a.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 1000.0, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert videos.Video(path).rate == 60


def test_broken_frames_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 25)
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    data[starts[5] : starts[6] - 8] = bytes(starts[6] - 8 - starts[5])
    path.write_bytes(data)
    _, gray, broken = values(path)
    assert gray == [*range(5), *range(6, 25)]
    assert broken == 1


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    _, gray, _ = values(path)
    assert 5 < len(gray) < 25
    assert gray[:-1] == list(range(len(gray) - 1))  # the last frame may be half one
    whole = write_video(tmp_path / "a.mp4", 25, "mp4v")  # its index is at the end
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be opened: it is no video, or damaged"):
        videos.Video(str(whole))


def test_a_file_without_a_frame_that_can_be_read_is_an_error_not_an_empty_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 3)
    data = path.read_bytes()
    first, index = data.index(b"\xff\xd8\xff"), data.index(b"idx1")
    path.write_bytes(data[:first] + bytes(index - first) + data[index:])
    with pytest.raises(UserError, match=r"no frame that can be read: .*MJPG.*ffmpeg"):
        values(path)


@pytest.mark.parametrize("source", ["none.mp4", "camera:", "camera:x"])
def test_sources_that_are_none(source: str) -> None:
    with pytest.raises(UserError, match=source):
        videos.Video(source)


class Camera:
    """A camera of as many frames as it has, 200 a second, that fails afterwards; or hangs."""

    opened = 0

    def __init__(self, frames: int, hang: bool = False, reopens: int = 0) -> None:
        self.frames, self.hang, self.reopens, self.left = frames, hang, reopens, 0

    def __call__(self, *_: object) -> "Camera":
        self.opened += 1
        self.left = self.frames if self.opened <= 1 + self.reopens else 0
        return self

    def isOpened(self) -> bool:
        return self.left > 0

    def get(self, _: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.005)
        if self.hang and self.left == 1:
            time.sleep(2)
        self.left -= 1
        return (True, np.zeros((48, 64, 3), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(videos, "_PATIENCE", 0.5)
    monkeypatch.setattr(videos, "_TRIES", 1)
    return monkeypatch


def test_the_newest_frames_of_a_camera(impatient: pytest.MonkeyPatch) -> None:
    impatient.setattr(videos.cv2, "VideoCapture", Camera(10**6))
    with videos.Video("camera:0") as video:
        taken = []
        for frame in video:
            taken.append(frame.number)
            time.sleep(0.05)
            if len(taken) == 4:
                break
        assert taken == sorted(set(taken))
        assert taken[-1] > 8
        assert video.passed_over >= taken[-1] - 5
    assert not video._thread.is_alive()


def test_a_stream_that_stalls_or_ends(impatient: pytest.MonkeyPatch) -> None:
    impatient.setattr(videos.cv2, "VideoCapture", Camera(5, hang=True))
    began = time.monotonic()
    with pytest.raises(UserError, match="has given no frame for"), videos.Video("camera:0") as video:
        list(video)
    assert time.monotonic() - began < 4
    impatient.setattr(videos.cv2, "VideoCapture", Camera(5))
    with pytest.raises(UserError, match="could not be opened again"), videos.Video("rtsp://a/b", "all") as video:
        list(video)


def test_a_stream_is_opened_again(impatient: pytest.MonkeyPatch) -> None:
    impatient.setattr(videos.cv2, "VideoCapture", camera := Camera(5, reopens=1))
    with pytest.raises(UserError), videos.Video("rtsp://a/b", "all") as video:
        list(video)
    assert camera.opened >= 3
    assert video.broken >= 1


def test_threads_end_when_a_reader_leaves_early(tmp_path: Path) -> None:
    path, before = write_video(tmp_path / "a.avi", 60), threading.active_count()
    with videos.Video(str(path)) as video:
        next(iter(video))
    assert threading.active_count() == before

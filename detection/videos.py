"""Videos, cameras and streams: frames from a thread of their own, and what a detector finds in them."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # before OpenCV loads FFmpeg: what it says is said below

import cv2
import numpy as np

from detection.detections import Detections
from detection.sources import is_live
from divdet.engine.addresses import hide_password, is_address
from divdet.engine.errors import UserError, printable
from divdet.engine.files import refuse_special
from divdet.engine.settings import check_choice, check_whole

if TYPE_CHECKING:
    from detection.detector import Detector
    from detection.ensembles import Fusion

Frames = Literal["all", "newest"]
_AHEAD = 16  # frames that are read before they are needed
_PATIENCE = 20.0  # seconds without a frame
_TRIES = 3  # to open a stream again, or to read on behind a broken frame of a file: ten times as many
_DEFAULT_RATE = 25.0
_CLOCK, _CLOCKED_RATE = 1000, 60.0  # browsers' WebM says its clock's milliseconds for the rate: frames are rarer


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        number: from 0, of the frames that could be read, also of those that were passed over.
        seconds: of a file since its begin, by its own clock; of a stream since it was opened.
        image: uint8 RGB ``[H, W, 3]``, turned as the file says.
        read_at: ``time.monotonic`` when it was read.
    """

    number: int
    seconds: float
    image: np.ndarray
    read_at: float


class Video:
    """The frames of a video file, a camera (``camera:0``) or a stream's address, read in a thread.

    Use it as a context: leaving it ends the thread.

    Attributes:
        name: the source, without a password.
        live: whether it is a camera or a stream.
        rate: frames a second, as the source says; 25 where it does not, 60 where it says 1000, as browsers do.
        total: number of frames that a file says it has; None if unknown.
        broken: frames that could not be read so far.
        passed_over: frames that were not given, since newer ones had come.

    Args:
        source: see above.
        frames: of a camera or stream, all frames or always the newest (default); of a file always all.

    Raises:
        UserError: where it cannot be opened; while frames are taken, for a file that has none, and for a stream that
            has ended or gives none for 20 seconds.
    """

    def __init__(self, source: str | os.PathLike[str], frames: Frames | None = None) -> None:
        source = os.fspath(source) if isinstance(source, os.PathLike) else source
        if not isinstance(source, str):
            raise UserError(f"a video's source is {source!r}: give a path, an address, or camera:0")
        if frames is not None:
            check_choice("frames", frames, Frames)
        self.source, self.name, self.remote = source, hide_password(source), is_live(source) or is_address(source)
        self.broken = self.passed_over = 0
        self._capture = self._open()
        rate, total = (self._capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.rate = _CLOCKED_RATE if rate == _CLOCK else rate if 0 < rate < _CLOCK else _DEFAULT_RATE
        self.total = int(total) if 0 < total < 2**31 and not source.lower().startswith("camera:") else None
        self.live = self.remote and self.total is None  # a video file may have an address, too
        if frames == "newest" and not self.live:
            self._capture.release()
            raise UserError(f"{self.name}: frames newest is for cameras and streams: of a file take all")
        self.newest = self.live and frames != "all"
        self._queue: queue.Queue[Frame | UserError | None] = queue.Queue(1 if self.newest else _AHEAD)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read_all, daemon=True)  # a camera's driver may hang

    def _open(self) -> cv2.VideoCapture:
        if self.source.lower().startswith("camera:"):
            number = self.source[7:]
            if not number.isdecimal() or len(number) > 4:
                raise UserError(f"{self.source}: name a camera by its number, such as camera:0")
            capture, what = cv2.VideoCapture(int(number)), "is it there, and not in use by another program?"
        elif self.remote:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 10_000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 10_000]
            capture, what = cv2.VideoCapture(self.source, cv2.CAP_FFMPEG, limits), "is the address right?"
        else:
            refuse_special(self.source)
            if not os.path.isfile(self.source):
                raise UserError(f"{self.source}: no such file: name a video")
            # An absolute path cannot be taken for a pattern of files or an address
            capture, what = cv2.VideoCapture(os.path.abspath(self.source), cv2.CAP_FFMPEG), "it is no video, or damaged"
        if not capture.isOpened():
            raise UserError(f"{self.name}: cannot be opened: {what}")
        return capture

    def __enter__(self) -> Video:
        self._thread.start()
        atexit.register(self.__exit__)  # a thread inside OpenCV would abort the end of Python
        return self

    def __exit__(self, *_: object) -> None:
        atexit.unregister(self.__exit__)
        self._ended.set()
        self._thread.join(_PATIENCE if self.remote else None)

    def __iter__(self) -> Iterator[Frame]:
        while True:
            try:
                frame = self._queue.get(timeout=_PATIENCE if self.remote else None)
            except queue.Empty:
                raise UserError(f"{self.name}: has given no frame for {_PATIENCE:.0f} seconds") from None
            if frame is None:
                return
            if isinstance(frame, UserError):
                raise frame
            yield frame

    def _read_all(self) -> None:
        try:
            self._read_frames()
            self._put(None)
        except UserError as error:
            self._put(error)
        except Exception as error:  # of a driver; else nobody would hear of it
            self._put(UserError(f"{self.name}: cannot be read: {' '.join(str(error).split())}"))
        finally:
            self._capture.release()

    def _read_frames(self) -> None:
        began, number, failures = time.monotonic(), 0, 0
        while not self._ended.is_set():
            read, image = self._capture.read()
            if not read:
                failures += 1
                if not self._go_on(number, failures):
                    break
                continue
            failures, now = 0, time.monotonic()
            seconds = now - began if self.live else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            self._put(Frame(number, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), now))
            number += 1
        if not number and not self._ended.is_set():
            code = int(self._capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
            raise UserError(
                f"{self.name}: has no frame that can be read: it is damaged, cut off, or its codec "
                f"({printable(code.to_bytes(4, 'little').decode('latin-1'))}) is not OpenCV's: "
                "convert it, as by ffmpeg -i FILE -c:v libx264 NEW.mp4"
            )

    def _go_on(self, number: int, failures: int) -> bool:
        """Whether to try again after a frame that was not read; a stream is opened anew."""
        if not self.live:
            missing = (self.total or 0) - number - self.broken
            if missing > 0 and failures <= 10 * _TRIES:
                self.broken += 1
                return True
            self.broken += max(0, missing)
            return False
        self.broken += 1
        for wait in range(failures - 1, _TRIES):
            if self._ended.wait(wait):
                return False
            self._capture.release()
            try:
                self._capture = self._open()
            except UserError:
                continue
            return True
        raise UserError(f"{self.name}: the stream has ended, and could not be opened again")

    def _put(self, frame: Frame | UserError | None) -> None:
        """Hands a frame over; the newest takes the place of one that nobody has taken."""
        while not self._ended.is_set():
            try:
                self._queue.put(frame, timeout=0.0 if self.newest and isinstance(frame, Frame) else 0.2)
                return
            except queue.Full:
                if self.newest and isinstance(frame, Frame):
                    with suppress(queue.Empty):
                        self._queue.get_nowait()
                        self.passed_over += 1


def stream(
    detector: Detector | Fusion, video: Video, score_threshold: float, batch_size: int, most: int | None, **options: Any
) -> Iterator[tuple[Frame, Detections]]:
    """Each frame, and what is found in it, with ``frame``, ``seconds`` and the image as ``source``.

    Args:
        detector: what looks at the frames.
        video: the frames, in its context.
        score_threshold, batch_size, options: as of ``predict``. Of the newest frames each is looked at by itself.
        most: how many frames to take; None: all.
    """
    taken: deque[Frame] = deque()

    def images() -> Iterator[np.ndarray]:
        for count, frame in enumerate(video, 1):
            taken.append(frame)
            yield frame.image
            if count == most:
                return

    if most is not None:
        check_whole("max_frames", most, 1)
    if options.pop("bgr", False):
        raise UserError("bgr is for arrays: the frames of a video are RGB already; leave it out")
    if not hasattr(detector, "detectors"):  # a fusion takes one image at a time
        options["batch_size"] = 1 if video.newest else batch_size
    for found in detector.predict(images(), score_threshold, **options):
        frame = taken.popleft()
        yield frame, replace(found, frame=frame.number, seconds=frame.seconds)

"""The detect command on a video, a camera or a stream."""

import os
import statistics
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch.distributed as dist

from detection.detections import Detections
from detection.detector import Detector
from detection.ensembles import Fusion
from detection.outputs import file_name, save_files
from detection.videos import Frame, Video, stream
from divdet.commands.finding import load_detector, objects_of, picture_of, threads_of, views_of
from divdet.commands.partial_results import PartialResults
from divdet.commands.result_files import write_results
from divdet.commands.settings import Detect
from divdet.engine.addresses import hide_password
from divdet.engine.devices import use_device
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder
from divdet.engine.pipeline import in_threads
from divdet.engine.progress import progress
from divdet.engine.stopping import Stopped, stop_on_signals
from divdet.engine.words import counted

_AHEAD = 8  # frames that wait to be written
_LONGEST_GAP = 5.0  # seconds of a stream that its video fills with one frame
_LATENCIES = 1000  # frames, the last ones, whose median is said


def detect_stream(config: Detect) -> Path:
    """Writes a video with what is found in each frame of a video, camera or stream, and detections.json.

    ``image_id`` is the frame's number from 0, ``file_name`` the source's name with the frame's. Memory does not grow
    with the frames. After SIGINT or SIGTERM the video and all results so far are whole.

    Returns:
        The path of detections.json.

    Raises:
        UserError: for unusable input; for a stream that ends by itself, after all is written.
        Stopped: after a signal, likewise.
    """
    _refuse(config)
    source = config.sources[0]
    use_device(config.device)
    detector = load_detector(config)
    folder = Path(config.output or "runs/detect")
    stem = file_name(os.path.splitext(os.path.basename(hide_password(source)))[0])
    target = folder / f"{stem}.mp4"
    if target.exists() and not (folder / "detections.json").exists():
        raise UserError(f"{target}: is there already, and no video of an earlier run: choose another --output")
    if os.path.realpath(target) == os.path.realpath(source):
        raise UserError(f"{target}: the video would overwrite the source; choose another --output")
    with Video(source, config.frames) as video:
        make_folder(folder)
        partial = PartialResults(folder, {"source": video.name}, None, World())
        writer = _Writer(None if config.no_pictures else target, video.rate, video.live)
        run = _Run(config, detector, folder, stem, video, writer)
        ended: Exception | None = None
        with stop_on_signals() as stopping:
            total = min(video.total or 10**18, config.max_frames or 10**18)
            bar = progress((), "detecting", unit="frame", total=total if total < 10**18 else None)
            try:
                for number, image in run.results():
                    partial.add(number, [image], [])
                    if video.live:  # a file's frames wait to be looked at
                        bar.set_postfix_str(f"latency {1000 * run.latencies[-1]:.0f} ms", refresh=False)
                    bar.update()
                    if stopping.signal:
                        ended = Stopped(
                            stopping.signal, f"stopped after {counted(run.frames, 'frame')}; {folder} holds all of them"
                        )
                        break
            except UserError as error:  # of a stream that has ended; what was found before is kept
                ended = error
            bar.close()
            try:
                writer.close()
            except UserError as error:
                ended = ended or error
    if run.frames:
        write_results(partial.images, folder, detector.names, config.save or ())
        print(run.describe(target))
    partial.remove()
    if ended:
        raise ended
    return folder / "detections.json"


def _refuse(config: Detect) -> None:
    what = f"{config.sources[0]} is a video or a stream"
    if len(config.sources) > 1:
        raise UserError("a video or stream is looked at alone: give it as the only source, and photos in another run")
    if config.resume or config.data.val_annotations or config.data.path:
        raise UserError(f"{what}: leave out --resume and annotations, which are for photos")
    if dist.is_torchelastic_launched():
        raise UserError(f"{what}, which one process reads: start it without torchrun")


class _Run:
    """Frames through the detector to their files.

    Attributes:
        frames, objects: how many are done.
    """

    def __init__(
        self, config: Detect, detector: Detector | Fusion, folder: Path, stem: str, video: Video, writer: "_Writer"
    ) -> None:
        self.config, self.detector, self.folder, self.stem = config, detector, folder, stem
        self.video, self.writer = video, writer
        self.frames = self.objects = 0
        self.latencies: deque[float] = deque(maxlen=_LATENCIES)
        self.began = self.last = time.monotonic()

    def results(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number and the result of each frame, as soon as its files are written."""
        config, how = self.config, views_of(self.config, self.detector)
        how |= {"score_threshold": config.score_threshold, "batch_size": config.batch_size, "most": config.max_frames}
        found, ahead = stream(self.detector, self.video, **how), 1 if self.video.newest else _AHEAD
        for read_at, one, picture in in_threads(self._draw, found, threads_of(config), ahead):
            if picture is not None:
                self.writer.write(one.seconds, picture)
            objects = objects_of(one, self.detector.names, self.detector.category_ids)
            height, width = one.source.shape[:2]
            self.frames, self.objects, self.last = self.frames + 1, self.objects + len(objects), time.monotonic()
            self.latencies.append(self.last - read_at)
            size = {"width": width, "height": height, "seconds": round(one.seconds, 3)}
            named = {"image_id": one.frame, "file_name": f"{self.video.name}/frame_{one.frame:06d}.jpg"}
            yield one.frame, named | size | {"objects": objects}

    def _draw(self, pair: tuple[Frame, Detections]) -> tuple[float, Detections, np.ndarray | None]:
        (frame, found), config, names = pair, self.config, self.detector.names
        save_files(config.save or (), self.folder, f"{self.stem}_{found.frame:06d}", found.source, found, names)
        if config.no_pictures:
            return frame.read_at, found, None
        return frame.read_at, found, picture_of(found.source, found, names, config)

    def describe(self, target: Path) -> str:
        """What was done, in a line."""
        video, seconds = self.video, max(self.last - self.began, 1e-9)
        latency = 1000 * statistics.median(self.latencies)
        text = f"{counted(self.objects, 'object')} in {counted(self.frames, 'frame')}, "
        text += f"{self.frames / seconds:.1f} frames a second, "
        if video.live:
            text += f"{latency:.0f} ms from reading a frame to its result, "
        text = f"{text.removesuffix(', ')}; wrote {self.folder}"
        if not self.config.no_pictures:
            text += f" ({target.name} has no sound)"
        if video.passed_over:
            text += f"; {counted(video.passed_over, 'frame')} passed over"
        if video.broken and self.frames != self.config.max_frames:  # else they are of what was read ahead
            text += f"; {counted(video.broken, 'frame')} could not be read"
            text += f" of about {video.total:,} (from the file's length and rate, if it does not vary)" * bool(
                video.total
            )
        return text


class _Writer:
    """Writes an .mp4 of drawn frames, which keeps its speed by repeating frames, in a stream also by leaving some out.

    Args:
        path: the file; None writes nothing.
        rate: frames a second.
        live: whether it is of a stream.
    """

    def __init__(self, path: Path | None, rate: float, live: bool) -> None:
        self.path, self.rate, self.live = path, rate, live
        self._writer: cv2.VideoWriter | None = None
        self._written, self._size = 0, (0, 0)

    def write(self, seconds: float, picture: np.ndarray) -> None:
        if self._writer is None:
            self._size = tuple(length - length % 2 for length in picture.shape[1::-1])  # codecs take even sizes
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), cv2.CAP_FFMPEG, code, self.rate, self._size)
            if not self._writer.isOpened():
                raise UserError(
                    f"{self.path}: the video cannot be written: is the folder writable? --no_pictures does without"
                )
        width, height = self._size
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        fitting = bgr[:height, :width] if bgr.shape[0] - height in (0, 1) and bgr.shape[1] - width in (0, 1) else None
        bgr = np.ascontiguousarray(cv2.resize(bgr, self._size) if fitting is None else fitting)
        due = round(seconds * self.rate) + 1 - self._written  # a file's rate may vary
        for _ in range(min(due if self.live else max(1, due), int(_LONGEST_GAP * self.rate))):
            self._writer.write(bgr)
            self._written += 1

    def close(self) -> None:
        """Ends the file; UserError if it cannot be read."""
        if self._writer is not None:
            self._writer.release()
            if cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT) <= 0:
                raise UserError(f"{self.path}: the video is not whole: is the disk full?")

"""The detect command on photos: read, run, drawn and written at once, shared by torchrun's processes."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.dataset import read_record
from detection.detections import Detections
from detection.detector import Detector, Seen
from detection.drawing import save_image
from detection.ensembles import Fusion
from detection.images import read_image
from detection.outputs import save_files
from detection.sources import find_images
from divdet.commands.finding import Finder, load_detector, objects_of, picture_of, threads_of
from divdet.commands.fused_checkpoints import checkpoints_of
from divdet.commands.partial_results import PartialResults
from divdet.commands.photo_sources import Photo, match_annotations, name_photos
from divdet.commands.result_files import write_results
from divdet.commands.settings import Detect
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.files import make_folder, remove_unfinished
from divdet.engine.fingerprint import digest, digest_file
from divdet.engine.launch import processes
from divdet.engine.pipeline import in_threads
from divdet.engine.progress import progress
from divdet.engine.stopping import Stopped, Stopping, stop_on_signals
from divdet.engine.words import counted

_AHEAD = 4  # batches that are read before the network needs them, and that wait to be written


class _Read(NamedTuple):
    """An image that was read, or why it was not."""

    photo: Photo
    image: np.ndarray | None  # None, too, where it is not needed any more
    seen: Seen | None
    error: str | None


class _Batch(NamedTuple):
    number: int
    images: list[_Read]
    found: list[Detections]


def detect_photos(config: Detect) -> Path:
    """As ``detect``, of photos; under torchrun this process's share of them, and the main one's results of all."""
    with processes(config.device, 1, False) as (world, device):
        config = replace(config, device=str(device))
        folder = Path(config.output or "runs/detect")
        paths = world.await_main(lambda: find_images(config.sources, folder))
        run = _Run(config, load_detector(config), folder, paths, world)
        run.go()
        world.await_all()
    if world.is_main_process:  # the others need not wait
        run.finish()
    return folder / "detections.json"


class _Run:
    """One process's part of a run over photos."""

    def __init__(
        self, config: Detect, detector: Detector | Fusion, folder: Path, paths: list[str], world: World
    ) -> None:
        self.config, self.detector, self.folder, self.finder = config, detector, folder, Finder(detector, config)
        records, self.category_ids, named = {}, detector.category_ids, False
        if config.data.val_annotations or config.data.path:
            records, annotations = match_annotations(paths, config.data, detector)
            self.category_ids, named = annotations.category_ids, annotations.named
        self.photos = name_photos(paths, records, named, folder)
        make_folder(folder)
        settings = _run_settings(config, paths, records, self.category_ids)
        self.partial = partial = PartialResults(folder, settings, config.resume == "auto", world)
        if partial.done:
            print(f"resuming {partial.path} after {counted(len(partial.done), 'batch', 'batches')}")
        elif (folder / "detections.json").exists():
            print(f"note: {folder / 'detections.json'} of an earlier run is replaced; its other files stay")
        # Images that need tiles are large: one in memory at a time
        self.step, self.ahead = (1, 1) if config.tile else (config.batch_size, _AHEAD)
        left = [number for number in range(-(-len(paths) // self.step)) if number not in partial.done]
        self.numbers = left[world.replica :: world.replicas]
        self.alone, self.workers = world.size == 1, threads_of(config)

    def go(self) -> None:
        """Runs the detector on this process's batches."""
        soon = [self._photos(number) for number in self.numbers[: 2 * _AHEAD + 1]]
        left_behind = [self.folder / photo.picture for batch in soon for photo in batch]
        if self.alone:
            for part in ("crops", "labels"):
                for path in (self.folder / part).rglob(".????????.*.tmp"):
                    path.unlink(missing_ok=True)
        remove_unfinished(self.folder / "detections.json", *left_behind)  # of a run that was killed while it wrote
        left = total = sum(len(self._photos(number)) for number in self.numbers)
        with stop_on_signals() as stopping:
            bar = progress((), "detecting", unit="image", total=total)
            found = self._found(stopping)
            for number, images, unreadable in in_threads(self._write, found, self.workers, self.ahead):
                self.partial.add(number, images, unreadable)
                bar.update(len(images) + len(unreadable))
                left -= len(images) + len(unreadable)
            bar.close()
            if stopping.signal and left:
                raise Stopped(
                    stopping.signal,
                    f"stopped, with {left} of {counted(total, 'image')} left; {self.partial.path} holds what was "
                    "found: continue with --resume auto",
                )

    def _photos(self, number: int) -> list[Photo]:
        return self.photos[number * self.step : (number + 1) * self.step]

    def _found(self, stopping: Stopping) -> Iterator[_Batch]:
        """What is found in each batch, until a signal comes."""
        photos = (photo for number in self.numbers for photo in self._photos(number))
        reads = in_threads(self._read, photos, self.workers, self.ahead * self.step)
        for number in self.numbers:
            batch = list(islice(reads, len(self._photos(number))))
            good = [read for read in batch if read.error is None]
            yield _Batch(number, batch, self.finder.find([r.image for r in good], [r.seen for r in good]))
            if stopping.signal:
                return

    def _read(self, photo: Photo) -> _Read:
        upright = self.config.data.orientation != "stored"
        try:
            image = read_record(photo.record) if photo.record else read_image(photo.path, orient=upright)
        except UserError as error:
            return _Read(photo, None, None, str(error))
        seen = self.finder.prepare(image)
        drawn = not self.config.no_pictures or self.config.save
        return _Read(photo, image if drawn or seen is None else None, seen, None)

    def _write(self, batch: _Batch) -> tuple[int, list[dict[str, Any]], list[str]]:
        """Draws a batch; returns its results, without the classes that annotations do not list."""
        config, names, results = self.config, self.detector.names, []
        good = [read for read in batch.images if read.error is None]
        for (photo, image, seen, _), found in zip(good, batch.found, strict=True):
            if not config.no_pictures:
                save_image(self.folder / photo.picture, picture_of(image, found, names, config))
            if config.save:
                save_files(config.save, self.folder, os.path.splitext(photo.picture)[0], image, found, names)
            width, height = seen.size if seen else image.shape[1::-1]
            results.append(
                {"image_id": photo.image_id, "file_name": photo.file_name, "width": width, "height": height}
                | {"objects": objects_of(found, names, self.category_ids)}
            )
        return batch.number, results, [read.error for read in batch.images if read.error is not None]

    def finish(self) -> None:
        """Write detections.json of all batches; raise UserError for images that could not be read."""
        images = empty = objects = 0
        unreadable: list[str] = []
        for batch in self.partial.batches():
            images += len(batch["images"])
            empty += sum(not image["objects"] for image in batch["images"])
            objects += sum(len(image["objects"]) for image in batch["images"])
            unreadable += batch["unreadable"]
        if images:
            write_results(self.partial.images, self.folder, self.detector.names, self.config.save or ())
            apart = " (class_thresholds apart)" if self.config.postprocess.class_thresholds else ""
            found = f"{counted(objects, 'object')} at score ≥ {self.config.score_threshold:g}{apart}"
            print(f"{found} in {counted(images, 'image')} ({empty} without any); wrote {self.folder}")
        self.partial.remove()
        if len(unreadable) == 1 and not images:
            raise UserError(unreadable[0])
        if len(unreadable) > 1:
            print(*unreadable, sep="\n", file=sys.stderr)
        if unreadable:
            count = f"{len(unreadable)} of {images + len(unreadable)}" if images else f"none of the {len(unreadable)}"
            verb = "could not be read" if images else "could be read"
            raise UserError(f"{count} images {verb}, the first: {unreadable[0]}")


def _run_settings(
    config: Detect, paths: list[str], records: dict[str, Any], category_ids: Sequence[int | None]
) -> dict[str, Any]:
    """What the results depend on: settings, and digests of the checkpoint, the annotations and the images' names."""
    left_out = ("output", "device", "seed", "resume", "workers")
    settings = {key: value for key, value in asdict(config).items() if key not in left_out}
    digests = ",".join(digest_file(path) for path in checkpoints_of(config))
    settings["checkpoint"], settings["sources"] = digests, digest(paths)
    if records:
        named = [
            (record.id, record.file_name, record.width, record.height, record.upright) for record in records.values()
        ]
        settings["data"] |= {"val_annotations": digest(named, list(category_ids))}
    return settings

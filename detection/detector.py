"""A trained detector: from images to boxes in pixels."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from detection.data.coco_json import category_name, show
from detection.default_boxes import ssd300_default_boxes
from detection.detections import Detections
from detection.images import read_image
from detection.models.ssd import SSD, create_ssd
from detection.postprocess import Boxes, fuse, member_boxes
from detection.preprocess import to_input
from detection.runtimes.backends import FromPixels, Network, create_network, runtime_device
from detection.settings import EvalDataSettings, Orientation, PostprocessSettings, RuntimeSettings
from divdet.engine import checkpoint
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.concurrency import one_thread_in_forks
from divdet.engine.distributed import World
from divdet.engine.errors import UserError
from divdet.engine.images import decode_image

_TURN = Image.Transpose
_TURNS = {  # by EXIF orientation
    2: _TURN.FLIP_LEFT_RIGHT,
    3: _TURN.ROTATE_180,
    4: _TURN.FLIP_TOP_BOTTOM,
    5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE,
    8: _TURN.ROTATE_90,
}


class Detector:
    """A detector with its classes and post-processing.

    Attributes:
        model: the ``SSD``, in evaluation mode.
        names: class names by label.
        category_ids: the training data's category ids by label.
        settings: thresholds of post-processing and fusion.
        network: what runs, from images to raw outputs. Made from a module, the module itself; of a loaded detector a
            copy of ``model``, folded or exported, that later changes of ``model`` do not reach.
    """

    def __init__(
        self, model: SSD, names: list[str], category_ids: list[int], settings: PostprocessSettings, device: torch.device
    ) -> None:
        self.model = model.to(device).eval()
        self.network: Network = FromPixels(self.model)
        self.names, self.category_ids, self.settings, self.device = names, category_ids, settings, device
        self.default_boxes = ssd300_default_boxes().to(device)
        self.source: str | None = None  # the checkpoint, for messages
        self.orientation: Orientation = "auto"  # data.orientation of its training
        self.process = os.getpid()
        one_thread_in_forks()

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        settings: PostprocessSettings | None = None,
        run: RuntimeSettings | None = None,
    ) -> "Detector":
        """Loads a ``train_det.py`` checkpoint.

        Args:
            path: the checkpoint.
            device: auto, cpu, cuda or cuda:N.
            settings: post-processing; by default the checkpoint's.
            run: what runs the network, and whether its members run at once; by default PyTorch, in sequence.

        Raises:
            UserError: for an unreadable, foreign or inconsistent checkpoint, a device that is not there, or a runtime
                that is not installed or cannot take the network.
        """
        run = run or RuntimeSettings()
        place = runtime_device(run, device)
        saved = checkpoint.load(path, "detection")
        calibration = run.calibration
        if run.precision == "int8" and not calibration:
            calibration = saved.setting("data.train_images", str, type(None))
        detector = cls.from_checkpoint(saved, str(path), place, settings)
        detector.network = create_network(detector.model, run, place, calibration, Path(path))
        return detector

    @classmethod
    def from_checkpoint(
        cls, saved: Checkpoint, source: str, device: torch.device, settings: PostprocessSettings | None = None
    ) -> "Detector":
        """Rebuilds the detector that a checkpoint describes; ``source`` names it in errors."""
        backbone, members = saved.setting("model.backbone", str), saved.members
        settings = settings or saved_postprocess(saved, source)
        try:
            categories = [(int(category["id"]), category["name"]) for category in saved.meta["categories"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{source}: its categories are damaged ({error!r}); use another checkpoint") from error
        names = [category_name(name) for _, name in categories]
        if None in names:
            name = categories[names.index(None)][1]
            raise UserError(
                f"{source}: has a category of name {show(name)}, which annotations cannot have: it is damaged"
            )
        try:
            model = create_ssd(backbone, members, len(categories))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        checkpoint.load_weights(model, saved.model, source)
        detector = cls(model, names, [number for number, _ in categories], settings, device)
        detector.source, detector.orientation = source, saved_orientation(saved, source)
        return detector

    def predict(
        self, images: Iterable[Any], score_threshold: float = 0.0, batch_size: int = 8, *, bgr: bool = False
    ) -> list[Detections]:
        """Finds objects in images; arrays are RGB, unless ``bgr`` says that they are OpenCV's BGR (``cv2.imread``).

        Args:
            images: paths, encoded images (bytes), PIL images, and uint8 arrays or tensors ``[H, W, 3]``; any iterable,
                of which a batch at a time is read. Files and PIL images are taken upright, by their EXIF orientation
                (as they are stored where the detector was trained with data.orientation stored). Boxes are in the
                pixels of that layout.
            score_threshold: lowest fused score that is returned, 0 to 1.
            batch_size: images per forward pass.
            bgr: arrays and tensors have their channels in the order blue, green, red. Other images are not affected.

        Raises:
            UserError: for an image that cannot be read or has another form, or an argument out of range.
        """
        array = isinstance(images, np.ndarray | Tensor) and images.ndim in (0, 2, 3)
        if array or isinstance(images, str | bytes | PathLike | Image.Image):
            raise UserError("predict takes a list of images: put the single image into brackets")
        if not isinstance(images, Iterable) or isinstance(images, Mapping):
            raise UserError(f"predict takes a list of images, not {type(images).__name__}")
        if not _is_number(score_threshold, Real) or not 0 <= score_threshold <= 1:
            raise UserError(f"score_threshold is {score_threshold!r}: choose a number from 0 to 1")
        if not _is_number(batch_size, Integral) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}: choose a whole number of at least 1")
        if not isinstance(bgr, bool):
            raise UserError(f"bgr is {bgr!r}: choose True (arrays are BGR, as OpenCV reads them) or False (RGB)")
        found: list[Detections] = []
        remaining = iter(images)
        while batch := list(islice(remaining, batch_size)):
            arrays = [
                _as_array(image, f"images[{position}]", bgr, self.orientation != "stored")
                for position, image in enumerate(batch, len(found))
            ]
            inputs = torch.from_numpy(np.stack([to_input(array) for array in arrays]))
            _, fused = self.detect(inputs)
            for array, result in zip(arrays, fused, strict=True):
                result = to_pixels(result, array.shape[1], array.shape[0])
                kept = result.scores >= score_threshold
                labels = result.labels[kept]
                names = [self.names[label] for label in labels.tolist()]
                found.append(Detections(result.boxes[kept], result.scores[kept], labels, names))
        return found

    @torch.inference_mode()
    def detect(self, inputs: Tensor, world: World | None = None) -> tuple[list[list[Boxes]], list[Boxes]]:
        """Runs the network and its post-processing.

        Args:
            inputs: ``[N, 300, 300, 3]`` uint8 RGB.
            world: where other processes have the other members, which get the same inputs.

        Returns:
            Every member's boxes (S lists of N) and the fused ones (N), in [0, 1]; see ``postprocess``.
        """
        on_cpu = self.device.type == "cpu" and isinstance(self.network, FromPixels)
        if os.getpid() != self.process and not on_cpu:
            raise UserError(
                "the detector was loaded before this process was forked, which works only with --runtime torch on the "
                "CPU: start the process by multiprocessing's spawn method"
            )
        outputs = self.network(inputs.to(self.device, non_blocking=True))
        try:
            members = member_boxes(*outputs, self.default_boxes, self.resolved_settings())
        except UserError as error:
            raise UserError(f"{self.source}: {error}" if self.source else str(error)) from error
        members = (world or World()).gather_member_objects(members)
        return members, fuse(members, self.settings)

    def resolved_settings(self) -> PostprocessSettings:
        """The post-processing in force: ``max_per_member`` is filled in with S, of which a process may have a part."""
        limit = self.settings.max_per_member or 200 * len(self.model.members)
        return replace(self.settings, max_per_member=limit)


def saved_postprocess(saved: Checkpoint, source: str) -> PostprocessSettings:
    """The post-processing of a checkpoint; ``source`` names it in the UserError for damaged settings."""
    try:
        return PostprocessSettings(**saved.setting("postprocess", dict))
    except (TypeError, UserError) as error:
        raise UserError(f"{source}: its settings are damaged ({error}); use another checkpoint") from error


def saved_orientation(saved: Checkpoint, source: str) -> Orientation:
    """data.orientation of a checkpoint, auto in older ones that lack it; ``source`` names it in the UserError."""
    try:
        return EvalDataSettings(orientation=saved.setting("data", dict).get("orientation", "auto")).orientation
    except (TypeError, UserError) as error:
        raise UserError(f"{source}: its settings are damaged ({error}); use another checkpoint") from error


def to_pixels(result: Boxes, width: int, height: int) -> Boxes:
    """Boxes in [0, 1] as pixels of an image, clipped to it; one that lies outside is left out, as fusion does."""
    size = torch.tensor([width, height, width, height], dtype=result.boxes.dtype)
    boxes = result.boxes.clamp(0, 1) * size
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Boxes(boxes[inside], result.scores[inside], result.labels[inside])


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _turned(image: Image.Image) -> Image.Image:
    """A PIL image with its EXIF orientation applied; ImageOps.exif_transpose also rewrites the EXIF, which may fail."""
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    return image if turn is None else image.transpose(turn)


def _as_array(image: Any, name: str, bgr: bool, upright: bool) -> np.ndarray:
    """An image as RGB uint8 [H, W, 3]; ``name`` stands for it in errors."""
    if isinstance(image, str | PathLike):
        return read_image(fspath(image), orient=upright)
    if isinstance(image, bytes):
        return decode_image(image, name, upright)
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise UserError(f"{name} is a PIL image of mode {image.mode}: convert it to 8-bit RGB first")
        try:
            image, bgr = np.asarray((_turned(image) if upright else image).convert("RGB")), False
        except Exception as error:  # Pillow decodes here, and damaged EXIF raises many kinds
            raise UserError(f"{name} is a PIL image that cannot be decoded: {error}") from error
    kind = type(image).__name__
    if isinstance(image, np.ndarray | Tensor):
        kind = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
        if kind.startswith("uint8 ") and image.ndim == 3 and image.shape[2] == 3 and 0 not in image.shape:
            array = image.cpu().numpy() if isinstance(image, Tensor) else image
            return np.ascontiguousarray(array[..., ::-1]) if bgr else array
    raise UserError(f"{name} is {kind}: give a path, a PIL image, or RGB uint8 [H, W, 3] (bgr=True for OpenCV's BGR)")

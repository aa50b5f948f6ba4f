"""A trained detector: from images to boxes in pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from detection.category_names import category_name
from detection.detections import Detections
from detection.heads import Input
from detection.images import as_rgb, is_pil
from detection.models.head import DividedDetector, create_detector
from detection.postprocess import Boxes, fuse, head_boxes
from detection.preprocess import FromPixels, Network, seen_share, to_input
from detection.settings import DataSettings, ModelSettings, Orientation, PostprocessSettings, RuntimeSettings
from divdet.engine import checkpoint
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from divdet.engine.distributed import World

    ImageLike = str | PathLike[str] | bytes | Image.Image | np.ndarray | Tensor


class Detector:
    """A detector with its classes and post-processing.

    Attributes:
        model: the network (an ``SSD``, say), in evaluation mode.
        names: class names by label.
        category_ids: category ids of the training data by label.
        network: what runs, from images to raw outputs: ``model`` itself or, in a detector that was loaded, a copy of it
            (with fused batch norms, or exported), which later changes of ``model`` do not reach.

    Example:
        >>> import numpy as np, torch
        >>> from detection import Detector, create_ssd
        >>> from detection.settings import PostprocessSettings
        >>> model = create_ssd("resnet10_16", members=2, num_classes=2)
        >>> detector = Detector(model, ["cat", "dog"], [17, 18], PostprocessSettings(), torch.device("cpu"))
        >>> image = np.zeros((120, 160, 3), np.uint8)
        >>> found = detector(image, score_threshold=1.0)
        >>> found
        Detections(0 objects)
        >>> len(found.members)
        2
        >>> detector([image, image], score_threshold=1.0)
        [Detections(0 objects), Detections(0 objects)]
    """

    def __init__(
        self,
        model: DividedDetector,
        names: list[str],
        category_ids: list[int],
        settings: PostprocessSettings,
        device: torch.device,
        network: Network | None = None,
    ) -> None:
        from divdet.engine.concurrency import one_thread_in_forks

        self.model = model.to(device).eval()
        self.network: Network = network or FromPixels(self.model)
        self.names, self.category_ids, self.settings, self.device = names, category_ids, settings, device
        self.source: str | None = None  # the checkpoint, for messages
        self.orientation: Orientation = "auto"  # data.orientation of its training
        self.process = os.getpid()
        one_thread_in_forks()

    def __repr__(self) -> str:
        source = f", {self.source}" if self.source else ""
        return f"Detector(S={len(self.model.members)}, {len(self.names)} classes, {self.device}{source})"

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "auto",
        settings: PostprocessSettings | None = None,
        run: RuntimeSettings | None = None,
    ) -> Detector:
        """Loads a ``train_det.py`` checkpoint, or what ``divdet export`` made of one.

        Args:
            path: the checkpoint, or an exported .onnx, .xml or .pt2.
            device: auto, cpu, cuda or cuda:N.
            settings: post-processing; default: the checkpoint's.
            run: runtime, precision and concurrency; default: PyTorch, one after the other.

        Raises:
            UserError: if the checkpoint is unreadable, foreign or inconsistent, the device does not exist, or the
                runtime is not installed or cannot take the network.
        """
        from detection.runtimes.backends import create_network, runtime_device

        if Path(path).suffix in (".onnx", ".xml", ".pt2"):
            from detection.runtimes.exported import load_exported

            return load_exported(path, device, settings, run)
        run = run or RuntimeSettings()
        place = runtime_device(run, device)
        saved = checkpoint.load(path, "detection")
        detector = cls.from_checkpoint(saved, place, settings)
        calibration = run.calibration or (saved_settings(saved)[1].train_images if run.precision == "int8" else None)
        detector.network = create_network(detector.model, run, place, calibration)
        return detector

    @classmethod
    def from_checkpoint(
        cls, saved: Checkpoint, device: torch.device, settings: PostprocessSettings | None = None
    ) -> Detector:
        """Rebuilds the detector of a checkpoint; raises UserError if its content is inconsistent."""
        source, model_settings = saved.source, saved_model(saved)
        saved_postprocess, data = saved_settings(saved)
        try:
            categories = [(int(category["id"]), category["name"]) for category in saved.meta["categories"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{source}: its categories are damaged ({error!r}); use another checkpoint") from error
        names = [category_name(name) for _, name in categories]
        if None in names:
            wrong = categories[names.index(None)][1]
            raise UserError(f"{source}: has the invalid category name {wrong!r:.200}; it is damaged")
        try:
            model = create_model(model_settings, len(categories))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        checkpoint.load_weights(model, saved.model, source)
        detector = cls(model, names, [number for number, _ in categories], settings or saved_postprocess, device)
        detector.source, detector.orientation = source, data.orientation
        return detector

    @overload
    def predict(
        self, images: ImageLike, score_threshold: float = ..., batch_size: int = ..., *, bgr: bool = ...
    ) -> Detections: ...

    @overload
    def predict(
        self, images: Sequence[ImageLike], score_threshold: float = ..., batch_size: int = ..., *, bgr: bool = ...
    ) -> list[Detections]: ...

    @overload
    def predict(
        self, images: Iterable[ImageLike], score_threshold: float = ..., batch_size: int = ..., *, bgr: bool = ...
    ) -> Iterator[Detections]: ...

    def predict(self, images: Any, score_threshold: float = 0.0, batch_size: int = 8, *, bgr: bool = False) -> Any:
        """Finds objects in one image or in several; ``detector(images)`` does the same.

        Args:
            images: an image; a sequence or an array ``[N, H, W, 3]`` of images; or any other iterable of them, which
                is read a batch at a time. An image is a path, an encoded image (bytes or an open file), a PIL image, or
                a uint8 array or tensor ``[H, W, 3]``. Files and PIL images are turned upright by their EXIF
                orientation, unless the detector was trained with ``data.orientation`` "stored".
            score_threshold: lowest score that is returned, 0 to 1.
            batch_size: images per forward pass.
            bgr: arrays and tensors are BGR, as OpenCV reads images, instead of RGB. Other images are not affected.

        Returns:
            One ``Detections`` for one image, a list for a sequence or array, and a generator for other iterables.

        Raises:
            UserError: for an argument out of range; for an image that cannot be read or has another form, which in a
                generator comes when its batch is reached.
        """
        array = isinstance(images, np.ndarray | Tensor)
        single = isinstance(images, str | bytes | PathLike) or is_pil(images) or hasattr(images, "read")
        single = single or (array and images.ndim in (0, 2, 3))
        if not single and (not isinstance(images, Iterable) or isinstance(images, Mapping)):
            raise UserError(f"predict takes an image or a list of images, not {type(images).__name__}")
        if not _is_number(score_threshold, Real) or not 0 <= score_threshold <= 1:
            raise UserError(f"score_threshold is {score_threshold!r}: choose a number from 0 to 1")
        if not _is_number(batch_size, Integral) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}: choose a whole number of at least 1")
        if not isinstance(bgr, bool):
            raise UserError(f"bgr is {bgr!r}: choose True (arrays are BGR, as OpenCV reads them) or False (RGB)")
        if single:
            return self._predict_batch([images], ["the image"], score_threshold, bgr)[0]
        found = self._predict_all(iter(images), score_threshold, batch_size, bgr)
        return list(found) if array or isinstance(images, Sequence) else found

    __call__ = predict

    def _predict_all(
        self, images: Iterator[Any], score_threshold: float, batch_size: int, bgr: bool
    ) -> Iterator[Detections]:
        done = 0
        while batch := list(islice(images, batch_size)):
            names = [f"images[{position}]" for position in range(done, done + len(batch))]
            yield from self._predict_batch(batch, names, score_threshold, bgr)
            done += len(batch)

    def _predict_batch(
        self, images: list[Any], image_names: list[str], score_threshold: float, bgr: bool
    ) -> list[Detections]:
        orient = self.orientation != "stored"
        arrays = [as_rgb(image, name, bgr, orient) for image, name in zip(images, image_names, strict=True)]
        members, fused = self.detect(torch.from_numpy(np.stack([to_input(array, self.input) for array in arrays])))
        found = []
        for position, (image, array) in enumerate(zip(images, arrays, strict=True)):
            source, size = image if isinstance(image, str | PathLike | bytes) else array, array.shape[1::-1]
            own = tuple(self._detections(member[position], size, source) for member in members)
            found.append(replace(self._detections(fused[position], size, source, score_threshold), members=own))
        return found

    def _detections(self, found: Boxes, size: tuple[int, int], source: Any, score_threshold: float = 0.0) -> Detections:
        boxes, scores, labels = to_pixels(found, *size, self.input)
        kept = scores >= score_threshold
        names = [self.names[label] for label in labels[kept].tolist()]
        orient = self.orientation != "stored"
        return Detections(boxes[kept], scores[kept], labels[kept], names, (), self.category_ids, source, orient)

    @property
    def input(self) -> Input:
        """What the network takes, and how images are brought to it."""
        return self.model.input

    @torch.inference_mode()
    def detect(self, inputs: Tensor, world: World | None = None) -> tuple[list[list[Boxes]], list[Boxes]]:
        """Runs the network and its post-processing.

        Args:
            inputs: ``[N, size, size, 3]`` uint8 RGB, as ``to_input`` makes them for ``self.input``.
            world: if given, the members are spread over its processes, which all get the same inputs.

        Returns:
            Each member's boxes (S lists of N) and the fused ones (N), as fractions of the input; see ``postprocess``.
        """
        on_cpu = self.device.type == "cpu" and isinstance(self.network, FromPixels)
        if os.getpid() != self.process and not on_cpu:
            raise UserError(
                "the detector was loaded before this process was forked, which works only with --runtime torch on the "
                "CPU: start the process by multiprocessing's spawn method"
            )
        outputs = self.network(inputs.to(self.device, non_blocking=True))
        settings = self.resolved_settings() if world else self.settings
        try:
            members = self._head_boxes(outputs, settings)
        except UserError as error:
            raise UserError(f"{self.source}: {error}" if self.source else str(error)) from error
        if world:
            members = world.gather_member_objects(members)
        return members, fuse(members, self.settings)

    def _head_boxes(self, outputs: tuple[Tensor, ...], settings: PostprocessSettings) -> list[list[Boxes]]:
        return head_boxes(self.model, *outputs, settings)

    def resolved_settings(self) -> PostprocessSettings:
        """Returns the settings with ``max_per_member`` filled in, which depends on S: a process may have one member."""
        limit = self.settings.max_per_member or 200 * len(self.model.members)
        return replace(self.settings, max_per_member=limit)


def saved_settings(saved: Checkpoint) -> tuple[PostprocessSettings, DataSettings]:
    """Reads a checkpoint's settings. Raises UserError if they are damaged."""
    postprocess, data = saved.setting("postprocess", dict), saved.setting("data", dict)
    try:
        return PostprocessSettings(**postprocess), DataSettings(**data)
    except (AttributeError, OverflowError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{saved.source}: its settings are damaged ({error}); use another checkpoint") from error


def saved_model(saved: Checkpoint) -> ModelSettings:
    """Reads what a checkpoint's detector is; earlier ones are of SSD300. Raises UserError if it is damaged."""
    backbone, known = saved.setting("model.backbone", str), saved.config["model"]
    head, size = known.get("head", "ssd300"), known.get("input_size")
    try:
        return ModelSettings(backbone, saved.members, head=head, input_size=size)
    except UserError as error:
        raise UserError(f"{saved.source}: {error}") from error


def create_model(settings: ModelSettings, num_classes: int, pretrained: bool = False) -> DividedDetector:
    """Creates the detector that a recipe's section names; see ``create_detector``."""
    shape = (settings.head, settings.backbone, settings.members, num_classes)
    return create_detector(*shape, settings.input_size, pretrained)


def to_pixels(result: Boxes, width: int, height: int, form: Input) -> Boxes:
    """Converts boxes in fractions of the input to pixels of an image of that size, the inverse of ``to_input``.

    They are clipped to the image; boxes that lie outside are dropped.
    """
    share = torch.tensor([*seen_share(width, height, form)] * 2, dtype=result.boxes.dtype)
    size = torch.tensor([width, height, width, height], dtype=result.boxes.dtype)
    boxes = (result.boxes / share).clamp(0, 1) * size
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Boxes(boxes[inside], result.scores[inside], result.labels[inside])


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)

"""A trained detector: from images to boxes in pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from itertools import islice
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from detection.boxes import Boxes, ClassRules
from detection.detections import Detections
from detection.heads import Input
from detection.images import as_rgb, check_bgr, check_threshold, named_images, source_of
from detection.postprocess import fuse, head_boxes
from detection.prediction_settings import EXPORT_ENDINGS, PostprocessSettings, RuntimeSettings, ViewSettings
from detection.preprocess import FromPixels, Network, to_input, to_pixels
from detection.saved import create_model, saved_categories, saved_model, saved_settings
from detection.settings import Orientation
from divdet.engine import checkpoint
from divdet.engine.checkpoint import Checkpoint
from divdet.engine.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from detection.models.head import DividedDetector
    from detection.runtimes.exported import ExportedModel
    from detection.views import Found, Shown
    from divdet.engine.distributed import World

    ImageLike = str | PathLike[str] | bytes | Image.Image | np.ndarray | Tensor


class Seen(NamedTuple):
    """An image as the network sees it.

    Attributes:
        input: uint8 RGB ``[size, size, 3]``, see ``to_input``.
        size: width and height of the image.
        source: what ``Detections.source`` will be.
    """

    input: np.ndarray
    size: tuple[int, int]
    source: np.ndarray | str | Path | bytes | None


class Detector:
    """A detector with its classes and post-processing.

    Attributes:
        model: the network (an ``SSD``, say), in evaluation mode; of an exported file an ``ExportedModel``.
        names: class names by label.
        category_ids: category ids of the training data by label.
        network: what runs, from images to raw outputs: ``model`` itself or, in a detector that was loaded, a copy of it
            (with fused batch norms, or exported), which later changes of ``model`` do not reach.

    Example:
        >>> import numpy as np, torch
        >>> from detection import Detector, create_ssd
        >>> from detection.prediction_settings import PostprocessSettings
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
        model: DividedDetector | ExportedModel,
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
        _ = self.rules  # refuses classes that it lacks
        one_thread_in_forks()

    @wraps(__init__)
    def __new__(cls, *given: Any, **named: Any) -> Detector:
        if cls is Detector and isinstance(file := named.get("model", *given[:1]), str | PathLike):
            raise UserError(f"Detector takes a network; a file is loaded by Detector.load({str(file)!r})")
        return super().__new__(cls)

    def __repr__(self) -> str:
        count, source = len(self.names), f", {self.source}" if self.source else ""
        return f"Detector(S={len(self.model.members)}, {count} class{'es' * (count > 1)}, {self.device}{source})"

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        settings: PostprocessSettings | None = None,
        run: RuntimeSettings | None = None,
    ) -> Detector:
        """Loads a ``train-det`` checkpoint, or what ``divdet export`` made of one.

        Args:
            path: the checkpoint, or an exported .onnx, .xml or .pt2.
            device: auto, cpu, cuda or cuda:N; or torch's own.
            settings: post-processing; default: the checkpoint's.
            run: runtime, precision and concurrency; default: PyTorch, one after the other.

        Raises:
            UserError: if the checkpoint is unreadable, foreign or inconsistent, the device does not exist, or the
                runtime is not installed or cannot take the network.
        """
        from detection.runtimes.backends import create_network
        from detection.runtimes.running import runtime_device

        for given, kind in ((settings, PostprocessSettings), (run, RuntimeSettings)):
            if not isinstance(given, kind | None):
                raise UserError(f"{given!r} is no {kind.__name__}: give {kind.__name__}(…)")
        device = str(device)
        if Path(path).suffix in EXPORT_ENDINGS.values():
            from detection.runtimes.exported import load_exported

            model, *known, data, network = load_exported(path, device, settings, run)
            detector = cls(model, *known, torch.device("cpu"), network)
            detector.source, detector.orientation = str(path), data.orientation
            return detector
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
        names, category_ids = saved_categories(saved)
        try:
            model = create_model(model_settings, len(names))
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        checkpoint.load_weights(model, saved.model, source)
        detector = cls(model, names, category_ids, settings or saved_postprocess, device)
        detector.source, detector.orientation = source, data.orientation
        return detector

    @overload
    def predict(
        self, images: ImageLike, score_threshold: float = ..., batch_size: int = ..., **options: Any
    ) -> Detections: ...

    @overload
    def predict(
        self, images: Sequence[ImageLike], score_threshold: float = ..., batch_size: int = ..., **options: Any
    ) -> list[Detections]: ...

    @overload
    def predict(
        self, images: Iterable[ImageLike], score_threshold: float = ..., batch_size: int = ..., **options: Any
    ) -> Iterator[Detections]: ...

    def predict(
        self,
        images: Any,
        score_threshold: float = 0.0,
        batch_size: int = 8,
        *,
        bgr: bool = False,
        tile: int | None = None,
        overlap: float = 0.2,
        whole_image: bool = True,
        tta: str | None = None,
        classes: Sequence[str | int] | str | None = None,
        class_thresholds: Mapping[str | int, float] | None = None,
    ) -> Any:
        """Finds objects in one image or in several; ``detector(images)`` does the same.

        Args:
            images: an image; a sequence or an array ``[N, H, W, 3]`` of images; or any other iterable of them, which
                is read a batch at a time. An image is a path, an encoded image (bytes or an open file), a PIL image, or
                a uint8 array or tensor ``[H, W, 3]``. Files and PIL images are turned upright by their EXIF
                orientation, unless the detector was trained with ``data.orientation`` "stored".
            score_threshold: lowest score that is returned, 0 to 1.
            batch_size: inputs of the network per forward pass: images, or their tiles and other views.
            bgr: arrays and tensors are BGR, as OpenCV reads images, instead of RGB. Other images are not affected.
            tile, overlap, whole_image, tta: how images are seen; see ``ViewSettings``.
            classes: names or category ids of the classes to find; default: those of ``settings``, or all.
            class_thresholds: scores by class name or category id in place of ``score_threshold``; default: those of
                ``settings``.

        Returns:
            One ``Detections`` for one image, a list for a sequence or array, and a generator for other iterables.

        Raises:
            UserError: for an argument out of range; for an image that cannot be read or has another form, which in a
                generator comes when its batch is reached.
        """
        named, single, listed = named_images(images)
        check_threshold(score_threshold)
        if not isinstance(batch_size, Integral) or isinstance(batch_size, bool) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}: choose a whole number of at least 1")
        check_bgr(bgr)
        several = (tile, overlap, whole_image, tta) != (None, 0.2, True, None)
        views = ViewSettings(tile=tile, overlap=overlap, whole_image=whole_image, tta=tta) if several else None
        settings = self.settings
        if classes is not None:
            settings = replace(settings, classes=classes)
        if class_thresholds is not None:
            settings = replace(settings, class_thresholds=class_thresholds)
        rules = ClassRules.of(settings, self.names, self.category_ids, float(score_threshold))
        if views:
            found = self._predict_views(named, int(batch_size), bgr, rules, views)
        else:
            found = self._predict_whole(named, int(batch_size), bgr, rules)
        if single:
            return next(found)
        return list(found) if listed else found

    __call__ = predict

    def stream(
        self,
        source: str | PathLike[str],
        score_threshold: float = 0.0,
        batch_size: int = 1,
        *,
        frames: Literal["all", "newest"] | None = None,
        max_frames: int | None = None,
        **options: Any,
    ) -> Iterator[Detections]:
        """Finds objects in each frame of a video, in constant memory; closing the generator ends its thread.

        Args:
            source: a video file, a camera (``camera:0``) or a stream's address.
            score_threshold, batch_size, options: as of ``predict``.
            frames: of a camera or stream, all frames, or the newest (default): those that come in the meantime are
                passed over.
            max_frames: how many to take; default: until the end.

        Yields:
            ``Detections`` with ``frame``, ``seconds``, and the frame as ``source``.

        Raises:
            UserError: at the first frame, for arguments and sources that cannot be used; later for a stream that ends
                or gives no frame for 20 seconds.
        """
        from detection.videos import Video, stream

        with Video(source, frames) as video:
            for _, found in stream(self, video, score_threshold, batch_size, max_frames, **options):
                yield found

    def _predict_whole(
        self, images: Iterable[tuple[str, Any]], batch_size: int, bgr: bool, rules: ClassRules
    ) -> Iterator[Detections]:
        orient, left = self.orientation != "stored", iter(images)
        while batch := list(islice(left, batch_size)):
            arrays = [as_rgb(image, name, bgr, orient) for name, image in batch]
            seen = [self.see(array, source_of(image, array)) for (_, image), array in zip(batch, arrays, strict=True)]
            yield from self.find(seen, rules)

    def see(self, image: np.ndarray, source: np.ndarray | str | Path | bytes | None = None) -> Seen:
        """The first half of ``predict``, which threads may call beside ``find``.

        Args:
            image: uint8 RGB ``[H, W, 3]``.
            source: what ``Detections.source`` will be.
        """
        return Seen(to_input(image, self.input), image.shape[1::-1], source)

    def find(self, images: Sequence[Seen], rules: ClassRules | Sequence[ClassRules]) -> list[Detections]:
        """The second half of ``predict``: what is found in images, by one forward pass; by rules for all, or each."""
        members, fused = self.detect(torch.from_numpy(np.stack([image.input for image in images])), rules=rules)
        return [
            self._detections(fused[position], [member[position] for member in members], image.size, image.source)
            for position, image in enumerate(images)
        ]

    def _predict_views(
        self, images: Iterable[tuple[str, Any]], batch_size: int, bgr: bool, rules: ClassRules, views: ViewSettings
    ) -> Iterator[Detections]:
        from detection.views import cut_views  # imported here: most detectors see images once, and whole

        orient, sources = self.orientation != "stored", {}

        def read() -> Iterator[tuple[int, np.ndarray]]:
            for number, (name, image) in enumerate(images):
                array = as_rgb(image, name, bgr, orient)
                sources[number] = source_of(image, array)
                yield number, array

        for found in self.detect_views(cut_views(read(), views, self.input, batch_size), rules):
            yield self._detections(found.fused, found.members, found.size, sources.pop(found.image))

    def _detections(self, fused: Boxes, members: list[Boxes], size: tuple[int, int], source: Any) -> Detections:
        orient = self.orientation != "stored"

        def of(boxes: Boxes, members: tuple[Detections, ...] = ()) -> Detections:
            boxes = to_pixels(boxes, *size, self.input)
            names = [self.names[label] for label in boxes.labels.tolist()]
            return Detections(*boxes, names, members, self.category_ids, source, orient)

        return of(fused, tuple(map(of, members)))

    @property
    def input(self) -> Input:
        """What the network takes, and how images are brought to it."""
        return self.model.input

    def detect(
        self, inputs: Tensor, world: World | None = None, rules: ClassRules | Sequence[ClassRules] | None = None
    ) -> tuple[list[list[Boxes]], list[Boxes]]:
        """Runs the network and its post-processing.

        Args:
            inputs: ``[N, size, size, 3]`` uint8 RGB, as ``to_input`` makes them for ``self.input``.
            world: if given, the members are spread over its processes, which all get the same inputs.
            rules: which boxes to keep, of all images or of each; default: as ``settings`` say.

        Returns:
            Each member's boxes (S lists of N) and the fused ones (N), as fractions of the input; see ``postprocess``.
        """
        rules = rules or self.rules
        each = [rules] * len(inputs) if isinstance(rules, ClassRules) else rules
        members = self._member_boxes(inputs, world)
        fused = [rule.apply(own) for rule, own in zip(each, fuse(members, self.settings), strict=True)]
        return [
            [rule.apply(own, final=False) for rule, own in zip(each, member, strict=True)] for member in members
        ], fused

    def detect_views(
        self, batches: Iterable[tuple[Tensor, Sequence[Shown]]], rules: ClassRules | None = None
    ) -> Iterator[Found]:
        """As ``detect``, of images that are seen in several views (``cut_views``), one after the other."""
        from detection.views import join_views

        rules = rules or self.rules

        def vote(votes: list[list[Boxes]], members: int) -> list[Boxes]:
            weights = self.settings.member_weights if members > 1 else None
            weights = weights and [weight for weight in weights for _ in range(len(votes) // members)]
            return fuse(votes, replace(self.settings, member_weights=weights))

        for found in join_views(batches, self._member_boxes, vote, self.settings.nms_iou, self.input):
            members = [rules.apply(own, final=False) for own in found.members]
            yield found._replace(members=members, fused=rules.apply(found.fused))

    @torch.inference_mode()
    def _member_boxes(self, inputs: Tensor, world: World | None = None) -> list[list[Boxes]]:
        """Each member's boxes (S lists of N) on inputs, before the fusion."""
        on_cpu = self.device.type == "cpu" and isinstance(self.network, FromPixels)
        if os.getpid() != self.process and not on_cpu:
            raise UserError(
                "the detector was loaded by another process, which works only with --runtime torch on the CPU: start "
                "this one by multiprocessing's spawn method, and load the detector in it"
            )
        outputs = self.network(inputs.to(self.device, non_blocking=True))
        settings = self.resolved_settings() if world else self.settings
        exported = not hasattr(self.model, "decode")  # its network decodes
        try:
            members = self.model.boxes(*outputs) if exported else head_boxes(self.model, *outputs, settings)
        except UserError as error:
            raise UserError(f"{self.source}: {error}" if self.source else str(error)) from error
        return world.gather_member_objects(members) if world else members

    @property
    def rules(self) -> ClassRules:
        """What ``settings`` say of classes."""
        return ClassRules.of(self.settings, self.names, self.category_ids)

    def resolved_settings(self) -> PostprocessSettings:
        """Returns the settings with ``max_per_member`` filled in, which depends on S: a process may have one member."""
        limit = self.settings.max_per_member or 200 * len(self.model.members)
        return replace(self.settings, max_per_member=limit)

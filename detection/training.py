"""Training of SSD300 with S members."""

from typing import Any

import torch
from torch import Tensor

from detection.annotations import check_same_categories
from detection.augmentation import TrainingAugmentation
from detection.config import TrainDetection
from detection.dataset import TrainingImages, collate, normalise
from detection.detector import Detector
from detection.loss import multibox_loss
from detection.matching import Matcher
from detection.scoring import read_annotations, read_ground_truth, score
from detection.ssd import SSD, create_ssd
from engine import checkpoint
from engine.devices import resolve_device
from engine.errors import UserError
from engine.loop import fit, training_loader
from engine.run_folder import RunFolder
from engine.sampling import derived_seed

# Parts of a classifier that a detector has no use for.
_CLASSIFIER_ONLY = ("layer4.", "fc.")


class DetectionTask:
    """What the training loop needs of detection (see ``engine.loop.Task``)."""

    best_metric = "AP"

    def __init__(self, config: TrainDetection, detector: Detector, ground_truth: Any) -> None:
        self.config, self.detector, self.ground_truth = config, detector, ground_truth
        self.model = detector.model
        self.weight_decay = config.train.weight_decay
        self.matcher = Matcher(detector.default_boxes)
        categories = zip(detector.category_ids, detector.names, strict=True)
        self.meta = {"categories": [{"id": number, "name": name} for number, name in categories]}

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], epoch: float) -> dict[str, Tensor]:
        """The multibox loss of a batch of ``collate``."""
        images, boxes, labels = (part.to(self.detector.device, non_blocking=True) for part in batch)
        targets = self.matcher(boxes, labels)
        return multibox_loss(*self.model(normalise(images)), *targets, self.config.train.negative_ratio)

    def evaluate(self) -> dict[str, Any]:
        """The 12 COCO numbers of the fused boxes, and each member's AP."""
        self.model.eval()
        metrics, _ = score(self.detector, self.ground_truth, self.config.train.batch_size)
        members = {f"AP_member{i + 1}": member["AP"] for i, member in enumerate(metrics["members"])}
        return {name: value for name, value in metrics.items() if isinstance(value, float)} | members


def load_pretrained(model: SSD, path: str, backbone: str) -> None:
    """Loads the backbones of a ``train_cls.py`` checkpoint, member by member; its last stage and classifier stay out.

    Raises:
        UserError: for another backbone or number of members, or any missing or mismatched weight.
    """
    saved = checkpoint.load(path, "classification")
    shape = saved["config"]["model"]
    for key, own in (("backbone", backbone), ("members", len(model.members))):
        if shape[key] != own:
            raise UserError(f"{path}: was trained with model.{key} = {shape[key]}, not {own}; set model.{key} to match")
    for number, member in enumerate(model.members):
        prefix = f"members.{number}."
        weights = {key.removeprefix(prefix): value for key, value in saved["model"].items() if key.startswith(prefix)}
        weights = {key: value for key, value in weights.items() if not key.startswith(_CLASSIFIER_ONLY)}
        checkpoint.load_weights(member, weights, f"{path} (member {number + 1})")


def train(config: TrainDetection) -> dict[str, Any]:
    """Trains a detector; returns the last epoch's metrics. The run's folder is described in ``engine.run_folder``."""
    device = resolve_device(config.device)
    data = config.data
    keys = ("data.train_annotations", "data.train_images")
    training = read_annotations(data.train_annotations, data.train_images, *keys)
    ground_truth = read_ground_truth(data)
    check_same_categories(training.category_ids, training.names, ground_truth)
    print(f"training on {data.train_annotations}: {training.describe()}")
    print(f"evaluating on {data.val_annotations}: {ground_truth.describe()}")

    torch.manual_seed(derived_seed(config.seed, "weights"))
    model = create_ssd(config.model.backbone, config.model.members, len(training.names))
    if config.model.pretrained:
        load_pretrained(model, config.model.pretrained, config.model.backbone)
    detector = Detector(model, training.names, training.category_ids, config.postprocess, device)
    images = TrainingImages(training, TrainingAugmentation(data), config.seed, data.cache)
    loader = training_loader(images, config.train, config.seed, device, collate_fn=collate)
    folder = RunFolder(config, "detection")
    return fit(DetectionTask(config, detector, ground_truth), loader, config.train, folder, device)

"""Training of SSD300 with S members."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from classification.backbones.timm_models import check_copies_differ
from classification.foreign_weights import PIP
from classification.losses import cot_weight_at
from detection.data.augmentation import TrainingAugmentation
from detection.data.coco import CocoAnnotations
from detection.data.dataset import TrainingImages, collate
from detection.data.prepare import read_splits
from detection.detector import Detector
from detection.evaluation.evaluate import score
from detection.models.ssd import create_ssd
from detection.preprocess import Normalize
from detection.settings import TrainDetection
from detection.training.matcher import Matcher
from detection.training.multibox_loss import multibox_loss
from detection.training.pretrained import load_pretrained
from divdet.engine.devices import resolve_precision
from divdet.engine.distributed import World, keep_local
from divdet.engine.errors import UserError
from divdet.engine.launch import processes
from divdet.engine.loop import fit, training_loader
from divdet.engine.run_folder import RunFolder
from divdet.engine.sampling import derived_seed


@dataclass(eq=False)
class DetectionTask:
    """What the training loop needs of detection (see ``divdet.engine.task.Task``)."""

    config: TrainDetection
    detector: Detector
    training: CocoAnnotations
    ground_truth: CocoAnnotations
    meta: dict[str, Any]
    world: World

    def __post_init__(self) -> None:
        self.best_metric = None if self.ground_truth.truth.crowd.all() else "AP"
        self.model = self.network = self.detector.model
        self.weight_decay = self.config.train.weight_decay
        self.matcher = Matcher(self.detector.default_boxes)
        self.normalize = Normalize().to(self.detector.device)

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], epoch: float) -> dict[str, Tensor]:
        """The multibox loss of a batch of ``collate``."""
        images, boxes, labels = (part.to(self.detector.device, non_blocking=True) for part in batch)
        views = self.normalize(images.transpose(0, 1).contiguous())
        self.world.reseed()
        outputs = self.network(views if len(views) > 1 else views[0])
        settings, targets = self.config.train, self.matcher(boxes, labels)
        if settings.cot_weight and len(self.model.members) > 1:
            weight = cot_weight_at(epoch, settings.cot_weight, settings.cot_warmup_epochs)
            outputs = [self.world.gather_members(output) for output in outputs]
            return multibox_loss(*outputs, *targets, settings.neg_to_pos_ratio, weight)
        own = multibox_loss(*outputs, *targets, settings.neg_to_pos_ratio)
        if self.world.members == 1:
            return own
        total = self.world.gather_members(torch.stack(list(own.values()))[None]).sum(0)
        return dict(zip(own, total, strict=True))

    def evaluate(self) -> dict[str, Any]:
        """The 12 COCO numbers of the fused boxes, and each member's AP."""
        self.model.eval()
        settings = self.config.train
        metrics, _ = score(self.detector, self.ground_truth, settings.batch_size, settings.workers, self.world)
        members = {f"AP_member{i + 1}": member["AP"] for i, member in enumerate(metrics["members"])}
        return {name: value for name, value in metrics.items() if isinstance(value, float)} | members

    def name(self, index: int) -> str:
        """What a user calls a training image."""
        return str(self.training.images[index].path)


def train(config: TrainDetection) -> dict[str, Any]:
    """Trains a detector; returns the last epoch's metrics. ``divdet.engine.run_folder`` describes the run's folder."""
    with processes(config.device, config.model.members, config.train.member_parallel) as (world, device):
        return _train(config, world, device)


def _train(config: TrainDetection, world: World, device: torch.device) -> dict[str, Any]:
    if config.model.members * config.train.batch_size < 2:
        raise UserError("train.batch_size is 1 with one member: batch normalization needs at least 2 images a step")
    precision = resolve_precision(config.train.precision, device, training=True)
    config = replace(config, train=replace(config.train, precision=precision))  # what auto meant, for config.yaml
    data = config.data
    training, ground_truth = read_splits(data)
    if ground_truth.truth.crowd.all():
        print(f"note: {data.val_annotations} has no object, so AP is -1 in every epoch: best.pt is the newest epoch's")

    categories = zip(training.category_ids, training.names, strict=True)
    meta = {"categories": [{"id": number, "name": name} for number, name in categories]}
    splits = {"training": training, "validation": ground_truth} if world.is_main_process else {}  # it alone compares
    folder = RunFolder(config, "detection", meta, {name: split.fingerprint() for name, split in splits.items()})
    torch.manual_seed(derived_seed(config.seed, "weights"))
    fetched = config.model.pretrained == "timm" and not folder.resumed
    if config.model.pretrained in ("timm", PIP) and not folder.resumed:
        check_copies_differ(config.model.backbone, config.model.members, config.data.different_views)
    model = create_ssd(config.model.backbone, config.model.members, len(training.names), fetched)
    if config.model.pretrained not in (None, "timm") and not folder.resumed:
        load_pretrained(model, config.model.pretrained, config.model.backbone, training.names)
    if config.train.cot_weight and config.model.members == 1:
        print("note: train.cot_weight does nothing with one member")
    start = f"weights from {config.model.pretrained}" if config.model.pretrained else "from scratch"
    start = "as resumed" if folder.resumed else start
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"SSD300, {config.model.backbone}, S={config.model.members}: {parameters / 1e6:.2f} M parameters, {start}")
    for layers in filter(None, (model.members, model.adapters)):
        keep_local(layers, world)
    detector = Detector(model, training.names, training.category_ids, config.postprocess, device)
    task = DetectionTask(config, detector, training, ground_truth, meta, world)
    images = TrainingImages(training, TrainingAugmentation(data, config.model.members), config.seed, data.cache)
    loader = training_loader(images, config.train, config.seed, device, world, collate_fn=collate)
    return fit(task, loader, config.train, folder, device, world)

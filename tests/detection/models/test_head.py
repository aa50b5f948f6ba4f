"""The contract of a head: one of 40 lines trains, is saved, loaded, evaluated and run, as SSD300 is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection import Detector
from detection.detector import to_pixels
from detection.drawing import save_image
from detection.heads import HEADS, HeadSpec, Input
from detection.models.head import DividedDetector, LossOptions, create_detector
from detection.postprocess import Boxes, head_boxes
from detection.prediction_settings import PostprocessSettings
from detection.preprocess import to_input
from detection.settings import DataSettings, DetectionTrainSettings, ModelSettings, TrainDetection
from detection.training.train import train
from divdet.commands.eval_det import evaluate
from divdet.commands.settings import EvaluateDetection
from divdet.engine.errors import UserError


class Cells(DividedDetector):
    """An anchor-free head: the cell that holds an object's center says its class, and its box's corners."""

    strides = (16,)
    background = 0
    unused_options = ("cot_weight", "class_weights", "neg_to_pos_ratio")

    def build(self, channels: list[int]) -> None:
        self.tower = nn.Sequential(nn.Conv2d(channels[0], 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.loc, self.conf = nn.Conv2d(32, 4, 1), nn.Conv2d(32, self.num_classes, 1)
        nn.init.constant_(self.conf.bias, -3.0)
        self.cells = self.input.size // 16
        steps = (torch.arange(self.cells) + 0.5) / self.cells
        self.register_buffer("centers", torch.cartesian_prod(steps, steps).flip(1).repeat(1, 2), persistent=False)

    def forward_head(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        features = self.tower(levels[0])
        return self.loc(features).flatten(2).mT, self.conf(features).flatten(2).mT

    def loss(
        self, regressions: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, options: LossOptions
    ) -> dict[str, Tensor]:
        image, number = (labels >= 0).nonzero(as_tuple=True)
        own = boxes[image, number]
        column, row = (((own[:, :2] + own[:, 2:]) / 2 * self.cells).long().clamp(max=self.cells - 1)).unbind(1)
        cell = row * self.cells + column
        wanted = torch.zeros_like(logits)
        wanted[:, image, cell, labels[image, number]] = 1
        found = regressions[:, image, cell].float() + self.centers[cell]
        localization = 10 * F.l1_loss(found, own.expand_as(found), reduction="sum") / max(1, len(own))
        classes = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum") / max(1, len(own))
        return {"loss": localization + classes, "localization": localization, "classification": classes}

    def decode(self, regressions: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        return regressions.float() + self.centers, logits.float().sigmoid()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "cells", HeadSpec(Cells, "Cells", 64, smallest=64, multiple=16, fit="letterbox"))


@pytest.fixture
def data(tmp_path: Path) -> DataSettings:
    """Eight wide photos, each with a red or a blue rectangle."""
    images, annotations = [], []
    for number in range(8):
        image, box = np.full((80, 160, 3), 60, np.uint8), [10 + 15 * number, 20 + 2 * number, 40, 30]
        image[box[1] : box[1] + 30, box[0] : box[0] + 40] = [(230, 40, 40), (40, 40, 230)][number % 2]
        save_image(tmp_path / f"{number}.png", image)
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 80})
        annotations.append({"id": number + 1, "image_id": number, "category_id": 1 + number % 2, "bbox": box})
    truth = {"images": images, "annotations": annotations}
    truth["categories"] = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    split = {"annotations": str(tmp_path / "truth.json"), "images": str(tmp_path)}
    both = {f"{part}_{name}": value for part in ("train", "val") for name, value in split.items()}
    return DataSettings(**both, photometric=False, iou_crop=0, zoom_out=0, flip=0)


def recipe(data: DataSettings, output: Path) -> TrainDetection:
    schedule = {"epochs": 120, "evaluate_every": 120, "batch_size": 8, "workers": 0}
    schedule |= {"lr": 0.02, "warmup_epochs": 10, "clip_gradient": 5.0, "weight_decay": 0.0}
    model = ModelSettings("resnet10_8", 2, head="cells")
    return TrainDetection(model, data, DetectionTrainSettings(**schedule), output=str(output), device="cpu")


def test_a_head_trains_and_what_it_saves_finds_the_objects(data: DataSettings, tmp_path: Path) -> None:
    metrics = train(recipe(data, tmp_path / "run"))
    assert metrics["AP50"] > 0.9
    config = EvaluateDetection(checkpoint=str(tmp_path / "run/best.pt"), device="cpu", output=str(tmp_path / "eval"))
    config.data.val_annotations, config.data.val_images = data.val_annotations, data.val_images
    assert evaluate(config)["AP"] == pytest.approx(metrics["AP"])
    detector = Detector.load(tmp_path / "run/best.pt", "cpu")
    assert (detector.model.head, detector.input) == ("cells", Input(64, "letterbox"))
    (box, *_), names = (found := detector(tmp_path / "3.png")).boxes, found.names
    np.testing.assert_allclose(box, [55, 26, 95, 56], atol=8)
    assert names[0] == "blue"


@pytest.mark.parametrize(
    ("head", "size", "other"), [("ssd300", 300, 384), ("ssd512", 128, 160), ("ssdlite", 128, 160), ("fcos", 64, 96)]
)
def test_a_head_at_another_size_is_one_made_for_it(head: str, size: int, other: int) -> None:
    made, wanted = (create_detector(head, "resnet10_16", 2, 3, side).eval() for side in (size, other))
    wanted.load_state_dict(made.state_dict())
    images, options = torch.randn(2, 3, other, other), LossOptions()
    truth = torch.tensor([[[0.1, 0.2, 0.6, 0.9]]] * 2), torch.tensor([[1]] * 2)
    with torch.no_grad():
        before = made.decode(*(own := made(torch.zeros(1, 3, size, size))))
        with made.at_size(other):
            for found, expected in zip(made(images), wanted(images), strict=True):
                torch.testing.assert_close(found, expected)
            losses = made.loss(*made(images), *truth, options), wanted.loss(*wanted(images), *truth, options)
            torch.testing.assert_close(*losses)
            torch.testing.assert_close(made.decode(*made(images)), wanted.decode(*wanted(images)))
        for found, expected in zip(made.decode(*own), before, strict=True):
            assert torch.equal(found, expected)


def test_training_at_several_sizes(data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = recipe(data, tmp_path / "run"), []
    config.model = ModelSettings("resnet10_8", 2, head="fcos", input_size=96)
    config.train = replace(config.train, epochs=6, evaluate_every=6, batch_size=2, multi_scale=0.4)
    forward = DividedDetector.forward

    def spy(self: DividedDetector, images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((self.training, images.shape[-1]))
        return forward(self, images)

    monkeypatch.setattr(DividedDetector, "forward", spy)
    first = train(config)
    assert {size for training, size in seen if training} == {64, 96, 128}
    assert {size for training, size in seen if not training} == {96}
    config.output = str(tmp_path / "again")
    assert train(config) == first


def test_options_that_it_does_not_know_are_refused(data: DataSettings, tmp_path: Path) -> None:
    config = recipe(data, tmp_path / "run")
    config.train.cot_weight = 0.5
    with pytest.raises(UserError, match=r"train.cot_weight does nothing with model.head cells"):
        train(config)
    config.train = replace(config.train, cot_weight=0.0, multi_scale=0.1)
    with pytest.raises(UserError, match=r"train.multi_scale is 0.1: no multiple of 32 lies so near 64 pixels"):
        train(config)


@pytest.mark.parametrize(
    ("head", "size", "message"),
    [
        ("cell", None, "model.head is 'cell': choose one of ssd300, .*did you mean cells"),
        ("cells", 100, "model.input_size is 100: Cells takes 64 to 4096 pixels, a multiple of 16"),
        ("cells", 48, "model.input_size is 48: Cells takes 64"),
        ("ssd300", 256, "model.input_size is 256: SSD300 takes 257"),
        ("ssdlite", 30, "model.input_size is 30: SSDLite takes 128"),
    ],
)
def test_a_wrong_head_or_size_is_named(head: str, size: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelSettings(head=head, input_size=size)


@pytest.mark.parametrize(("width", "height"), [(160, 80), (33, 211), (97, 97), (4000, 3)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_boxes_return_to_the_pixels_that_they_frame(width: int, height: int, fit: str) -> None:
    """The whole image and its right half, seen in the input, are found again exactly."""
    image = np.full((height, width, 3), 200, np.uint8)
    form = Input(96, fit)
    bright = np.argwhere(to_input(image, form)[..., 2] == 200)  # the mean color fills the rest
    (top, left), (bottom, right) = bright.min(0), bright.max(0) + 1
    corners = torch.tensor([[left, top, right, bottom], [(left + right) / 2, top, right, bottom]]) / 96
    found = to_pixels(Boxes(corners.float(), torch.ones(2), torch.zeros(2)), width, height, form)
    expected = torch.tensor([[0, 0, width, height], [width / 2, 0, width, height]])
    torch.testing.assert_close(found.boxes, expected, rtol=1e-5, atol=1e-3)


def test_boxes_of_decoded_outputs_are_those_of_the_compiled_pass() -> None:
    """SSD300's outputs, once by its default boxes and once by ``decode`` alone, as of a head without any."""
    torch.manual_seed(0)
    model = create_detector("ssd300", "resnet10_16", 2, 3).eval()
    deltas, logits = torch.randn(2, 2, 8732, 4), torch.randn(2, 2, 8732, 4) * 2
    settings = PostprocessSettings(score_threshold=0.6)
    expected = head_boxes(model, deltas, logits, settings)
    decoded = model.decode(deltas, logits)
    model.default_boxes, model.decode = None, lambda *_: decoded
    for own, wanted in zip(head_boxes(model, deltas, logits, settings), expected, strict=True):
        for found, other in zip(own, wanted, strict=True):
            assert torch.equal(found.labels, other.labels)
            torch.testing.assert_close(found.boxes, other.boxes)
            torch.testing.assert_close(found.scores, other.scores)

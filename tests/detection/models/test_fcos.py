"""FCOS against torchvision's fcos_resnet50_fpn."""

import re
from dataclasses import asdict

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.image_list import ImageList

from classification.data.statistics import IMAGENET_STATISTICS
from detection.models.coco_classes import COCO
from detection.models.fcos_loss import match
from detection.models.head import DividedDetector, LossOptions, create_detector
from detection.models.released import import_detector
from detection.postprocess import head_boxes
from detection.prediction_settings import PostprocessSettings, RuntimeSettings
from detection.preprocess import FromPixels
from detection.runtimes.backends import create_network
from detection.settings import TrainDetection
from detection.training.pretrained import load_pretrained
from divdet.engine.checkpoint import check_weights
from divdet.engine.cli import parse
from divdet.engine.errors import UserError
from tests.reference import deterministic_weight

NAMES = [category["name"] for category in COCO]
ROWS = [category["id"] for category in COCO]
SIZE = 160  # P6 and P7 cover more than the input


@pytest.fixture(scope="module")
def theirs() -> FCOS:
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, min_size=SIZE, max_size=SIZE).eval()
    weights = {key: deterministic_weight(key, value.shape) for key, value in model.state_dict().items()}
    weights["head.regression_head.bbox_reg.bias"] = torch.tensor([1.0, 1.5, 2.0, 2.5])  # boxes, not points
    model.load_state_dict(weights)
    return model


@pytest.fixture(scope="module")
def file(theirs: FCOS, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As published: frozen batch norms have no counts, and the pyramid has its names of before torchvision 0.14."""
    path = tmp_path_factory.mktemp("published") / "fcos.pth"
    weights = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save({re.sub(r"(_blocks\.\d)\.0", r"\1", key): value for key, value in weights.items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def ours(file: str) -> DividedDetector:
    model = create_detector("fcos", "timm:resnet50", 1, len(NAMES), SIZE)
    load_pretrained(model, file, "timm:resnet50", NAMES)
    return model.eval()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
@torch.inference_mode()
def outputs(ours: DividedDetector, pixels: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(IMAGENET_STATISTICS)[..., None, None]
    return ours((pixels - mean) / std)


@pytest.fixture(scope="module")
@torch.inference_mode()
def expected(theirs: FCOS, pixels: Tensor) -> dict[str, Tensor]:
    images, _ = theirs.transform(list(pixels))
    features = list(theirs.backbone(images.tensors).values())
    anchors = theirs.anchor_generator(images, features)
    return {**theirs.head(features), "anchors": anchors}


def test_parameter_count(theirs: FCOS) -> None:
    with torch.device("meta"):
        model = create_detector("fcos", "timm:resnet50", 1, 91)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters()) == 32_322_720


def test_outputs_of_the_same_weights(outputs: tuple[Tensor, Tensor], expected: dict[str, Tensor]) -> None:
    regressions, logits = outputs
    wanted = torch.cat([expected["bbox_regression"], expected["bbox_ctrness"]], dim=-1)
    torch.testing.assert_close(regressions[0], wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[0], expected["cls_logits"][..., ROWS], rtol=0, atol=1e-4)
    assert logits.std() > 0.01
    assert (regressions > 0).float().mean() > 0.5


def test_decoded_boxes_and_scores(
    theirs: FCOS, ours: DividedDetector, outputs: tuple[Tensor, Tensor], expected: dict[str, Tensor]
) -> None:
    boxes, scores = ours.decode(*outputs)
    wanted = theirs.box_coder.decode(expected["bbox_regression"], torch.stack(expected["anchors"])).clamp(0, SIZE)
    torch.testing.assert_close(boxes[0] * SIZE, wanted, rtol=0, atol=1e-4)
    wanted = (expected["cls_logits"].sigmoid() * expected["bbox_ctrness"].sigmoid()).sqrt()[..., ROWS]
    torch.testing.assert_close(scores[0], wanted, rtol=0, atol=1e-4)


def test_detections(theirs: FCOS, ours: DividedDetector, pixels: Tensor, outputs: tuple[Tensor, Tensor]) -> None:
    """With all candidates and the same limits, torchvision's whole network finds the same boxes."""
    theirs.score_thresh, theirs.topk_candidates, theirs.detections_per_img = 0.5, 10**6, 50
    with torch.inference_mode():
        wanted = theirs(list(pixels))
    settings = PostprocessSettings(score_threshold=0.5, candidates_per_class=10**4, nms_iou=0.6, max_per_member=10**4)
    for found, other in zip(head_boxes(ours, *outputs, settings)[0], wanted, strict=True):
        known = torch.isin(other["labels"], torch.tensor(ROWS))
        count = int(known.sum())
        assert count > 10
        torch.testing.assert_close(found.scores[:count], other["scores"][known], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.boxes[:count] * SIZE, other["boxes"][known], rtol=0, atol=1e-3)
        assert torch.equal(torch.tensor(ROWS)[found.labels[:count]], other["labels"][known])


@pytest.mark.parametrize("size", [SIZE, 512])
def test_loss_is_torchvisions(theirs: FCOS, size: int) -> None:
    torch.manual_seed(size)
    model = create_detector("fcos", "resnet10_16", 1, 5, size)
    cells = [-(-size // step) for step in (8, 16, 32, 64, 128)]
    maps = [torch.zeros(2, 1, n, n) for n in cells]
    anchors = theirs.anchor_generator(ImageList(torch.zeros(2, 3, size, size), [(size, size)] * 2), maps)
    boxes, labels = objects(2, 20, 5)
    labels[1, 12:] = -1
    points = len(model.points)
    regressions = torch.cat([torch.rand(2, points, 4) * 4, torch.randn(2, points, 1)], dim=-1).requires_grad_()
    logits = torch.randn(2, points, 5).requires_grad_()
    targets = [{"boxes": b[n >= 0] * size, "labels": n[n >= 0]} for b, n in zip(boxes, labels, strict=True)]
    heads = {"cls_logits": logits, "bbox_regression": regressions[..., :4], "bbox_ctrness": regressions[..., 4:]}
    expected = theirs.compute_loss(targets, heads, anchors, [n * n for n in cells])
    found = model.loss(regressions[None], logits[None], boxes, labels, LossOptions())
    names = ("classification", "localization", "centerness")
    for name, other in zip(names, ("classification", "bbox_regression", "bbox_ctrness"), strict=True):
        torch.testing.assert_close(found[name], expected[other], rtol=1e-4, atol=1e-4)
    own, others = (
        torch.autograd.grad(total, (regressions, logits)) for total in (found["loss"], sum(expected.values()))
    )
    torch.testing.assert_close(own, others, rtol=1e-3, atol=1e-6)


def objects(images: int, number: int, classes: int) -> tuple[Tensor, Tensor]:
    """Boxes of all sizes, and labels."""
    corners = torch.rand(images, number, 2, 2).sort(dim=2).values.flatten(2)
    corners[..., 2:] -= (corners[..., 2:] - corners[..., :2]) * (torch.arange(number) % 4 / 4.5)[:, None]
    return corners, torch.randint(classes, (images, number))


def test_members_add_up_and_images_without_objects_have_a_loss() -> None:
    model = create_detector("fcos", "resnet10_16", 2, 3, 64)
    boxes, labels = objects(2, 4, 3)
    regressions, logits = torch.rand(2, 2, len(model.points), 5), torch.randn(2, 2, len(model.points), 3)
    parts = [model.loss(regressions[s : s + 1], logits[s : s + 1], boxes, labels, LossOptions()) for s in (0, 1)]
    whole = model.loss(regressions, logits, boxes, labels, LossOptions())
    for name in parts[0]:
        torch.testing.assert_close(whole[name], parts[0][name] + parts[1][name])
    own = [whole.pop(f"loss_member{number}") for number in (1, 2)]
    torch.testing.assert_close(own, [part["loss"] for part in parts])
    assert whole.keys() == parts[0].keys()
    none = model.loss(regressions, logits, boxes[:, :0], labels[:, :0], LossOptions())
    padded = model.loss(regressions, logits, boxes, torch.full_like(labels, -1), LossOptions())
    assert none == padded
    assert none["localization"] == none["centerness"] == 0 < none["classification"]


def test_class_weights_are_factors_by_the_true_class() -> None:
    model = create_detector("fcos", "resnet10_16", 1, 2, 64)
    boxes, labels = objects(1, 1, 1)
    boxes[:] = torch.tensor([0.2, 0.2, 0.8, 0.8])
    regressions, logits = torch.rand(1, 1, len(model.points), 5), torch.randn(1, 1, len(model.points), 2)

    def classification(*weights: float) -> Tensor:
        return model.loss(regressions, logits, boxes, labels, LossOptions(class_weights=torch.tensor(weights)))[
            "classification"
        ]

    torch.testing.assert_close(classification(1, 1, 1), classification(1, 0, 0) + classification(0, 1, 0))
    torch.testing.assert_close(classification(1, 3, 9), classification(1, 0, 0) + 3 * classification(0, 1, 0))


def test_co_training_draws_members_together_at_positives() -> None:
    """The divergence of two members' Bernoulli probabilities, by its definition from entropies."""
    model = create_detector("fcos", "resnet10_16", 2, 3, 64)
    boxes, labels = torch.tensor([[[0.2, 0.2, 0.8, 0.8]]]), torch.tensor([[1]])
    regressions, logits = torch.rand(2, 1, len(model.points), 5), torch.randn(2, 1, len(model.points), 3)
    plain = model.loss(regressions, logits, boxes, labels, LossOptions())
    losses = model.loss(regressions, logits, boxes, labels, LossOptions(cot_weight=0.5))
    positive = match(model.points, model.steps, boxes * 64, labels)[0] >= 0
    p = logits[:, 0, positive].sigmoid().double()
    entropies = Bernoulli(p.mean(0)).entropy() - Bernoulli(p).entropy().mean(0)
    torch.testing.assert_close(losses["cot"].double(), entropies.sum() / positive.sum(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses["loss"], plain["loss"] + 0.5 * losses["cot"])
    same = model.loss(regressions, logits[:1].expand(2, -1, -1, -1), boxes, labels, LossOptions(cot_weight=0.5))
    assert same["cot"].abs() < 1e-6


def test_classes_are_taken_by_name_and_others_stay_fresh(file: str, ours: DividedDetector) -> None:
    names = ["no such thing", "dog", "person"]
    model = create_detector("fcos", "timm:resnet50", 1, len(names), SIZE)
    fresh = model.classification.cls_logits.weight.detach().clone()
    load_pretrained(model, file, "timm:resnet50", names)
    rows, whole = (m.classification.cls_logits.weight for m in (model, ours))
    assert torch.equal(rows[1:], whole[[NAMES.index("dog"), NAMES.index("person")]])
    assert torch.equal(rows[0], fresh[0])


def test_it_is_imported_with_the_postprocessing_of_its_recipe(file: str, ours: DividedDetector) -> None:
    found = import_detector(file, "timm:resnet50", 1, "fcos", 160)
    assert all(torch.equal(found.model[key], value) for key, value in ours.state_dict().items())
    assert found.config["postprocess"] == asdict(parse(TrainDetection, ["--config", "fcos_resnet50"]).postprocess)


def test_published_weights_need_no_network_of_memory(file: str) -> None:
    with torch.device("meta"):
        model = create_detector("fcos", "timm:resnet50", 1, len(NAMES), SIZE)
    found = model.published_weights(torch.load(file, weights_only=True), file)
    check_weights(model.state_dict(), found, file)


def test_weights_of_another_network_are_refused(file: str) -> None:
    for backbone, members in (("timm:resnet18", 1), ("resnet10_16", 2)):
        with pytest.raises(UserError, match=r"set model\.backbone to timm:resnet50 and model\.members to 1"):
            load_pretrained(create_detector("fcos", backbone, members, 1), file, backbone, ["dog"])


def test_the_head_shrinks_with_the_backbone() -> None:
    """By ResNet-50's 256 channels behind 2,048, in groups of 8 for normalization."""
    with torch.device("meta"):
        widths = [
            create_detector("fcos", name, members, 1).regression.bbox_reg.in_channels
            for name, members in (("timm:resnet50", 1), ("wrn50_3", 1), ("resnet50", 2), ("resnet18_64", 1))
        ]
    assert widths == [256, 256, 176, 64]


@torch.inference_mode()
def test_members_at_once_with_fused_batch_norms_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = create_detector("fcos", "resnet10_16", 2, 3, 64).eval()
    for layer in (model.classification.cls_logits, model.regression.bbox_reg, model.regression.bbox_ctrness):
        torch.nn.init.normal_(layer.weight, std=0.3)  # outputs of a trained network's size
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    images = torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8)
    network = create_network(model, RuntimeSettings(concurrency="threads"), torch.device("cpu"))
    for found, expected in zip(network(images), FromPixels(model)(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

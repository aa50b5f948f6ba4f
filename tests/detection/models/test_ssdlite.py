"""SSDLite against torchvision's ssdlite320_mobilenet_v3_large."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert

from classification.data.statistics import IMAGENET_STATISTICS
from detection import Detector
from detection.models.coco_classes import COCO
from detection.models.head import DividedDetector, create_detector
from detection.prediction_settings import PostprocessSettings
from detection.settings import TrainDetection
from detection.training.pretrained import load_pretrained
from divdet.commands.import_checkpoint import import_checkpoint
from divdet.commands.network_settings import ImportCheckpoint
from divdet.engine.cli import parse
from divdet.engine.errors import UserError
from tests.reference import deterministic_weight

NAMES = [category["name"] for category in COCO]
KEPT = [0, *(category["id"] for category in COCO)]


@pytest.fixture(scope="module")
def theirs() -> SSD:
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    model.load_state_dict({key: deterministic_weight(key, value.shape) for key, value in model.state_dict().items()})
    return model


@pytest.fixture(scope="module")
def file(theirs: SSD, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("published") / "ssdlite320.pth"
    torch.save(theirs.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def ours(file: str) -> DividedDetector:
    model = create_detector("ssdlite", "mobilenet_v3_large", 1, len(NAMES))
    load_pretrained(model, file, "mobilenet_v3_large", NAMES)
    return model.eval()


def in_our_order(levels: Tensor, model: DividedDetector) -> Tensor:
    """torchvision's order is row, column, shape; ours is shape, row, column."""
    counts = [6 * cells**2 for cells in model.plan.map_sizes(320)]
    parts = levels.split(counts, dim=1)
    return torch.cat([part.unflatten(1, (-1, 6)).transpose(1, 2).flatten(1, 2) for part in parts], dim=1)


def test_parameter_count(theirs: SSD) -> None:
    with torch.device("meta"):
        model = create_detector("ssdlite", "mobilenet_v3_large", 1, 90)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters()) == 3_440_060


@torch.inference_mode()
def test_outputs_of_the_same_weights(theirs: SSD, ours: DividedDetector) -> None:
    pixels = torch.rand(2, 3, 320, 320)
    found = theirs.head(list(theirs.backbone(pixels * 2 - 1).values()))  # from -1 to 1
    mean, std = torch.tensor(IMAGENET_STATISTICS)[..., None, None]
    deltas, logits = ours((pixels - mean) / std)
    torch.testing.assert_close(deltas[0], in_our_order(found["bbox_regression"], ours), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[0], in_our_order(found["cls_logits"], ours)[..., KEPT], rtol=0, atol=1e-4)
    assert logits.std() > 0.01


def test_default_boxes(theirs: SSD, ours: DividedDetector) -> None:
    image = torch.zeros(1, 3, 320, 320)
    maps = [torch.zeros(1, 1, cells, cells) for cells in (20, 10, 5, 3, 2, 1)]
    boxes = theirs.anchor_generator(ImageList(image, [(320, 320)]), maps)[0][None] / 320
    expected = box_convert(in_our_order(boxes, ours)[0], "xyxy", "cxcywh")
    torch.testing.assert_close(ours.default_boxes, expected, rtol=0, atol=1e-6)


def test_classes_are_taken_by_name_and_others_stay_fresh(file: str, ours: DividedDetector) -> None:
    names = ["no such thing", "dog", "person"]
    model = create_detector("ssdlite", "mobilenet_v3_large", 1, len(names))
    fresh = model.conf[0][1].weight.detach().clone().unflatten(0, (4, 6))
    load_pretrained(model, file, "mobilenet_v3_large", names)
    rows, whole = (m.conf[0][1].weight.unflatten(0, (-1, 6)) for m in (model, ours))
    assert torch.equal(rows[[0, 2, 3]], whole[[0, 1 + NAMES.index("dog"), 1 + NAMES.index("person")]])
    assert torch.equal(rows[1], fresh[1])


def test_weights_of_another_network_are_refused(file: str, theirs: SSD, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set model\.backbone to mobilenet_v3_large and model\.members to 1"):
        load_pretrained(create_detector("ssdlite", "mobilenet_v3_large", 2, 1), file, "mobilenet_v3_large", ["dog"])
    weights = theirs.state_dict()
    torch.save({name: value for name, value in weights.items() if "extra.2" not in name}, tmp_path / "part.pth")
    model = create_detector("ssdlite", "mobilenet_v3_large", 1, 1)
    with pytest.raises(UserError, match=r"part.pth: .* 18 missing \(backbone.extra.2"):
        load_pretrained(model, str(tmp_path / "part.pth"), "mobilenet_v3_large", ["dog"])


def test_it_is_imported_as_a_checkpoint(file: str, theirs: SSD, ours: DividedDetector, tmp_path: Path) -> None:
    settings = ImportCheckpoint(
        source=file, task="det", backbone="mobilenet_v3_large", head="ssdlite", output=str(tmp_path / "own.pt")
    )
    import_checkpoint(settings)
    detector = Detector.load(tmp_path / "own.pt", "cpu")
    assert (detector.names, detector.input.size) == (NAMES, 320)
    recipe = parse(TrainDetection, ["--config", "ssdlite_mobilenet_v3_large"])
    assert detector.settings == recipe.postprocess
    own = detector.settings
    expected = (theirs.score_thresh, theirs.topk_candidates, theirs.nms_thresh, theirs.detections_per_img)
    assert (own.score_threshold, own.candidates_per_class, own.nms_iou, own.max_per_member) == expected
    for key, value in ours.state_dict().items():
        assert torch.equal(detector.model.state_dict()[key], value)
    import_checkpoint(replace(settings, input_size=384))
    assert Detector.load(tmp_path / "own.pt", "cpu").input.size == 384
    with pytest.raises(UserError, match="its weights do not fit"):
        import_checkpoint(replace(settings, head="ssd300"))
    with pytest.raises(UserError, match="holds no published weights of SSD512"):
        import_checkpoint(replace(settings, head="ssd512"))


def test_any_backbone_and_size() -> None:
    model = create_detector("ssdlite", "resnet10_16", 2, 3, 192).eval()
    with torch.inference_mode():
        deltas, _ = model(torch.zeros(1, 3, 192, 192))
    assert deltas.shape == (2, 1, len(model.default_boxes), 4)
    detector = Detector(model, ["a", "b", "c"], [1, 2, 3], PostprocessSettings(), torch.device("cpu"))
    assert len(detector(torch.zeros(50, 70, 3, dtype=torch.uint8)).members) == 2

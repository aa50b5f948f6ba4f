"""A tiny detector through training, resuming, evaluation and prediction, and what a user sees of bad input."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detection import Detector, create_ssd
from detection.detector import to_pixels
from detection.drawing import save_image
from detection.heads import Input
from detection.postprocess import Boxes
from detection.prediction_settings import PostprocessSettings
from detection.settings import DataSettings, DetectionTrainSettings, ModelSettings, TrainDetection
from detection.training.train import load_pretrained, train
from divdet.commands.detect import detect
from divdet.commands.eval_det import evaluate
from divdet.commands.settings import Detect, EvaluateDetection
from divdet.engine import checkpoint
from divdet.engine.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    """Four images with one bright square each, one without any object, and a degenerate box."""
    folder = tmp_path_factory.mktemp("data")
    images, annotations = [], []
    for number in range(5):
        image = np.full((120, 160, 3), 60, np.uint8)
        box = [20 + 15 * number, 30, 60, 50]
        if number < 4:
            image[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = (230, 40, 40)
            annotations.append({"id": number + 1, "image_id": number, "category_id": 7, "bbox": box, "area": 3000})
        save_image(folder / f"{number}.png", image)
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 120})
    annotations.append({"id": 9, "image_id": 0, "category_id": 7, "bbox": [5, 5, 0, 4], "area": 0})
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "square"}]}
    (folder / "truth.json").write_text(json.dumps(truth))
    file, where = str(folder / "truth.json"), str(folder)
    return DataSettings(
        train_annotations=file, train_images=where, val_annotations=file, val_images=where, photometric=False
    )


def recipe(data: DataSettings, output: Path, epochs: int = 2, **changes: object) -> TrainDetection:
    settings = DetectionTrainSettings(
        epochs=epochs, batch_size=2, lr=0.01, nesterov=False, schedule="step", milestones=[9], workers=0
    )
    model = ModelSettings("resnet10_16", 2)
    return replace(TrainDetection(model, data, settings, output=str(output), device="cpu"), **changes)


@pytest.fixture(scope="module")
def run_folder(data: DataSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "whole"
    train(recipe(data, folder))
    return folder


def test_run_folder_holds_what_the_contract_says(run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "last.pt", "best.pt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"AP", "ARl", "AP_member1", "AP_member2", "train_loss", "lr"} <= lines[-1].keys()
    own = sum(lines[-1][f"train_loss_member{number}"] for number in (1, 2))
    assert own == pytest.approx(lines[-1]["train_loss"], rel=1e-5)


def test_resumed_run_equals_the_whole_one(data: DataSettings, run_folder: Path, tmp_path: Path) -> None:
    """The first epoch's checkpoint, as a kill in the second epoch leaves it, leads to the same bits."""
    folder = tmp_path / "parts"
    train(recipe(data, folder, epochs=1))
    with pytest.raises(UserError, match="already holds a run"):
        train(recipe(data, folder, epochs=2))
    train(recipe(data, folder, epochs=2, resume="auto"))
    whole, parts = (checkpoint.read(path / "last.pt") for path in (run_folder, folder))
    assert whole["model"].keys() == parts["model"].keys()
    for key, value in whole["model"].items():
        assert torch.equal(value, parts["model"][key]), key
    assert (run_folder / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"model\.members = 2, not 1"):
        train(recipe(data, folder, resume="auto", model=ModelSettings("resnet10_16", 1)))


def test_without_objects_to_evaluate_on_the_newest_epoch_is_the_best(
    data: DataSettings, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    truth = json.loads(Path(data.val_annotations).read_text())
    (tmp_path / "none.json").write_text(json.dumps(truth | {"annotations": []}))
    other = replace(data, val_annotations=str(tmp_path / "none.json"))
    train(recipe(other, tmp_path / "run"))
    assert "none.json has no object, so AP is -1 in every epoch: best.pt is the newest" in capsys.readouterr().out
    assert checkpoint.read(tmp_path / "run/best.pt")["epoch"] == 2
    (tmp_path / "none.json").write_text(json.dumps(truth))  # the same file, but others in it
    train(recipe(other, tmp_path / "run", epochs=3, resume="auto"))
    printed = capsys.readouterr().out
    assert "changed: the validation data" in printed
    assert "changed: the training data" not in printed
    assert "best.pt starts anew" in printed


def test_evaluation_command_agrees_with_training(run_folder: Path, data: DataSettings, tmp_path: Path) -> None:
    metrics = evaluate(EvaluateDetection(str(run_folder / "last.pt"), data=data, device="cpu", output=str(tmp_path)))
    last = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["AP"] == last["AP"]
    assert [member["AP"] for member in metrics["members"]] == [last["AP_member1"], last["AP_member2"]]
    assert metrics["images"] == 5
    assert metrics["postprocess"]["max_per_member"] == 400
    file = str(tmp_path / "detections.json")
    again = evaluate(EvaluateDetection(detections=file, data=data, output=str(tmp_path / "again")))
    assert again["AP"] == metrics["AP"]
    assert json.loads((tmp_path / "metrics.json").read_text())["per_class"].keys() == {"square"}


def test_detector_predicts_paths_arrays_and_pil(run_folder: Path, data: DataSettings) -> None:
    from PIL import Image

    detector = Detector.load(run_folder / "last.pt", device="cpu")
    assert not detector.model.training
    path = Path(data.val_images) / "1.png"
    pil = Image.open(path)
    found = detector.predict([str(path), np.asarray(pil), pil], batch_size=2)
    for other in found[1:]:
        torch.testing.assert_close(other.boxes, found[0].boxes)
    boxes, scores = found[0].boxes, found[0].scores
    assert (scores[:-1] >= scores[1:]).all()
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 160).all()
    assert (boxes[:, 3] <= 120).all()
    assert found[0].names == ["square"] * len(found[0])
    assert detector.predict(pil) == found[2]
    with pytest.raises(UserError, match=r"images\[0\]"):
        detector.predict([np.zeros((4, 4), np.float32)])


def test_detect_draws_every_image_that_can_be_read(run_folder: Path, data: DataSettings, tmp_path: Path) -> None:
    long = "x" * 248
    (tmp_path / "more").mkdir()
    for number, copy in enumerate(("1", "01", long)):
        shutil.copy(Path(data.val_images) / f"{number}.png", tmp_path / f"more/{copy}.png")
    (tmp_path / "more/broken.png").write_bytes(b"no image")
    sources = [str(Path(data.val_images) / "1.png"), str(tmp_path / "more")]
    config = Detect(
        str(run_folder / "last.pt"), sources, 0.0, postprocess=PostprocessSettings(score_threshold=1e-4), device="cpu"
    )
    with pytest.raises(UserError, match=r"1 of 5 images could not be read.*broken\.png"):
        detect(replace(config, output=str(tmp_path / "out")))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"1.png", "1_2.png", "01.png", f"{long[:200]}.png", "detections.json"}
    entries = json.loads((tmp_path / "out/detections.json").read_text())
    assert {entry["image_id"] for entry in entries} == {1, "1_2", "01", long}
    assert all(min(entry["bbox"][2:]) > 0 for entry in entries)


def test_boxes_outside_the_image_are_left_out() -> None:
    boxes = torch.tensor([[-0.1, 0.2, 0.5, 1.2], [1.1, 0.2, 1.3, 0.4]])
    found = to_pixels(Boxes(boxes, torch.tensor([0.9, 0.8]), torch.tensor([2, 1])), 200, 100, Input())
    torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 20.0, 100.0, 100.0]]))
    assert (found.scores.tolist(), found.labels.tolist()) == (pytest.approx([0.9]), [2])


def test_members_of_timm_are_co_trained_on_their_own_views(data: DataSettings, tmp_path: Path) -> None:
    config = recipe(
        replace(data, photometric=True, different_views=True),
        tmp_path,
        model=ModelSettings("timm:mobilenetv3_small_050,mobilenetv3_small_075", 2),
    )
    config.train.cot_weight, config.train.cot_warmup_epochs = 0.5, 1
    last = train(config)
    assert 0 < last["train_cot"] < 4 * math.log(2)  # at most ln 2 for a positive and each of its three negatives
    assert last["train_loss"] > last["train_localization"] + last["train_classification"]
    detector = Detector.load(tmp_path / "last.pt", "cpu")
    assert len(detector.model.adapters) == 2
    with pytest.raises(UserError, match="copies would hardly differ"):
        train(recipe(data, tmp_path / "alike", model=ModelSettings("timm:resnet18", 2, pretrained="timm")))
    assert not (tmp_path / "alike").exists()


def test_foreign_checkpoints_are_refused(run_folder: Path, data: DataSettings, tmp_path: Path) -> None:
    saved = checkpoint.read(run_folder / "last.pt")
    saved["config"]["model"]["members"] = 1
    torch.save(saved, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt: its weights do not fit"):
        Detector.load(tmp_path / "other.pt", "cpu")
    truth = json.loads(Path(data.val_annotations).read_text())
    truth["categories"][0]["name"] = "circle"
    (tmp_path / "renamed.json").write_text(json.dumps(truth))
    renamed = replace(data, val_annotations=str(tmp_path / "renamed.json"))
    with pytest.raises(UserError, match="circle"):
        evaluate(EvaluateDetection(str(run_folder / "last.pt"), data=renamed, device="cpu", output=str(tmp_path)))


def classifier_checkpoint(path: Path, members: int = 2) -> dict:
    from classification import create_ensemble

    torch.manual_seed(3)
    weights = create_ensemble("resnet10_16", members, num_classes=5, dataset="imagenet").state_dict()
    config = {"model": {"backbone": "resnet10_16", "members": members}}
    saved = {"kind": "classification", "model": weights, "config": config}
    torch.save(saved, path)
    return saved


def test_pretrained_members_are_loaded_one_by_one(tmp_path: Path) -> None:
    saved = classifier_checkpoint(tmp_path / "cls.pt")
    model = create_ssd("resnet10_16", 2, num_classes=3)
    load_pretrained(model, str(tmp_path / "cls.pt"), "resnet10_16", ["a", "b", "c"])
    loaded = 0
    for key, value in model.state_dict().items():
        if key.startswith("members."):
            assert torch.equal(value, saved["model"][key]), key
            loaded += 1
    assert loaded > 20
    assert not torch.equal(model.members[0].layer0[0].weight, model.members[1].layer0[0].weight)


def test_pretrained_weights_that_do_not_fit_fail_loudly(tmp_path: Path) -> None:
    model = create_ssd("resnet10_16", 2, num_classes=3)
    classifier_checkpoint(tmp_path / "one.pt", members=1)
    with pytest.raises(UserError, match=r"model\.members = 1, not 2"):
        load_pretrained(model, str(tmp_path / "one.pt"), "resnet10_16", ["a", "b", "c"])
    saved = classifier_checkpoint(tmp_path / "cls.pt")
    del saved["model"]["members.1.layer2.0.conv1.weight"]
    torch.save(saved, tmp_path / "less.pt")
    with pytest.raises(UserError, match=r"member 2.*layer2\.0\.conv1\.weight"):
        load_pretrained(model, str(tmp_path / "less.pt"), "resnet10_16", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "b", "c"], "weights kept for 3 classes (a, b, c); new weights for no class"),
        (["c", "a", "b"], "weights kept for 3 classes (c, a, b); new weights for no class"),
        (["b"], "weights kept for 1 class (b); new weights for no class"),
        (["x", "c", "y", "a"], "weights kept for 2 classes (c, a); new weights for 2 classes (x, y)"),
        (["x", "y", "z"], "weights kept for no class; new weights for 3 classes (x, y, z)"),
        (["a", "b", "a"], "1 class (b); new weights for 2 classes (a, a); a name that occurs twice cannot be matched"),
    ],
)
def test_class_heads_are_loaded_by_name(
    names: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.manual_seed(1)
    source = create_ssd("resnet10_16", 2, num_classes=3).eval()
    for head in source.conf:
        torch.nn.init.normal_(head.bias)  # at the start it is 0, which shows nothing
    categories = [{"id": 9 - place, "name": name} for place, name in enumerate("abc")]
    config = {"model": {"backbone": "resnet10_16", "members": 2}}
    saved = {"kind": "detection", "model": source.state_dict(), "meta": {"categories": categories}, "config": config}
    torch.save(saved, tmp_path / "source.pt")
    torch.manual_seed(2)
    model = create_ssd("resnet10_16", 2, num_classes=len(names)).eval()
    images = torch.randn(1, 3, 300, 300)
    with torch.inference_mode():
        own = [head.weight.detach().clone() for head in model.conf]
        load_pretrained(model, str(tmp_path / "source.pt"), "resnet10_16", names)
        (deltas, logits), (expected_deltas, expected) = model(images), source(images)
    assert said in capsys.readouterr().out
    assert torch.equal(deltas, expected_deltas)
    exact = {} if len(names) == 3 else {"rtol": 1e-5, "atol": 1e-5}  # another number of channels: other kernels
    kept = {"rtol": 0, "atol": 0} | exact
    torch.testing.assert_close(logits[..., 0], expected[..., 0], **kept)  # background
    for label, name in enumerate(names):
        if name in "abc" and names.count(name) == 1:
            torch.testing.assert_close(logits[..., label + 1], expected[..., "abc".index(name) + 1], **kept)
        else:
            for head, before in zip(model.conf, own, strict=True):
                boxes = len(before) // (len(names) + 1)
                rows = slice((label + 1) * boxes, (label + 2) * boxes)
                assert torch.equal(head.weight[rows], before[rows])


def test_fine_tuning_on_the_same_classes_in_another_order_detects_as_before(
    data: DataSettings, run_folder: Path, tmp_path: Path
) -> None:
    """The whole way, from two annotation files: a step of rate 0 leaves the detector as it was."""
    truth = json.loads(Path(data.val_annotations).read_text())
    files = {}
    for order in (["square", "disc"], ["disc", "square"]):
        truth["categories"] = [{"id": 7 + place, "name": name} for place, name in enumerate(order)]
        for box in truth["annotations"]:
            box["category_id"] = 7 + order.index("square")
        files[order[0]] = tmp_path / f"{order[0]}.json"
        files[order[0]].write_text(json.dumps(truth))
    orders = [
        replace(data, train_annotations=str(file), val_annotations=str(file))
        for file in (files["square"], files["disc"])
    ]
    train(recipe(orders[0], tmp_path / "first", epochs=1))
    still = DetectionTrainSettings(epochs=1, batch_size=2, lr=0.0, workers=0, batch_norm="frozen")
    again = ModelSettings("resnet10_16", 2, pretrained=str(tmp_path / "first/last.pt"))
    train(recipe(orders[1], tmp_path / "second", model=again, train=still))
    first, second = (Detector.load(tmp_path / name / "last.pt", "cpu").model for name in ("first", "second"))
    images = torch.randn(1, 3, 300, 300)
    with torch.inference_mode():
        assert torch.equal(second(images)[1], first(images)[1][..., [0, 2, 1]])


def test_not_finite_loss_stops_and_keeps_the_last_checkpoint(data: DataSettings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    settings = DetectionTrainSettings(epochs=3, batch_size=2, lr=1e20, workers=0)
    with pytest.raises(UserError, match=r"not finite at epoch \d"):
        train(recipe(data, folder, train=settings))
    assert not (folder / "last.pt").exists() or checkpoint.read(folder / "last.pt")["epoch"] < 3


def test_single_images_need_statistics_that_stay(data: DataSettings, tmp_path: Path) -> None:
    config = recipe(data, tmp_path / "run", epochs=1, model=ModelSettings("resnet10_16", 1, head="fcos", input_size=64))
    config.train.batch_size = 1
    with pytest.raises(UserError, match="needs at least 2 images a step"):
        train(config)
    config.train.batch_norm = "frozen"
    assert math.isfinite(train(config)["train_loss"])


@pytest.mark.parametrize("members", [0, -1])
def test_members_out_of_range_are_refused_naming_the_key(members: int) -> None:
    with pytest.raises(UserError, match=rf"model\.members is {members}"):
        ModelSettings(members=members)


def test_negative_seed_is_refused_naming_the_key() -> None:
    with pytest.raises(UserError, match="seed is -1"):
        TrainDetection(seed=-1)


def test_unset_data_names_the_key(data: DataSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.train_annotations is not set"):
        train(recipe(replace(data, train_annotations=None), tmp_path))

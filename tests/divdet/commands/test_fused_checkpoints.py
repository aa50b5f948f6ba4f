"""Evaluation and detection by several detectors: their own predictions fused by ensemble-boxes, scored as a file."""

import json
from pathlib import Path
from typing import Any

import ensemble_boxes
import numpy as np
import pytest
import torch

import divdet
from detection import Detector
from detection.prediction_settings import PostprocessSettings
from detection.saved import create_model
from detection.settings import ModelSettings, TrainDetection
from divdet.commands import COMMANDS
from divdet.engine.checkpoint import Checkpoint, save
from divdet.engine.cli import to_dict
from divdet.engine.errors import UserError
from tests.detection.generated import write_noise

THING, OTHER = {"id": 1, "name": "thing"}, {"id": 2, "name": "other"}


def write_checkpoint(
    path: Path, seed: int, head: str, size: int | None, categories: list[Any], **settings: Any
) -> Path:
    torch.manual_seed(seed)
    chosen = ModelSettings("resnet10_16", 2, None, head, size)
    postprocess = PostprocessSettings(score_threshold=0.01, max_per_member=20, **settings)
    config = to_dict(TrainDetection(model=chosen, postprocess=postprocess))
    weights = create_model(chosen, len(categories)).state_dict()
    save(Checkpoint("detection", weights, config, {"categories": categories}), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, truth.json, and two detectors of other heads, of which the first knows one class more."""
    folder = tmp_path_factory.mktemp("noise")
    write_noise(folder, [20, 10, 30, 40])
    write_checkpoint(folder / "ssd.pt", 0, "ssd300", None, [THING, OTHER], member_weights=[2.0, 1.0], fusion_iou=0.4)
    write_checkpoint(folder / "fcos.pt", 1, "fcos", 64, [THING])
    x1, y1, x2, y2 = next(box for box, _, label in by_library(folder, folder / "0.png", iou_thr=0.5) if label == 0)
    write_noise(folder, [x1, y1, x2 - x1, y2 - y1])  # what is found in one image, so that AP is not 0
    return folder


def data_of(folder: Path) -> dict[str, str]:
    return {"val_annotations": str(folder / "truth.json"), "val_images": str(folder)}


def run(name: str, *arguments: str) -> Any:
    return COMMANDS[name].call(COMMANDS[name].parse(list(arguments), name))


def by_library(folder: Path, image: Path, **options: Any) -> list[tuple[list[float], float, int]]:
    detectors = [Detector.load(folder / name, "cpu") for name in ("ssd.pt", "fcos.pt")]
    own = [detector(image) for detector in detectors]
    height, width = own[0].image.shape[:2]
    scale = np.array([width, height, width, height])
    lists = ([one.boxes.double().numpy() / scale for one in own], [one.scores.double().numpy() for one in own])
    boxes, scores, labels = ensemble_boxes.weighted_boxes_fusion(*lists, [one.labels.numpy() for one in own], **options)
    return [(box.tolist(), score, int(label)) for box, score, label in zip(boxes * scale, scores, labels, strict=True)]


def test_eval_det_fuses_checkpoints(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    both = f"{folder / 'ssd.pt'},{folder / 'fcos.pt'}"
    data = [f"--data.{key}={value}" for key, value in data_of(folder).items()]
    common = [f"--output={tmp_path}", "--device=cpu", *data]
    metrics = run("eval-det", f"--checkpoint={both}", "--postprocess.member_weights=[1,3]", "--report", *common)
    assert metrics["fusion"]["iou_thr"] == 0.4  # the first one's
    assert metrics["fusion"]["weights"] == [1, 3]
    assert len(metrics["members"]) == 2
    printed = capsys.readouterr().out
    assert "fusing" in printed
    assert f"note: {folder / 'fcos.pt'} lacks 1 class (other): it counts as a detector that missed them" in printed
    assert (tmp_path / "report.html").is_file()

    found = json.loads((tmp_path / "detections.json").read_text())
    assert {entry["category_id"] for entry in found} == {1}  # the file does not list the other
    entries = []
    for number in range(6):
        image = folder / f"{number}.png"
        fused = by_library(folder, image, weights=[1, 3], iou_thr=0.4, skip_box_thr=1e-4)
        own = [entry for entry in found if entry["image_id"] == number]
        fused = [(box, score) for box, score, label in fused if label == 0]
        assert len(own) == len(fused) > 5
        np.testing.assert_allclose([entry["score"] for entry in own], [score for _, score in fused], atol=2e-6)
        for box, score in fused:
            x1, y1, x2, y2 = box
            entries.append({"image_id": number, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    (tmp_path / "library.json").write_text(json.dumps(entries))
    scored = run("eval-det", f"--detections={tmp_path / 'library.json'}", f"--output={tmp_path / 'f'}", *data)
    for name in ("AP", "AP50", "AR100", "per_class", "images"):
        assert metrics[name] == pytest.approx(scored[name]), name
    assert metrics["AR100"] > 0


def test_data_of_a_checkpoint_that_is_elsewhere(folder: Path, tmp_path: Path) -> None:
    saved = torch.load(folder / "ssd.pt", weights_only=True)
    saved["config"]["data"]["val_annotations"] = "sets/val.json"
    torch.save(saved, tmp_path / "moved.pt")
    words = f"--checkpoint={tmp_path / 'moved.pt'}", f"--output={tmp_path}", "--device=cpu"
    with pytest.raises(UserError, match=r"moved\.pt: its data, sets/val\.json, is not here: .*--data$"):
        run("eval-det", *words)
    assert run("eval-det", *words, *(f"--data.{key}={value}" for key, value in data_of(folder).items()))["images"] == 6
    run("export", f"--checkpoint={tmp_path / 'moved.pt'}", "--format=torch")  # needs no data
    assert (tmp_path / "moved.pt2").is_file()


def test_evaluate_a_fusion(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    detectors = [Detector.load(folder / name, "cpu") for name in ("ssd.pt", "fcos.pt")]
    fusion = divdet.Fusion(detectors, iou_thr=0.5)
    found = divdet.evaluate(fusion, data=data_of(folder))
    assert not list(tmp_path.iterdir())
    written = divdet.evaluate(fusion, data=data_of(folder), output="out")
    assert written == found
    assert json.loads(Path("out/metrics.json").read_text())["AR100"] == found["AR100"] > 0
    scored = run(
        "eval-det", "--detections=out/detections.json", *(f"--data.{k}={v}" for k, v in data_of(folder).items())
    )
    for name in ("AP", "AP50", "AR1", "AR100", "per_class", "classes", "interval"):
        assert found[name] == scored[name], name
    for member, detector in zip(found["members"], detectors, strict=True):
        alone = divdet.evaluate(detector, data=data_of(folder))
        assert {name: alone[name] for name in member} == member
    assert alone["members"] == [member]


def test_evaluate_any_detector(folder: Path, capsys: pytest.CaptureFixture) -> None:
    x, y, w, h = json.loads((folder / "truth.json").read_text())["annotations"][0]["bbox"]

    def perfect(image: np.ndarray) -> dict[str, Any]:
        return {"boxes": [[x, y, x + w, y + h], [1, 1, 9, 9]], "labels": [1, 2], "scores": [0.9, 0.8]}

    data = data_of(folder)
    found = divdet.evaluate(perfect, names=["__background__", "thing", "bird"], data=data)
    assert (found["AP"], found["images"]) == (1.0, 6)
    assert (
        "note: 6 detections of classes that the ground truth does not list ('bird') left out" in capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"0\.png: detectors\[0\] returned labels without names"):
        divdet.evaluate(perfect, data=data)
    with pytest.raises(UserError, match="thing"):
        divdet.evaluate(perfect, names=["__background__", "cat", "bird"], data=data)
    with pytest.raises(UserError, match="postprocess is for checkpoints"):
        divdet.evaluate(perfect, names=["x", "thing", "bird"], data=data, postprocess={"fusion_iou": 0.7})
    with pytest.raises(UserError, match="give it to Fusion"):
        divdet.evaluate(divdet.Fusion([perfect, perfect]), names=["thing"], data=data)


def test_detect_fuses_checkpoints(folder: Path, tmp_path: Path) -> None:
    both = f"{folder / 'ssd.pt'},{folder / 'fcos.pt'}"
    found = run(
        "detect", f"--checkpoint={both}", str(folder / "0.png"), f"--output={tmp_path}", "--score_threshold=0.01"
    )
    fused = by_library(folder, folder / "0.png", iou_thr=0.4, skip_box_thr=1e-4)
    fused = [(score, label + 1) for _, score, label in fused if score >= 0.01]
    own = [(entry["score"], entry["category_id"]) for entry in json.loads(found.read_text())]
    assert len(own) > 10
    np.testing.assert_allclose(sorted(own), sorted(fused), atol=2e-6)
    assert (tmp_path / "0.png").is_file()


def test_what_several_checkpoints_do_not_take(folder: Path, tmp_path: Path) -> None:
    both = f"--checkpoint={folder / 'ssd.pt'},{folder / 'fcos.pt'}"
    for option, message in (
        ("--tile=64", "--tile and --tta take one checkpoint"),
        ("--postprocess.class_agnostic=true", "class_agnostic takes one checkpoint"),
        ("--postprocess.member_weights=[1,2,3]", "3 weights for 2 detectors"),
    ):
        with pytest.raises(UserError, match=message):
            run("detect", both, str(folder / "0.png"), option, f"--output={tmp_path}")
    with pytest.raises(UserError, match=r"absent\.pt"):
        run("detect", f"{both},absent.pt", str(folder / "0.png"), f"--output={tmp_path}")
    other = write_checkpoint(tmp_path / "other.pt", 1, "fcos", 64, [{"id": 5, "name": "thing"}])
    with pytest.raises(UserError, match="other category ids"):
        run("detect", f"{both},{other}", str(folder / "0.png"), f"--output={tmp_path}")

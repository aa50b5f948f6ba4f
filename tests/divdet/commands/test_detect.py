"""The detect command: sources that cannot be used, ids, what a stop leaves."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection import Detector
from detection.data.coco import load_annotations
from detection.evaluation import coco_metrics
from detection.evaluation.coco_metrics import METRICS
from detection.evaluation.evaluate import score
from detection.settings import EvalDataSettings
from divdet.commands import detect_photos as prediction
from divdet.commands.detect import detect
from divdet.commands.eval_det import checkpoint_defaults, evaluate
from divdet.commands.settings import Detect, EvaluateDetection
from divdet.engine import checkpoint
from divdet.engine.cli import parse
from divdet.engine.errors import UserError
from divdet.engine.stopping import Stopped
from tests.detection.generated import write_detector


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("detector") / "best.pt", 1, {"id": 1, "name": "square"})


def test_earlier_detections_are_kept_where_no_image_can_be_read(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/broken.jpg").write_bytes(b"no image")
    earlier = tmp_path / "detections.json"
    earlier.write_text(json.dumps([{"image_id": 1}]))
    with pytest.raises(UserError, match=r"^\S*broken\.jpg: not an image"):
        detect(Detect(str(trained), [str(tmp_path / "images")], output=str(tmp_path), device="cpu"))
    assert json.loads(earlier.read_text()) == [{"image_id": 1}]


def test_names_that_are_too_long_are_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    config = Detect(str(trained), ["x" * 300 + ".jpg"], device="cpu")
    with pytest.raises(UserError, match="no image found"):
        detect(config)
    with pytest.raises(UserError, match="choose another --output"):
        detect(replace(config, sources=[str(tmp_path / "a.jpg")], output=str(tmp_path / ("y" * 300))))


def test_sources_stand_anywhere_and_the_output_is_named_after_the_recipe(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "street.yaml").write_text("score_threshold: 0.5\n")
    words = ["a.jpg", "--checkpoint", str(trained), "b.jpg", f"--config={tmp_path / 'street.yaml'}", "c.jpg"]
    config = parse(Detect, words, positional="sources", defaults=checkpoint_defaults)
    assert config.sources == ["a.jpg", "b.jpg", "c.jpg"]
    assert (config.checkpoint, config.score_threshold) == (str(trained), 0.5)
    assert config.output == str(Path("runs/street"))
    for misspelt in ("--chekpoint", "-c"):
        with pytest.raises(UserError, match=f"unrecognized arguments: {misspelt}"):
            parse(Detect, ["a.jpg", misspelt, "F", "b.jpg"], positional="sources")
    with pytest.raises(UserError, match="--checkpoint: expected one argument"):
        parse(Detect, ["a.jpg", "--checkpoint"], positional="sources")
    with pytest.raises(UserError, match=r"did you mean --checkpoint runs/best\.pt\?"):
        detect(Detect(None, ["runs/best.pt", "photos"]))
    with pytest.raises(UserError, match=r"^b\.pt: no image; several checkpoints are fused as --checkpoint A,B"):
        detect(Detect("a.pt", ["b.pt", "photos"]))
    with pytest.raises(UserError, match="--checkpoint is missing: give a checkpoint"):
        detect(Detect(None, ["photos"]))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight images whose ids are not the numbers in their names; the last but one is turned, upright boxes."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = 3 if number == 7 else 1
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(tmp_path / f"{number}.jpg", exif=exif)
        images.append({"id": 9 - number, "file_name": f"{number}.jpg", "width": 40, "height": 30})
        box = {"bbox": [number, 2, 20, 25], "category_id": 1, "image_id": 9 - number, "id": number}
        annotations.append(box)
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    return tmp_path


def config_of(trained: Path, photos: Path, output: str, **settings: object) -> Detect:
    options = {"score_threshold": 0.0, "output": str(photos / output), "device": "cpu", "batch_size": 2, "workers": 0}
    options |= settings
    return Detect(str(trained), [str(photos / "*.jpg")], **options)


@pytest.mark.parametrize("given", ["nothing", "annotations", "annotations and images"])
def test_own_results_score_as_the_checkpoint_does(trained: Path, photos: Path, given: str) -> None:
    truth, detector = str(photos / "truth.json"), Detector.load(trained, "cpu")
    content = json.loads((photos / "truth.json").read_text())
    for number, entry in enumerate(content["annotations"], 1):  # objects are where something is found
        x1, y1, x2, y2 = detector.predict([photos / f"{number}.jpg"])[0].boxes[number].tolist()
        entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    (photos / "truth.json").write_text(json.dumps(content))
    data = {
        "nothing": EvalDataSettings(),
        "annotations": EvalDataSettings(truth),
        "annotations and images": EvalDataSettings(truth, str(photos)),
    }
    entries = json.loads(detect(config_of(trained, photos, "out", data=data[given])).read_text())
    assert {(entry["image_id"], Path(entry["file_name"]).name) for entry in entries} == {
        (number if given == "nothing" else 9 - number, f"{number}.jpg") for number in range(1, 9)
    }
    detections, folder = str(photos / "out/detections.json"), str(photos / "eval")
    own = evaluate(EvaluateDetection(detections=detections, data=EvalDataSettings(truth), output=folder, verify=True))
    expected = score(detector, load_annotations(truth, str(photos)), batch_size=2).metrics
    assert expected["AP50"] > 0.1
    assert [own[name] for name in METRICS] == [expected[name] for name in METRICS]


@pytest.mark.parametrize("source", ["checkpoint", "detections"])
def test_verify_scores_once_more_by_pycocotools(
    trained: Path, photos: Path, source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (photos / "empty.json").write_text("[]")
    given = {"checkpoint": str(trained)} if source == "checkpoint" else {"detections": str(photos / "empty.json")}
    data = EvalDataSettings(str(photos / "truth.json"), str(photos))
    config = EvaluateDetection(**given, data=data, output=str(photos / "eval"), device="cpu", verify=True)
    metrics = evaluate(config)
    assert "verified: pycocotools gives the same 12 numbers" in capsys.readouterr().out
    scored = coco_metrics.evaluate
    monkeypatch.setattr(coco_metrics, "evaluate", lambda *arguments: scored(*arguments) | {"AR10": 0.75})
    with pytest.raises(UserError, match=f"not verified: AR10 is 0.75 and {metrics['AR10']} by pycocotools"):
        evaluate(config)


def test_images_that_the_annotations_lack_are_refused(trained: Path, photos: Path) -> None:
    Image.new("RGB", (9, 9)).save(photos / "other.jpg")
    config = config_of(trained, photos, "out", data=EvalDataSettings(str(photos / "truth.json")))
    with pytest.raises(UserError, match=r"1 of the 9 images are not in the annotations, the first: .*other\.jpg"):
        detect(config)
    assert not (photos / "out").exists()


def stop(config: Detect, monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int) -> None:
    """Runs until ``after`` pictures are written."""
    save, left = prediction.save_image, [after]

    def save_or_stop(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error
        save(*arguments)

    monkeypatch.setattr(prediction, "save_image", save_or_stop)
    with pytest.raises(type(error)):
        detect(config)
    monkeypatch.setattr(prediction, "save_image", save)


def test_a_stopped_run_continues_to_the_same_files(
    trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (photos / "5.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 8 images could not be read"):
        detect(config_of(trained, photos, "whole"))
    config = config_of(trained, photos, "stopped")
    stop(config, monkeypatch, KeyboardInterrupt(), 2)
    part = photos / "stopped/detections.part.jsonl"
    with open(part, "ab") as file:
        file.write(b'{"images": 2, "emp')  # as a power cut leaves it
    # Stopped again in the fourth batch: the third has a single readable image.
    stop(replace(config, resume="auto"), monkeypatch, UserError("the disk is full"), 3)
    with pytest.raises(UserError, match=r"part\.jsonl: holds 3 batches of a stopped run: add --resume auto"):
        detect(config)
    with pytest.raises(UserError, match="the stopped run had different score_threshold: continue"):
        detect(replace(config, score_threshold=0.5, resume="auto"))
    with pytest.raises(UserError, match="the stopped run had different sources"):
        detect(replace(config, sources=[str(photos / "1.jpg")], resume="auto"))
    drawn: list[Path] = []
    save = prediction.save_image
    monkeypatch.setattr(prediction, "save_image", lambda path, picture: (drawn.append(path), save(path, picture)))
    with pytest.raises(UserError, match=r"1 of 8 images could not be read, the first: .*5\.jpg"):
        detect(replace(config, resume="auto"))
    assert [path.name for path in drawn] == ["7.jpg", "8.jpg"]
    assert "after 3 batches" in capsys.readouterr().out
    files = sorted(path.name for path in (photos / "whole").iterdir())
    assert sorted(path.name for path in (photos / "stopped").iterdir()) == files
    for name in files:
        assert (photos / "stopped" / name).read_bytes() == (photos / "whole" / name).read_bytes()


def test_a_signal_ends_a_run_after_its_batch(trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, save = config_of(trained, photos, "out"), prediction.save_image

    def save_and_signal(*arguments: Any) -> None:
        save(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(prediction, "save_image", save_and_signal)
    with pytest.raises(Stopped, match=r"stopped, with 6 of 8 images left; .*part\.jsonl holds what was found") as stop:
        detect(config)
    assert stop.value.exit_code == 128 + signal.SIGTERM
    monkeypatch.setattr(prediction, "save_image", save)
    assert detect(replace(config, resume="auto"))


def test_a_run_is_refused_while_another_one_writes(trained: Path, photos: Path) -> None:
    config = config_of(trained, photos, "out")
    (photos / "out").mkdir()
    code = "import fcntl, sys; file = open(sys.argv[1], 'ab'); fcntl.lockf(file, fcntl.LOCK_EX); print('locked')"
    code += "; input()"
    command = [sys.executable, "-u", "-c", code, str(photos / "out/detections.part.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another process is writing to this folder"):
            detect(config)
        other.kill()
    assert detect(config)


def test_a_run_that_finished_no_batch_begins_anew(trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop(config_of(trained, photos, "out"), monkeypatch, KeyboardInterrupt(), 1)
    assert detect(config_of(trained, photos, "out", score_threshold=0.01))


def test_every_unreadable_image_is_named(trained: Path, photos: Path, capsys: pytest.CaptureFixture) -> None:
    for number in (2, 3, 8):
        (photos / f"{number}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="3 of 8 images could not be read"):
        detect(config_of(trained, photos, "out"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(photos / f"{number}.jpg") for number in (2, 3, 8)]
    assert len(json.loads((photos / "out/detections.json").read_text())) > 0


def test_turned_photos_are_read_upright_unless_stored_is_asked_for(trained: Path, photos: Path) -> None:
    for orientation in ("auto", "upright", "stored"):
        detect(config_of(trained, photos, orientation, data=EvalDataSettings(orientation=orientation)))
    pictures = {name: np.asarray(Image.open(photos / name / "7.jpg")) for name in ("auto", "upright", "stored")}
    np.testing.assert_array_equal(pictures["auto"], pictures["upright"])
    assert np.abs(pictures["auto"].astype(int) - pictures["stored"]).mean() > 10


def test_the_checkpoint_brings_its_orientation(trained: Path, tmp_path: Path) -> None:
    saved = checkpoint.read(trained)
    saved["config"]["data"]["orientation"] = "stored"
    torch.save(saved, tmp_path / "stored.pt")
    for config in (Detect(str(tmp_path / "stored.pt")), EvaluateDetection(str(tmp_path / "stored.pt"))):
        assert checkpoint_defaults(config)["data.orientation"] == "stored"
    assert "data.val_annotations" not in checkpoint_defaults(Detect(str(tmp_path / "stored.pt")))
    del saved["config"]["data"]["orientation"]  # of an older checkpoint
    torch.save(saved, tmp_path / "old.pt")
    assert checkpoint_defaults(EvaluateDetection(str(tmp_path / "old.pt")))["data.orientation"] == "auto"


def test_training_images_that_are_evaluated_are_noted(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture
) -> None:
    saved = checkpoint.read(trained)
    saved["config"]["data"]["train_annotations"] = str(photos / "truth.json")
    torch.save(saved, photos / "own.pt")
    data = EvalDataSettings(str(photos / "truth.json"), str(photos))
    for file, noted in ((trained, False), (photos / "own.pt", True)):
        evaluate(EvaluateDetection(str(file), data=data, output=str(photos / "eval"), device="cpu"))
        assert ("note: the checkpoint was trained on these images" in capsys.readouterr().out) is noted


def test_the_checkpoints_images_are_not_those_of_annotations_elsewhere(trained: Path, tmp_path: Path) -> None:
    saved = checkpoint.read(trained)
    saved["config"]["data"] |= {"val_annotations": str(tmp_path / "val.json"), "val_images": str(tmp_path / "images")}
    torch.save(saved, tmp_path / "own.pt")

    def images_of(annotations: Path) -> str | None:
        data = EvalDataSettings(val_annotations=str(annotations))
        return checkpoint_defaults(EvaluateDetection(str(tmp_path / "own.pt"), data=data)).get("data.val_images")

    assert images_of(tmp_path / "val.json") == images_of(tmp_path / "corrected.json") == str(tmp_path / "images")
    assert images_of(tmp_path / "other/val.json") is None  # its images may have the same names

"""Exported files hold the detector: the same boxes, what it is, and nothing that runs code."""

import json
import re
import subprocess
import sys
import zipfile
from html import escape
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import divdet
from detection import Detector
from detection.heads import Input
from detection.models.head import create_detector
from detection.prediction_settings import PostprocessSettings, RuntimeSettings
from detection.runtimes.exported import saved_of
from detection.runtimes.safe_program import read_known
from detection.runtimes.sealed import onnx_entry, read_onnx, read_openvino, sealed_onnx, sealed_xml
from detection.settings import ModelSettings, TrainDetection
from divdet.commands import COMMANDS
from divdet.engine.cli import to_dict
from divdet.engine.errors import UserError

EXAMPLE = Path(__file__).parents[3] / "examples/detect_onnx.py"
NAMES = ["cat", "dog", "hen"]
ENDINGS = ["onnx", "xml", "pt2"]


def call(name: str, *words: object) -> object:
    return COMMANDS[name].call(COMMANDS[name].parse(list(map(str, words)), name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two small members that find something, in all formats; images beside them."""
    for package in ("onnx", "onnxruntime", "onnxscript", "openvino"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    network = create_detector("ssd300", "resnet10_16", 2, len(NAMES), 257)
    for name, weight in network.named_parameters():
        if name.startswith("conf.") and weight.ndim == 4:
            nn.init.normal_(weight, std=0.1)
    categories = [{"id": 10 * number + 3, "name": name} for number, name in enumerate(NAMES)]
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate([(300, 400), (90, 70), (60, 200)]):
        coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"images/{number}.png"), image)
    images = [{"id": 1, "file_name": "0.png", "width": 400, "height": 300}]
    truth = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 100, 100], "area": 10000, "iscrowd": 0}
    annotations = {"images": images, "annotations": [truth], "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(annotations))
    config = to_dict(TrainDetection(model=ModelSettings("resnet10_16", 2, input_size=257)))
    config["data"] |= {"val_images": str(folder / "images"), "val_annotations": str(folder / "annotations.json")}
    config["postprocess"] |= {"score_threshold": 0.4, "max_per_member": 60}
    saved = {
        "kind": "detection",
        "model": network.state_dict(),
        "config": config,
        "meta": {"categories": categories},
        "epoch": 7,
    }
    torch.save(saved, folder / "best.pt")
    for ending in ENDINGS:
        call("export", "--checkpoint", folder / "best.pt", "--output", folder / f"model.{ending}")
    return folder


@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_what_does_not_load_is_not_left(
    ending: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("cannot be run")

    monkeypatch.setattr(Detector, "load", fail)
    old = tmp_path / f"a.{ending}"
    old.write_text("old")
    with pytest.raises(UserError, match="cannot be run"):
        call("export", "--checkpoint", folder / "best.pt", "--output", old)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_an_output_that_is_a_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(UserError, match=r"a\.onnx: cannot be written"):
        call("export", "--checkpoint", folder / "best.pt", "--output", tmp_path / "a.onnx")


def images(folder: Path) -> list[str]:
    return sorted(map(str, (folder / "images").glob("*")))


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_boxes_are_the_checkpoints(ending: str, folder: Path) -> None:
    wanted, found = (Detector.load(folder / name, "cpu") for name in ("best.pt", f"model.{ending}"))
    assert (found.names, found.category_ids, found.input) == (wanted.names, wanted.category_ids, wanted.input)
    assert found.settings == wanted.settings
    total = 0
    for batch in (images(folder), images(folder)[:1]):  # of any size
        for own, other in zip(found(batch), wanted(batch), strict=True):
            for a, b in zip([own, *own.members], [other, *other.members], strict=True):
                rows = [torch.cat((r.boxes, 100 * r.scores[:, None], 1e3 * r.labels[:, None]), 1) for r in (a, b)]
                distance, counterpart = torch.cdist(*rows, p=torch.inf).min(1)  # rounding may change places
                assert len(a) == len(b) == len(counterpart.unique())
                assert distance.max() < 0.01
                total += len(a)
    assert total > 100


@pytest.mark.parametrize("ending", ENDINGS)
def test_commands_take_it(ending: str, folder: Path, tmp_path: Path) -> None:
    wanted = divdet.evaluate(folder / "best.pt", output=str(tmp_path / "a"), device="cpu")
    found = divdet.evaluate(folder / f"model.{ending}", output=str(tmp_path / "b"), report=ending == "onnx")
    if ending == "onnx":
        assert "model.onnx, epoch 7" in (tmp_path / "b/report.html").read_text()
    assert found["AP"] == pytest.approx(wanted["AP"], abs=1e-6)
    assert found["runtime"] == {"onnx": "onnxruntime", "xml": "openvino", "pt2": "torch"}[ending]
    call("detect", "--checkpoint", folder / f"model.{ending}", "--output", tmp_path / "c", folder / "images")
    assert json.loads((tmp_path / "c/detections.json").read_text())


def test_they_are_fused_with_checkpoints(folder: Path, tmp_path: Path) -> None:
    """In any order, each as it is: by its own runtime."""
    names = ["best.pt", "model.onnx", "model.xml"]
    several = ",".join(str(folder / name) for name in names)
    found = divdet.evaluate(several, output=str(tmp_path), device="cpu")
    assert found["runtime"] == "torch, onnxruntime, openvino"
    assert len(found["members"]) == 3
    with pytest.raises(UserError, match=r"model\.onnx: runs by onnxruntime as it is"):
        divdet.evaluate(several, runtime="openvino", output=str(tmp_path), device="cpu")


def test_what_is_in_the_network_stays_and_the_fusion_may_change(folder: Path) -> None:
    own = Detector.load(folder / "best.pt").settings
    with pytest.raises(UserError, match=r"score_threshold is 0.4 in the network itself, not 0.3: export"):
        Detector.load(folder / "model.onnx", settings=PostprocessSettings(score_threshold=0.3))
    changed = PostprocessSettings(**vars(own) | {"fusion_conf": "max"})
    assert Detector.load(folder / "model.onnx", settings=changed)(images(folder)[0]).scores[0] >= 0.4
    with pytest.raises(UserError, match="runs by onnxruntime as it is"):
        Detector.load(folder / "model.onnx", run=RuntimeSettings(runtime="openvino"))


def test_the_precision_is_the_files(folder: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "int8.xml"
    xml, weights = read_openvino(folder / "model.xml")
    int8.write_bytes(
        sealed_xml(xml.replace(b"precision&quot;: &quot;float32", b"precision&quot;: &quot;int8"), weights)
    )
    int8.with_suffix(".bin").write_bytes(weights)
    own = ("--calibration", folder / "images")
    for file, words in ((folder / "model.xml", ["int8"]), (int8, ["float32"]), (int8, ["int8", *own])):
        given = ("--runtime", "openvino", "--precision", *words)
        with pytest.raises(UserError, match=r"as it is: leave out --precision and --calibration"):
            call("eval-det", "--checkpoint", file, "--output", tmp_path / "eval", *given)


def test_the_batch_size_has_the_name_that_the_docs_give_it(folder: Path) -> None:
    graph = pytest.importorskip("onnx").load_model_from_string(read_onnx(folder / "model.onnx")).graph
    sizes = [value.type.tensor_type.shape.dim[0] for value in (*graph.input, *graph.output)]
    assert [size.dim_param for size in sizes] == ["N"] * 4


@pytest.mark.parametrize("said", [None, "[1]", "{", "{}", '{"config": {}, "precision": "fp7"}'])
def test_sealed_files_that_say_nothing_are_refused(said: str | None, folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(read_onnx(folder / "model.onnx"))
    del model.metadata_props[:]
    entry = onnx_entry("divdet", said) if said else b""
    (tmp_path / "a.onnx").write_bytes(sealed_onnx(model.SerializeToString() + entry))
    xml, weights = read_openvino(folder / "model.xml")
    xml = re.sub(rb"<divdet .*/>", b'<divdet value="%s" />' % escape(said).encode() if said else b"", xml)
    (tmp_path / "a.xml").write_bytes(sealed_xml(xml, weights))
    (tmp_path / "a.bin").write_bytes(weights)
    for name in ("a.onnx", "a.xml"):
        with pytest.raises(UserError, match=r"export it again$"):
            call("detect", "--checkpoint", tmp_path / name, folder / "images")


def test_sealed_files_that_runtimes_cannot_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(sealed_onnx(b"no model"))
    (tmp_path / "a.xml").write_bytes(sealed_xml(b"<net/>", b""))
    (tmp_path / "a.bin").write_bytes(b"")
    for name in ("a.onnx", "a.xml"):
        with pytest.raises(UserError, match=r"cannot be run \(.*export it again$"):
            saved_of(tmp_path / name)


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.bin", "model.pt2"])
def test_damage_is_seen(name: str, folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("model.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    loaded = tmp_path / name.replace(".bin", ".xml")
    for damaged in (content, content[: len(content) // 2], b"", b"<xml/>"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=r"damaged|cut off"):
            Detector.load(loaded)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match="no such file"):
        Detector.load(loaded)


def test_another_process_loads_it(folder: Path) -> None:
    """Where nothing was exported, and so no operator is defined yet."""
    run = "import sys; from detection import Detector; print(*Detector.load(sys.argv[1]).names)"
    words = [sys.executable, "-c", run, str(folder / "model.pt2")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == NAMES


# Of the tree specs in a program, which are JSON in strings of JSON
TUPLE = rb"\"type\": \"builtins.tuple\""
ENUM = json.dumps([{"__enum__": True, "fqn": "mod:A", "name": "b"}])
DICT = json.dumps(json.dumps({"type": "builtins.dict", "context": ENUM})[1:-1])[1:-1].encode()


def repacked(folder: Path, target: Path, record: str, change: object) -> Path:
    with zipfile.ZipFile(folder / "model.pt2") as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith(record) else content)
    return target


@pytest.mark.parametrize(
    ("record", "old", "new"),
    [
        ("weights_config.json", b'"use_pickle": false', b'"use_pickle": true'),
        ("constants_config.json", b'"path_name": "tensor_0"', b'"path_name": "custom_obj_0"'),
        ("sample_inputs/model.pt", b"", b"\x80\x04."),
        ("model.json", b"torch.ops.aten.cat.default", b"torch.os.system"),
        ("model.json", b"Symbol(", b"__import__('os').system("),
        ("model.json", b'"guards_code": []', b'"guards_code": ["1"]'),
        ("model.json", b"torch.ops.aten.cat.default", b"torch.ops.aten.__class__.__init__"),
        ("model.json", TUPLE, TUPLE.replace(b': \\"builtins.tuple', b':\\"collections.defaultdict')),
        (
            "model.json",
            TUPLE,
            TUPLE.replace(b"type", rb"\\u0074ype").replace(b"builtins.tuple", b"collections.defaultdict"),
        ),
        ("model.json", TUPLE + rb", \"context\": \"null\"", DICT),
    ],
)
def test_a_program_that_could_run_code_is_refused(
    record: str, old: bytes, new: bytes, folder: Path, tmp_path: Path
) -> None:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    path = repacked(folder, tmp_path / "evil.pt2", record, change)
    same = repacked(folder, tmp_path / "same.pt2", record, lambda content: content)
    assert json.loads(read_known(same))["precision"] == "float32"  # as it is, it is taken
    with pytest.raises(UserError, match="refused, since divdet export does not write"):
        Detector.load(path)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_the_example_needs_neither_torch_nor_divdet(fit: str, folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_model_from_string(read_onnx(folder / "model.onnx"))
    entry = next(entry for entry in model.metadata_props if entry.key == "divdet")
    entry.value = entry.value.replace('"fit": "stretch"', f'"fit": "{fit}"')
    file = tmp_path / "a.onnx"
    file.write_bytes(sealed_onnx(model.SerializeToString()))
    guard = "import sys, runpy\n" + "\n".join(
        f"sys.modules[{name!r}] = None" for name in ("torch", "torchvision", "divdet", "detection", "classification")
    )
    run = f"{guard}\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    words = [sys.executable, "-c", run, str(EXAMPLE), str(file), *images(folder)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [[word.split() for word in lines if word.startswith(file)] for file in images(folder)]
    detector = Detector.load(file)
    detector.model.input = Input(detector.input.size, fit)
    for own, wanted in zip(found, detector(images(folder)), strict=True):
        assert len(own) == len(wanted) > 0
        rows = torch.tensor([[float(v) for v in words[2:]] for words in own])
        expected = torch.cat((wanted.scores[:, None], wanted.boxes), 1)
        torch.testing.assert_close(rows, expected, atol=0.01, rtol=0)
        assert [words[1] for words in own] == wanted.names
    assert len(EXAMPLE.read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"fusion_conf": "avg"', b'"fusion_conf": "max"'),
        (b'"class_agnostic": false', b'"class_agnostic":  true'),
        (b'"class_thresholds": null', b'"class_thresholds": [{}]'),
    ],
)
def test_the_example_refuses_what_it_does_not_do(old: bytes, new: bytes, folder: Path, tmp_path: Path) -> None:
    model = (folder / "model.onnx").read_bytes()
    (tmp_path / "a.onnx").write_bytes(model.replace(old, new))
    words = [sys.executable, str(EXAMPLE), str(tmp_path / "a.onnx"), *images(folder)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    key = old.decode().split('"')[1]
    assert f"defaults of {key}" in run.stderr
    assert "Traceback" not in run.stderr + run.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "usage: python detect_onnx.py model.onnx photo.jpg …"),
        ("model.onnx", "usage: python detect_onnx.py model.onnx photo.jpg …"),
        ("model.onnx none.jpg", "none.jpg: no such file, or not an image"),
        ("model.onnx model.onnx", "model.onnx: no such file, or not an image"),
    ],
)
def test_the_example_says_what_it_needs(words: str, message: str, folder: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), *words.split()], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr.splitlines()[-1]) == (1, message)
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "a.onnx", "--format", "torch"], "--format torch ends in .pt2"),
        (["--output", "a.engine"], "ends in .onnx"),
        (["--output", "mine"], "--format onnx ends in .onnx"),
        (["--precision", "int8"], "takes --format openvino"),
        (["--calibration", "images"], "is for --precision int8"),
        (["--checkpoint", "a.onnx"], "is exported already"),
        ([], "--checkpoint is missing"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call("export", *words)

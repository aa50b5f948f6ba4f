"""What a detector takes, refuses and returns: checkpoints, images, arguments, detections."""

import copy
import inspect
import io
import math
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detection import Detections, Detector, create_ssd
from detection.detector import to_pixels
from detection.ensembles import Fusion
from detection.prediction_settings import PostprocessSettings
from detection.preprocess import to_input
from detection.settings import ModelSettings, TrainDetection
from divdet.commands.eval_det import checkpoint_defaults
from divdet.commands.settings import EvaluateDetection
from divdet.engine.cli import to_dict
from divdet.engine.errors import UserError
from tests.detection.generated import write_detector

CPU = torch.device("cpu")


def test_damaged_descriptions_are_refused_naming_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "bad.pt")
    faults = (
        ("model", "members", math.inf),
        ("model", "members", 10**12),
        ("model", "backbone", "resnet11"),
        ("postprocess", "fusion_conf", "foo"),
        ("data", "orientation", "sideways"),
        ("data", "zoom_out", "often"),
    )
    for section, key, value in faults:
        config = to_dict(TrainDetection(model=ModelSettings("resnet10_16", 1)))
        config[section][key] = value
        meta = {"categories": [{"id": 1, "name": "square"}]}
        torch.save({"kind": "detection", "model": {"w": torch.ones(1)}, "config": config, "meta": meta}, path)
        with pytest.raises(UserError, match=r"bad\.pt"):
            Detector.load(path, "cpu")
    config = to_dict(TrainDetection(model=ModelSettings("resnet10_16", 1)))
    meta = {"categories": [{"id": 1, "name": "a\u2028b"}]}
    saved = {"kind": "detection", "model": {"w": torch.ones(1)}, "config": config, "meta": meta}
    torch.save(saved, tmp_path / "name.pt")
    with pytest.raises(UserError, match=r"name\.pt: has the invalid category name 'a\\u2028b'"):
        Detector.load(tmp_path / "name.pt", "cpu")
    with pytest.raises(UserError, match=r"bad\.pt: its settings are damaged"):
        checkpoint_defaults(EvaluateDetection(path))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_pil_image_that_is_cut_off_is_named(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)).save(buffer, kind)
    cut = Image.open(io.BytesIO(buffer.getvalue()[:2000]))
    detector = Detector(create_ssd("resnet10_16", 1, 1), ["a"], [1], PostprocessSettings(), torch.device("cpu"))
    with pytest.raises(UserError, match=r"images\[1\] is a PIL image that cannot be decoded"):
        detector.predict([np.zeros((8, 8, 3), np.uint8), cut])


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(create_ssd("resnet10_16", 1, 1), ["a"], [1], PostprocessSettings(), CPU)


RGB = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)


def test_images_of_every_kind_give_the_same(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    expected = detector.predict([RGB])[0]
    assert len(expected) > 0
    content = path.read_bytes()
    kinds = [str(path), path, content, bytearray(content), memoryview(content), Image.open(path), RGB]
    kinds.append(torch.from_numpy(RGB.copy()))
    # Batches of one, since a sum's order may follow the batch's size.
    assert detector.predict(kinds, batch_size=1) == [expected] * 8
    assert detector.predict(tuple(kinds[:2]), batch_size=1) == [expected] * 2
    assert list(detector.predict((kind for kind in kinds[:2]), batch_size=1)) == [expected] * 2
    for single in kinds:
        assert detector.predict(single) == detector(single) == expected
    for several in (np.stack([RGB, RGB]), torch.from_numpy(np.stack([RGB, RGB]))):
        assert detector.predict(several, 0.0, 1) == [expected] * 2
    assert detector.predict(cv2.imread(str(path)), bgr=True) == expected
    assert detector.predict([cv2.imread(str(path))]) != [expected]
    mixed = detector.predict([cv2.imread(str(path)), path, Image.open(path)], batch_size=1, bgr=True)
    assert mixed == [expected] * 3
    assert detector.predict([]) == list(detector.predict(iter(()))) == []


@pytest.mark.parametrize("number", range(1, 9))
def test_pil_images_are_turned_as_files_are(detector: Detector, number: int) -> None:
    # The resolution is text, which Pillow reads but cannot write
    tags = struct.pack(">HHIHHHHI4s", 0x112, 3, 1, number, 0, 0x11A, 2, 4, b"72\0\0")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\2" + tags + bytes(4)
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG", exif=exif)
    from_file, from_pil = detector.predict([buffer.getvalue(), Image.open(buffer)])
    assert from_file == from_pil
    assert len(from_file)


def test_a_generator_reads_a_batch_at_a_time(detector: Detector) -> None:
    taken = []

    def stream() -> object:
        for number in range(5):
            taken.append(number)
            yield RGB if number < 3 else None

    found = detector.predict(stream(), batch_size=2)
    assert taken == []
    assert next(found) == detector.predict([RGB])[0]
    assert taken == [0, 1]
    next(found)
    assert taken == [0, 1]
    with pytest.raises(UserError, match=r"images\[3\] is NoneType"):
        next(found)
    assert taken == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": value} for value in (0, -1, 1.5, "2", None, True)]
    + [{"score_threshold": value} for value in (math.nan, -0.1, 1.1, math.inf, "0.3", None, True)]
    + [{"tile": 300.0}, {"tile": True}],
)
def test_arguments_out_of_range_are_refused(detector: Detector, arguments: dict) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(arguments))} is "):
        detector.predict(iter([RGB]), **arguments)  # not only when the generator is used
    assert len(detector.predict([RGB], np.float32(0.5), np.int64(2))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overlap": 0.5}, "overlap and whole_image are of tiles"),
        ({"tile": 64, "overlap": "0.2"}, "overlap is '0.2': give a number"),
        ({"whole_image": False}, "overlap and whole_image are of tiles"),
        ({"classes": 3}, "postprocess.classes is 3: give names or category ids"),
        ({"class_thresholds": [0.9]}, r"postprocess.class_thresholds is \[0.9\]: give scores by class name"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(detector: Detector, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        detector.predict(RGB, **arguments)


def test_numbers_of_numpy_are_numbers(detector: Detector) -> None:
    assert detector.predict(RGB, tile=np.int64(32)) == detector.predict(RGB, tile=32)
    wanted = detector.predict(RGB, 0.5)
    assert len(wanted)
    assert detector.predict(RGB, class_thresholds={np.int64(1): np.float32(0.5)}) == wanted
    assert detector.predict(RGB, 0.5, classes=np.array([1])) == wanted
    assert create_ssd("resnet10_16", np.int64(2), np.int64(3)).num_classes == 3


@pytest.mark.parametrize("count", [0, -1, 2.0, "3"])
def test_a_detector_of_no_class_is_refused(count: object) -> None:
    with pytest.raises(UserError, match=rf"num_classes is {count!r}: choose"):
        create_ssd("resnet10_16", 1, count)


def test_a_camera_that_is_a_number_is_explained(detector: Detector) -> None:
    for looks in (detector, Fusion([detector])):
        with pytest.raises(UserError, match=r"source is 0: give a path, an address, or camera:0"):
            next(looks.stream(0))


def test_a_prediction_of_ssd_does_not_wait_for_torchvision(tmp_path: Path) -> None:
    """Importing it, with torch's compiler, takes as long as torch itself."""
    path = write_detector(tmp_path / "a.pt", 1, {"id": 1, "name": "a"})
    code = f"""
import sys
import numpy as np
from detection import Detector
Detector.load({str(path)!r}, "cpu")(np.zeros((40, 60, 3), np.uint8))
assert "torchvision" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_a_file_is_not_taken_for_a_network(tmp_path: Path) -> None:
    """Users of ultralytics write YOLO("best.pt")."""
    for given in (lambda: Detector("best.pt"), lambda: Detector(model=Path("best.pt"), names=["a"])):
        with pytest.raises(UserError, match=r"a file is loaded by Detector\.load\('best\.pt'\)$"):
            given()
    assert list(inspect.signature(Detector).parameters)[:2] == ["model", "names"]

    class Own(Detector):
        def __init__(self, file: str) -> None:
            self.file = file

    assert Own("best.pt").file == "best.pt"


def test_what_loading_takes(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "a.pt", 1, {"id": 1, "name": "a"})
    assert Detector.load(path, CPU)(RGB) == Detector.load(path, "cpu")(RGB)
    with pytest.raises(UserError, match="--device mps: not supported"):
        Detector.load(path, torch.device("mps"))
    for given in ({"settings": {"nms_iou": 0.5}}, {"run": "onnxruntime"}):
        with pytest.raises(UserError, match=r"is no (PostprocessSettings|RuntimeSettings): give "):
            Detector.load(path, **given)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (5, "predict takes an image or a list of images, not int"),
        (None, "predict takes an image or a list of images, not NoneType"),
        ({"a.jpg": RGB}, "predict takes an image or a list of images, not dict"),
        (RGB[..., 0], r"the image is uint8 \[30, 40\]: give a path"),
        (torch.zeros(3, 30, 40), r"the image is float32 \[3, 30, 40\]: give a path"),
        (np.uint8(3), "predict takes an image or a list of images, not uint8"),
        (np.array(3), r"the image is int64 \[\]"),
        (RGB[None, None], r"images\[0\] is uint8 \[1, 30, 40, 3\]"),
        ("absent.jpg", "absent.jpg: the image cannot be read"),
        (Path(__file__).parent, "detection: is no single image: give a list"),
        ("photos/*.jpg", r"photos/\*\.jpg: is no single image: give a list"),
        ("street.mp4", r"street\.mp4: is a video: .*detector\.stream"),
        (bytearray(b"bytes"), "the image: not an image"),
        (Path("absent.jpg"), "absent.jpg: the image cannot be read"),
        (b"bytes", "the image: not an image"),
        (
            Image.new("I", (2, 2)),
            "the image is a PIL image of mode I: its range of values is unknown: scale it to 8 bits",
        ),
    ],
)
def test_what_is_no_image_is_refused(detector: Detector, images: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        detector.predict(images)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (RGB.transpose(2, 0, 1), r"uint8 \[3, 30, 40\]"),
        (torch.zeros(3, 30, 40), r"float32 \[3, 30, 40\]"),
        (torch.zeros(30, 40, 3, dtype=torch.bfloat16), r"bfloat16 \[30, 40, 3\]"),
        (RGB / 255, r"float64 \[30, 40, 3\]"),
        (RGB[..., 0], r"uint8 \[30, 40\]"),
        (np.zeros((30, 40, 4), np.uint8), r"uint8 \[30, 40, 4\]"),
        (np.zeros((0, 40, 3), np.uint8), r"uint8 \[0, 40, 3\]"),
        ([[1], [1, 2]], "list"),
        (None, "NoneType"),
    ],
)
def test_arrays_of_another_form_are_refused_naming_rgb(detector: Detector, image: object, kind: str) -> None:
    with pytest.raises(
        UserError, match=rf"images\[1\] is {kind}: give a path, encoded bytes, .* RGB uint8 .* \(bgr=True"
    ):
        detector.predict([RGB, image])


def test_unreadable_bytes_and_names_are_refused(detector: Detector) -> None:
    with pytest.raises(UserError, match=r"images\[0\]: not an image"):
        detector.predict([b"no image"])
    with pytest.raises(UserError, match="no file has such a name"):
        detector.predict(["a\0.jpg"])


def test_detections_know_members_and_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    detector = Detector(create_ssd("resnet10_16", 2, 2), ["a", "b"], [7, 9], PostprocessSettings(), CPU)
    found = detector.predict(path, 0.5)
    members, (fused,) = detector.detect(torch.from_numpy(to_input(RGB, detector.input))[None])
    assert len(found.members) == 2
    for own, (expected,) in zip(found.members, members, strict=True):
        expected = to_pixels(expected, 40, 30, detector.input)
        assert own == Detections(*expected, [detector.names[label] for label in expected.labels])  # of any score
        assert own.members == ()
    assert len(found) == (to_pixels(fused, 40, 30, detector.input).scores >= 0.5).sum() < len(found.members[0])
    assert {entry["category_id"] for own in found.members for entry in own.to_coco(1)} <= {7, 9}
    assert found.source == path
    for one in (found, detector.predict(RGB), detector.predict(path.read_bytes()), detector.predict(Image.open(path))):
        assert np.array_equal(one.image, RGB)
    assert detector.predict(RGB).source is RGB  # not a copy
    path.unlink()
    with pytest.raises(UserError, match=r"a\.png: the image cannot be read"):
        found.plot()


def test_files_are_shown_as_they_were_read(detector: Detector, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    stored = copy.copy(detector)
    stored.orientation = "stored"
    assert detector.predict(tmp_path / "a.png").image.shape == (40, 30, 3)
    assert stored.predict(tmp_path / "a.png").image.shape == (30, 40, 3)


def test_a_detector_trained_on_stored_photos_reads_them_as_stored(detector: Detector, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    plain, turned = detector.predict([RGB])[0], detector.predict([np.ascontiguousarray(RGB[::-1, ::-1])])[0]
    kinds = [tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), Image.open(tmp_path / "a.png")]
    assert detector.predict(kinds, batch_size=1) == [turned] * 3
    stored = copy.copy(detector)
    stored.orientation = "stored"
    assert stored.predict(kinds, batch_size=1) == [plain] * 3


def test_an_open_file_is_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((30, 40, 3), 90, np.uint8))
    detector = Detector(create_ssd("resnet10_16", 2, 2), ["a", "b"], [1, 2], PostprocessSettings(), torch.device("cpu"))
    with open(path, "rb") as file:
        assert detector(file) == detector(path) == detector([io.BytesIO(path.read_bytes())])[0]
    assert repr(detector) == "Detector(S=2, 2 classes, cpu)"

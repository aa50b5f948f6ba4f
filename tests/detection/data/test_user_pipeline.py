"""A user's pipeline of albumentations: its forms, the boxes it loses and cuts, its draws, and what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from detection.data.augmentation import TrainingAugmentation
from detection.data.coco import load_annotations
from detection.data.dataset import TrainingImages, collate
from detection.data.user_pipeline import UserPipeline, import_albumentations
from detection.settings import DataSettings
from divdet.engine.errors import UserError
from divdet.engine.loading import Loader
from divdet.engine.sampling import EpochSampler
from tests.detection.generated import write_noise
from tests.processes import environment

albumentations = import_albumentations()

IMAGE = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
BOXES = np.array([[0, 0, 20, 20], [80, 40, 120, 60], [150, 10, 200, 100]], np.float32)
LABELS = np.array([5, 3, 4])


def pipeline(folder: Path, text: str) -> UserPipeline:
    (folder / "mine.yaml").write_text(text)
    return UserPipeline(str(folder / "mine.yaml"))


def run(folder: Path, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pipeline(folder, text)(IMAGE, BOXES, LABELS, 7, "photo.jpg")


def test_boxes_are_cut_lost_or_kept_as_the_file_says(tmp_path: Path) -> None:
    """The crop from (90, 0) to (170, 50) keeps 300 of the second box's 800 pixels and 800 of the third's 4,500."""
    crop = "Crop: {x_min: 90, y_min: 0, x_max: 170, y_max: 50, p: 1.0}"
    image, boxes, labels = run(tmp_path, f"- {crop}")
    np.testing.assert_array_equal(image, IMAGE[:50, 90:170])
    np.testing.assert_allclose(boxes, [[0, 40, 30, 50], [60, 10, 80, 50]], atol=1e-4)
    assert labels.tolist() == [3, 4]
    for least, left in ((0.17, [3, 4]), (0.2, [3]), (0.4, [])):
        options = f"bbox_params: {{min_visibility: {least}, format: yolo, label_fields: [other]}}"
        _, boxes, labels = run(tmp_path, f"transforms: [{crop}]\n{options}")
        assert labels.tolist() == left
        assert boxes.shape == (len(left), 4)
    image, boxes, _ = run(tmp_path, "- HorizontalFlip: {p: 1.0}")
    np.testing.assert_array_equal(image, IMAGE[:, ::-1])
    np.testing.assert_allclose(boxes, [[180, 0, 200, 20], [80, 40, 120, 60], [0, 10, 50, 100]], atol=1e-4)
    empty = pipeline(tmp_path, f"- {crop}")(IMAGE, BOXES[:0], LABELS[:0], 7, "photo.jpg")
    assert (empty[1].shape, empty[2].shape) == ((0, 4), (0,))


def test_what_albumentations_saves_runs_as_it_does(tmp_path: Path) -> None:
    """In its three forms: the pipeline as YAML, as JSON, and a transform alone."""
    inner = [albumentations.OneOf([albumentations.Blur(p=1), albumentations.CLAHE(p=1)], p=0.5)]
    whole = albumentations.Compose(
        [albumentations.RandomCrop(60, 80, p=1.0), albumentations.HorizontalFlip(p=0.5), *inner],
        bbox_params=albumentations.BboxParams("coco", label_fields=["names"], min_area=30),
    )
    albumentations.save(whole, tmp_path / "a.yaml", data_format="yaml")
    albumentations.save(whole, tmp_path / "a.json")
    yours, ours = (UserPipeline(str(tmp_path / name)) for name in ("a.yaml", "a.json"))
    shown = set()
    for seed in range(20):
        whole.set_random_seed(seed)
        corners = np.concatenate([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]], axis=1)
        expected = whole(image=IMAGE, bboxes=corners, names=LABELS)
        for loaded in (yours, ours):
            image, boxes, labels = loaded(IMAGE, BOXES, LABELS, seed, "photo.jpg")
            np.testing.assert_array_equal(image, expected["image"])
            assert labels.tolist() == [int(label) for label in expected["names"]]
            sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            np.testing.assert_allclose(sizes, np.reshape(expected["bboxes"], (-1, 4)), atol=1e-3)
        shown.add(image.tobytes())
    assert len(shown) > 10
    albumentations.save(albumentations.VerticalFlip(p=1.0), tmp_path / "one.yaml", data_format="yaml")
    one = UserPipeline(str(tmp_path / "one.yaml"))(IMAGE, BOXES, LABELS, 0, "photo.jpg")
    np.testing.assert_array_equal(one[0], IMAGE[::-1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "- HorizontlFlip: {p: 1.0}",
            r"no transform 'HorizontlFlip' that a file can name; did you mean HorizontalFlip",
        ),
        ("- Lambda: {p: 1.0}", "no transform 'Lambda'"),
        ("transform: {__class_fullname__: os.system, command: echo}", "no transform 'os.system'"),
        ("- !!python/object/apply:os.system [echo]", "not a YAML or JSON file"),
        ("- Blur: {blur_limt: 3}", "Blur: .*blur_limt"),
        ("- Blur: {p: 7}", "Blur: p: Input should be less than or equal to 1$"),
        ("- RandomCrop", "RandomCrop: height: Field required; width: Field required$"),
        ("- OneOf: {of: 1}", "OneOf: .*'of'"),
        ("- OneOf: {transforms: [Blu]}", "no transform 'Blu'"),
        (
            "transforms: [CLAHE]\nbox_params: {min_area: 9}",
            "box_params is no key of a pipeline: choose of .*bbox_params",
        ),
        ("transform: {transforms: [CLAHE], seed: 3}", "seed is no key of a pipeline"),
        ("transform: {transforms: [CLAHE]}\nbbox_params: {min_area: 9}", "bbox_params is no key of a pipeline"),
        ("[]", "a list of transforms is empty"),
        ("transforms: []", "a list of transforms is empty"),
        ("- OneOf: {transforms: []}", "a list of transforms is empty"),
        ("a: 1", "neither a pipeline that albumentations.save wrote nor a list"),
        ("- 3", "3 is not `Name"),
        ("transforms: [CLAHE]\nbbox_params: {min_vis: 1}", "bbox_params has no 'min_vis': choose of .*min_visibility"),
        ("- Normalize: {p: 1.0}", r"makes float32 values of photo\.jpg, not uint8 pixels"),
        ("- ToTensorV2: {p: 1.0}", r"makes a Tensor of photo\.jpg, not uint8"),
        ("- ToGray: {num_output_channels: 1, p: 1.0}", r"an image of shape \[100, 200\] of photo\.jpg"),
        ("- RandomCrop: {height: 300, width: 300, p: 1.0}", r"fails on photo\.jpg: CropSizeError: Crop size"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        run(tmp_path, text)
    assert str(tmp_path / "mine.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_image_and_a_missing_file_or_library_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pipeline(tmp_path, "- CLAHE")
    monkeypatch.setattr(made, "_compose", Emptied(made._compose))
    with pytest.raises(UserError, match=r"an image of shape \[0, 200, 3\]"):
        made(IMAGE, BOXES, LABELS, 0, "photo.jpg")
    with pytest.raises(UserError, match=r"data\.albumentations: .*none\.yaml cannot be read"):
        UserPipeline(str(tmp_path / "none.yaml"))
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(UserError, match=r"pip install 'divdet\[albumentations\]'"):
        UserPipeline(str(tmp_path / "mine.yaml"))


class Emptied:
    """A pipeline whose images have no rows."""

    def __init__(self, compose: albumentations.Compose) -> None:
        self.set_random_seed, self.compose = compose.set_random_seed, compose

    def __call__(self, **given: np.ndarray) -> dict:
        found = self.compose(**given)
        return found | {"image": found["image"][:0]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_noise(tmp_path, [-10, 10, 50, 140])
    text = (
        "- Rotate: {limit: 30, p: 0.7}\n- RandomSizedBBoxSafeCrop: {height: 50, width: 60, p: 0.5}\n- CLAHE\n- ISONoise"
    )
    (tmp_path / "mine.yaml").write_text(text + "\n- GridDropout: {p: 0.5}\n- ElasticTransform: {p: 0.3}\n")
    return tmp_path


def images(folder: Path, cache: bool = False, **settings: object) -> TrainingImages:
    annotations = load_annotations(folder / "truth.json", folder)
    file = str(folder / "mine.yaml")
    augmentation = TrainingAugmentation(DataSettings(albumentations=file, **settings))
    return TrainingImages(annotations, augmentation, seed=3, cache=cache)


def test_draws_do_not_depend_on_workers_and_workers_are_silent(folder: Path, capfd: pytest.CaptureFixture) -> None:
    batches = []
    for workers, cache in ((0, True), (2, False)):
        data = images(folder, cache, mosaic=0.5)
        for epoch in (0, 4):
            sampler = EpochSampler(len(data), 3, seed=0)
            sampler.epoch = epoch
            with Loader(data, 3, workers, torch.device("cpu"), sampler=sampler, collate_fn=collate) as loader:
                batches += list(loader)
    for own, theirs in zip(batches[:4], batches[4:], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(own, theirs, strict=True))
    assert not torch.equal(batches[0][0], batches[2][0])
    assert capfd.readouterr() == ("", "")


def test_a_pipeline_fails_before_the_first_step(folder: Path) -> None:
    (folder / "mine.yaml").write_text("- RandomCrop: {height: 300, width: 300, p: 0.5}")
    with pytest.raises(UserError, match=r"the pipeline fails on .*0\.png: CropSizeError"):
        images(folder)


def test_the_library_is_loaded_without_asking_a_server(folder: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise SystemExit('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from detection.data.user_pipeline import UserPipeline\n"
        f"UserPipeline({str(folder / 'mine.yaml')!r})\n"
    )
    variables = {key: value for key, value in environment().items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

"""Tiles and other views, by a network that finds colored rectangles exactly where its input shows them."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from detection import Detector, create_ssd
from detection.boxes import Boxes
from detection.data.coco import load_annotations
from detection.data.dataset import EvaluationViews
from detection.evaluation.evaluate import score
from detection.heads import Input
from detection.models.head import DividedDetector
from detection.postprocess import fuse
from detection.prediction_settings import PostprocessSettings, ViewSettings
from detection.preprocess import to_pixels
from detection.views import Shown, cut_views, join_views, plan_views, tile_windows
from divdet.commands import detect as command
from divdet.commands.settings import Detect
from divdet.engine.errors import UserError

GRAY, RED, PINK = (90, 90, 90), (220, 20, 20), (220, 20, 120)


@pytest.fixture(scope="module")
def model() -> DividedDetector:
    return create_ssd("resnet10_16", 2, 1)


class Finder(Detector):
    """Finds red rectangles, and the first member also pink ones.

    Parts that an input cuts get the higher score, which is the harder case.
    """

    batches: list[int]

    def _member_boxes(self, inputs: Tensor, world: object = None) -> list[list[Boxes]]:
        self.batches.append(len(inputs))
        return [[self._find(image.numpy(), channel) for image in inputs] for channel in (1, 2)]

    def _find(self, image: np.ndarray, channel: int) -> Boxes:
        found, size = [], len(image)
        mask = ((image[..., 0].astype(int) - image[..., channel]) > (65 if channel == 1 else 105)).astype(np.uint8)
        for x, y, w, h, _ in cv2.connectedComponentsWithStats(mask)[2][1:].tolist():
            cut = x == 0 or y == 0 or x + w == size or y + h == size
            found.append(([x / size, y / size, (x + w) / size, (y + h) / size], 0.9 if cut else 0.8))
        found.sort(key=lambda one: -one[1])
        boxes, scores = torch.tensor([box for box, _ in found]).reshape(-1, 4), torch.tensor([s for _, s in found])
        return Boxes(boxes, scores.float(), torch.zeros(len(found), dtype=torch.long))


@pytest.fixture
def finder(model: DividedDetector) -> Finder:
    detector = Finder(model, ["thing"], [7], PostprocessSettings(fusion_conf="max"), torch.device("cpu"))
    detector.batches = []
    return detector


def photo(width: int, height: int, boxes: list[list[int]]) -> np.ndarray:
    image = np.full((height, width, 3), GRAY, np.uint8)
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = PINK if x1 % 2 else RED
    return image


def rows(boxes: Tensor) -> list[list[float]]:
    return sorted(boxes.double().numpy().round(3).tolist())


@pytest.mark.parametrize(("length", "tile", "overlap", "zoom"), [(1000, 300, 0.2, 1), (4000, 300, 0.25, 1.25)])
def test_tiles_cover_the_image_evenly(length: int, tile: int, overlap: float, zoom: float) -> None:
    side = round(tile * zoom)
    windows = tile_windows(length, 2 * length, tile, overlap, zoom)
    assert {(window.width, window.height) for window in windows} == {(side, side)}
    for starts, end in (({w.x for w in windows}, length), ({w.y for w in windows}, 2 * length)):
        gaps = np.diff(sorted(starts))
        assert (min(starts), max(starts)) == (0, end - side)
        assert gaps.max() - gaps.min() <= 1
        assert gaps.max() <= side * (1 - overlap) + 1
        assert len(starts) == 1 + np.ceil(round((end - side) / (side * (1 - overlap)), 9))  # no more than needed
    assert len(windows) == len({(w.x, w.y) for w in windows})


def test_tiles_by_hand() -> None:
    windows = tile_windows(1000, 200, 300, 0.2)
    assert [(w.x, w.y, w.width, w.height) for w in windows] == [(x, 0, 300, 200) for x in (0, 233, 467, 700)]
    assert len(tile_windows(540, 300, 300, 0.2)) == 2  # exactly as much as two tiles cover
    (window,) = tile_windows(301, 200, None, 0.2, 1.25)
    assert (window.x, window.y, window.width, window.height) == (-38, -25, 376, 250)
    form = Input(300, "letterbox")
    (whole,) = plan_views(280, 200, ViewSettings(tile=300), form)  # smaller than a tile: as without tiles
    assert (whole.window.width, whole.window.height, whole.voter) == (280, 280, 0)
    assert len(plan_views(1000, 200, ViewSettings(tile=300), form)) == 5
    assert len(plan_views(1000, 200, ViewSettings(tile=300, whole_image=False), form)) == 4
    views = plan_views(1000, 200, ViewSettings(tile=300, tta="flip,scales"), form)
    assert {view.voter for view in views} == set(range(6))
    assert {view.voter for view in plan_views(280, 200, ViewSettings(tile=300, tta="scales,flip"), form)} == set(
        range(6)
    )


def test_small_objects_are_found_once_and_exactly(finder: Finder) -> None:
    # At the borders of the image and of tiles, which start at 0, 233, 466 and 700, and in overlaps
    boxes = [[0, 0, 24, 24], [976, 476, 1000, 500], [290, 100, 314, 124], [241, 180, 265, 204], [456, 300, 480, 324]]
    image = photo(1000, 500, boxes)
    found = finder.predict(image, tile=300, whole_image=False)
    assert rows(found.boxes) == sorted(boxes)
    assert found.scores.tolist() == pytest.approx([0.9] * 2 + [0.8] * 3)
    assert len(found.members) == 2
    assert rows(found.members[0].boxes) == sorted(boxes)
    assert rows(found.members[1].boxes) == sorted(box for box in boxes if not box[0] % 2)
    assert len(finder.predict(image[:, :150], tile=300, whole_image=False)) == 1


def test_parts_of_an_object_give_way_to_the_whole(finder: Finder) -> None:
    boxes = [[100, 50, 800, 400], [820, 420, 840, 440]]
    image = photo(1000, 500, boxes)
    found = finder.predict(image, tile=300)
    large = found[(found.boxes[:, 2] - found.boxes[:, 0]) > 100]
    assert (len(large), len(found)) == (1, 2)
    torch.testing.assert_close(large.boxes[0], torch.tensor([100.0, 50, 800, 400]), atol=2, rtol=0)
    assert len(finder.predict(image, tile=300, whole_image=False)) > 2  # no view holds it: its parts are what is known
    # Without overlap an object at a border is cut in both tiles, and both parts are reported
    assert len(finder.predict(photo(600, 300, [[290, 100, 314, 124]]), tile=300, overlap=0, whole_image=False)) == 2


def test_fusion_knows_members_not_tiles(model: DividedDetector) -> None:
    detector = Finder(model, ["thing"], [7], PostprocessSettings(), torch.device("cpu"))  # avg
    detector.batches = []
    image = photo(1000, 500, [[10, 10, 34, 34], [961, 460, 985, 484]])  # the second member finds one of them
    found = detector.predict(image, tile=300, whole_image=False)
    assert found.scores.tolist() == pytest.approx([0.8, 0.4])


@pytest.mark.parametrize("tta", ["flip", "scales", "flip,scales"])
@pytest.mark.parametrize("tile", [None, 300])
def test_augmented_views_agree(finder: Finder, tta: str, tile: int | None) -> None:
    boxes = [[30, 40, 90, 80], [400, 300, 470, 400], [250, 200, 310, 260]]
    found = finder.predict(photo(600, 450, boxes), tile=tile, tta=tta)
    assert len(found) == 3
    np.testing.assert_allclose(rows(found.boxes), sorted(boxes), atol=2)
    assert found.scores.tolist() == pytest.approx([0.8] * 3)


def test_inverse_mapping_is_exact_for_letterboxed_and_stretched_inputs() -> None:
    boxes = [[14, 21, 40, 60], [302, 222, 334, 240], [350, 10, 399, 47]]
    image = photo(400, 270, boxes)
    for form in (Input(90, "stretch"), Input(90, "letterbox")):
        settings = ViewSettings(tile=135, tta="flip,scales", whole_image=False)
        for inputs, shown in cut_views([(0, image)], settings, form, 7):
            for pixels, one in zip(inputs.numpy(), shown, strict=True):
                assert pixels.shape == (90, 90, 3)
                scale_x, scale_y, shift_x, shift_y = one.mapping
                for x1, y1, x2, y2 in boxes:  # the middle of each object is where the mapping says
                    x = (x1 + x2) / 2 * scale_x + shift_x
                    x, y = 90 - x if one.view.flipped else x, (y1 + y2) / 2 * scale_y + shift_y
                    if 0 <= x < 90 and 0 <= y < 90:
                        assert np.abs(pixels[int(y), int(x)].astype(int) - RED).max() < 40


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("tta", [None, "flip,scales"])
def test_boxes_come_back_from_inputs_of_either_fit(finder: Finder, fit: str, tta: str | None) -> None:
    boxes = [[14, 22, 40, 60], [302, 222, 334, 240], [350, 10, 400, 46]]
    form = Input(300, fit)
    batches = cut_views([(0, photo(400, 270, boxes))], ViewSettings(tile=150, tta=tta), form, 8)
    (found,) = join_views(batches, finder._member_boxes, lambda votes, members: fuse(votes, finder.settings), 0.5, form)
    np.testing.assert_allclose(rows(to_pixels(found.fused, 400, 270, form).boxes), boxes, atol=1)


def test_boxes_end_where_their_view_does(finder: Finder) -> None:
    def find(inputs: Tensor) -> list[list[Boxes]]:
        return [[Boxes(torch.tensor([[-0.3, 0.2, 1.3, 0.4]]), torch.ones(1), torch.zeros(1).long())] * len(inputs)]

    settings = ViewSettings(tile=300, overlap=0, whole_image=False)
    batches = cut_views([(0, photo(600, 300, []))], settings, finder.input, 8)
    (found,) = join_views(batches, find, lambda votes, members: votes[0], 0.5, finder.input)
    assert rows(to_pixels(found.fused, 600, 300, finder.input).boxes) == [[0, 60, 300, 120], [300, 60, 600, 120]]


def test_batches_are_bounded_and_run_across_images(finder: Finder) -> None:
    images = [photo(1000, 500, [[10, 10, 34, 34]]), photo(100, 80, [[10, 10, 34, 34]]), photo(700, 500, [])]
    together = finder.predict(images, 0.0, 5, tile=300)
    assert (set(finder.batches[:-1]), sum(finder.batches)) == ({5}, 9 + 1 + 7)
    assert together == [finder.predict(image, tile=300) for image in images]
    assert together[1] == finder.predict(images[1])  # smaller than a tile

    taken: list[int] = []

    def stream() -> object:
        for number, image in enumerate(images):
            taken.append(number)
            yield image

    found = finder.predict(stream(), 0.0, 4, tile=300)
    assert next(found) == together[0]
    assert taken == [0, 1, 2]


def test_results_of_mixed_images_are_kept_apart(finder: Finder) -> None:
    images = [photo(1000, 500, [[x, 10, x + 24, 34]]) for x in (10, 300, 700)]
    plan = ViewSettings(tile=300)
    streams = [list(cut_views([(number, image)], plan, finder.input, 2)) for number, image in enumerate(images)]
    mixed = [batch for step in zip(*streams, strict=True) for batch in step]

    def vote(votes: list[list[Boxes]], members: int) -> list[Boxes]:
        return votes[0]

    found = list(join_views(mixed, finder._member_boxes, vote, 0.5, finder.input))
    assert [one.image for one in found] == [0, 1, 2]
    assert [round(one.fused.boxes[0, 0].item() * 1000) for one in found] == [10, 300, 700]


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """A photo that EXIF turns by 90°, with its annotations: 900 x 400 as shown."""
    image = photo(900, 400, [[100, 50, 124, 74], [860, 360, 884, 384], [286, 100, 310, 124]])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(tmp_path / "1.png", exif=exif)
    boxes = [[100, 50, 24, 24], [860, 360, 24, 24], [286, 100, 24, 24]]
    entries = [
        {"id": n, "image_id": 1, "category_id": 7, "bbox": box, "area": 576, "iscrowd": 0}
        for n, box in enumerate(boxes)
    ]
    truth = {
        "images": [{"id": 1, "file_name": "1.png", "width": 900, "height": 400}],
        "annotations": entries,
        "categories": [{"id": 7, "name": "thing"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path / "1.png", tmp_path / "truth.json"


@pytest.mark.parametrize("workers", [0, 2])
def test_predict_detect_and_evaluation_agree(
    finder: Finder, case: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    path, truth = case
    expected = finder.predict(path, 0.3, 4, tile=300)
    assert rows(expected.boxes) == [[100, 50, 124, 74], [286, 100, 310, 124], [860, 360, 884, 384]]
    annotations = load_annotations(truth, path.parent)
    annotations.images[0].upright = True
    evaluated = score(finder, annotations, 4, workers, views=ViewSettings(tile=300))
    metrics, results = evaluated.metrics, evaluated.fused
    assert metrics["AP"] == 1
    assert metrics["members"][0]["AR100"] == 1
    expected_entries = [(entry["bbox"], entry["score"]) for entry in expected.to_coco(1)]
    assert sorted(zip(results.bbox.tolist(), results.score.tolist(), strict=True)) == sorted(expected_entries)
    monkeypatch.setattr(Detector, "load", lambda *_: finder)
    config = Detect(sources=[str(path)], checkpoint=str(truth), batch_size=4, tile=300, output=str(tmp_path / "out"))
    entries = json.loads(command.detect(config).read_text())
    assert sorted((entry["bbox"], entry["score"]) for entry in entries) == sorted(expected_entries)


def test_workers_share_the_images(case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = load_annotations(case[1], case[0].parent)
    dataset = EvaluationViews(annotations.images * 5, ViewSettings(tile=300), Input(), 3)

    class Worker:
        id, num_workers = 1, 2

    monkeypatch.setattr("detection.data.dataset.get_worker_info", lambda: Worker)
    seen: list[Shown] = [one for _, shown in dataset for one in shown]
    assert {one.image for one in seen} == {1, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 10}, "tile is 10: choose a whole number from 32 to 65536"),
        ({"tile": 300.5}, "tile is 300.5"),
        ({"tile": True}, "tile is True"),
        ({"tile": 300, "overlap": 0.95}, r"overlap is 0.95: it must be at least 0 and at most 0.9"),
        ({"tile": 300, "overlap": "0.2"}, "overlap is '0.2'"),
        ({"tta": "flop"}, "tta is 'flop': choose one of flip, scales"),
        ({"tta": True}, "tta is True: choose flip, scales or flip,scales"),
    ],
)
def test_views_out_of_range_are_refused(finder: Finder, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        finder.predict(photo(100, 100, []), **arguments)


@pytest.fixture(scope="module")
def find_by_name(model: DividedDetector) -> Callable[..., list[tuple[str, float]]]:
    class Fixed(Detector):
        """Members that say the same: a cat on a dog, and a bird."""

        def _member_boxes(self, inputs: Tensor, world: object = None) -> list[list[Boxes]]:
            boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52], [0.6, 0.6, 0.9, 0.9]])
            return [[Boxes(boxes, torch.tensor([0.9, 0.7, 0.4]), torch.tensor([0, 1, 2]))] * len(inputs)] * 2

    def find(options: dict, **settings: object) -> list[tuple[str, float]]:
        names, ids = ["cat", "dog", "bird"], [17, 18, 3]
        detector = Fixed(model, names, ids, PostprocessSettings(**settings), torch.device("cpu"))
        found = detector.predict(photo(100, 100, []), **options)
        thresholds = settings | options
        if not {"class_agnostic", "classes"} & thresholds.keys():
            assert [own.names for own in found.members] == [names] * 2  # whatever their scores
        return list(zip(found.names, [round(s, 3) for s in found.scores.tolist()], strict=True))

    return find


def test_classes_are_chosen_by_name_or_id(find_by_name: Callable) -> None:
    everything = [("cat", 0.9), ("dog", 0.7), ("bird", 0.4)]
    assert find_by_name({}) == everything
    assert (
        find_by_name({"classes": "bird, cat"})
        == find_by_name({"classes": ["bird", 17]})
        == [everything[0], everything[2]]
    )
    assert find_by_name({}, classes="3,18") == find_by_name({}, classes=["bird", "dog"]) == everything[1:]
    assert find_by_name({"classes": ["cat"]}, classes="dog") == everything[:1]  # an argument comes before settings
    with pytest.raises(
        UserError, match=r"postprocess\.classes: 'brid' is no class of the detector: did you mean bird\?"
    ):
        find_by_name({"classes": "cat,brid"})
    with pytest.raises(UserError, match=r"postprocess\.class_thresholds: '5' is no class .*: they are cat, dog, bird"):
        find_by_name({}, class_thresholds={5: 0.1})


def test_classes_have_thresholds_of_their_own(find_by_name: Callable) -> None:
    assert find_by_name({"class_thresholds": {"dog": 0.8}}) == [("cat", 0.9), ("bird", 0.4)]
    assert find_by_name({"score_threshold": 0.8}, class_thresholds={"bird": 0.4}) == [("cat", 0.9), ("bird", 0.4)]
    assert find_by_name({"score_threshold": 0.8}) == [("cat", 0.9)]
    with pytest.raises(UserError, match=r"postprocess\.class_thresholds: dog has 60: choose a value from 0 to 1"):
        find_by_name({"class_thresholds": {"dog": 60}})


def test_class_agnostic_suppression_keeps_the_best(find_by_name: Callable) -> None:
    assert find_by_name({}, class_agnostic=True) == [("cat", 0.9), ("bird", 0.4)]
    assert find_by_name({}, class_agnostic=True, nms_iou=0.97) == [("cat", 0.9), ("dog", 0.7), ("bird", 0.4)]
    # What is below its threshold, or of no chosen class, suppresses nothing
    assert find_by_name({"class_thresholds": {"cat": 0.95}}, class_agnostic=True) == [("dog", 0.7), ("bird", 0.4)]
    assert find_by_name({"classes": "dog"}, class_agnostic=True) == [("dog", 0.7)]

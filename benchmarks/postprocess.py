"""Post-processing of SSD300's outputs (8,732 boxes, 80 classes) against two peers; results are compared first.

python benchmarks/postprocess.py

"plain loop" restates, in this project's words, what the released decoder does with each image and member: softmax; per
class the scores above 0.05, the best 200, and a loop that takes the best box and drops what overlaps it by 0.5 or more;
the best 200 * S boxes; then ensemble-boxes. "torchvision" is its SSD's own method, at S=1.
"""

import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import ensemble_boxes
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_convert, box_iou

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import describe, machine, table
from detection.default_boxes import ssd300_default_boxes
from detection.models.box_coder import decode, encode
from detection.postprocess import Boxes, postprocess
from detection.prediction_settings import PostprocessSettings
from divdet.engine.timing import side_by_side

DEFAULT_BOXES = ssd300_default_boxes()
TORCHVISION = PostprocessSettings(0.01, candidates_per_class=400, nms_iou=0.45, max_per_member=200)
SHIFT = 4.0  # torchvision clips boxes to the image and divdet does not: moved into a wide one, none is clipped


def trained(members: int, images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs like a trained detector's: near background, but 5 to 20 objects an image, each on many default boxes."""
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.randn(members, images, 8732, 4, generator=generator)
    logits = torch.randn(members, images, 8732, 81, generator=generator)
    logits[..., 0] += 9
    for image in range(images):
        for _ in range(int(torch.randint(5, 21, (1,), generator=generator))):
            label = int(torch.randint(1, 81, (1,), generator=generator))
            centre = DEFAULT_BOXES[torch.randint(3000, 8732, (1,), generator=generator)]  # few of the smallest
            near = (box_iou(*[box_convert(boxes, "cxcywh", "xyxy") for boxes in (DEFAULT_BOXES, centre)]) > 0.35)[:, 0]
            target = encode(box_convert(centre, "cxcywh", "xyxy"), DEFAULT_BOXES[near])
            noise = torch.randn(members, len(target), 5, generator=generator)
            deltas[:, image, near] = target + 0.4 * noise[..., :4]
            logits[:, image, near, label] = 8 + 3 * noise[..., 4]
    return deltas, logits


def untrained(members: int, images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs without a background: tens of thousands of scores above 0.05 an image."""
    generator = torch.Generator().manual_seed(seed)
    shape = (members, images, 8732)
    return torch.randn(*shape, 4, generator=generator), 2 * torch.randn(*shape, 81, generator=generator)


def plain_loop(deltas: Tensor, logits: Tensor) -> list[Boxes]:
    """The released decoder's procedure."""
    members, images = logits.shape[:2]
    results = []
    for image in range(images):
        found = [_one_member(deltas[member, image], logits[member, image], 200 * members) for member in range(members)]
        boxes, scores, labels = (list(column) for column in zip(*found, strict=True))
        if members > 1:
            fused = ensemble_boxes.weighted_boxes_fusion(boxes, scores, labels, iou_thr=0.5, skip_box_thr=1e-4)
            boxes, scores, labels = ([column] for column in fused)
        results.append(Boxes(*(torch.as_tensor(column[0]) for column in (boxes, scores, labels))))
    return results


def _one_member(deltas: Tensor, logits: Tensor, limit: int) -> tuple:
    boxes, probabilities = decode(deltas, DEFAULT_BOXES), logits.softmax(dim=1)
    kept_boxes, kept_scores, kept_labels = [], [], []
    for label in range(1, probabilities.shape[1]):
        above = probabilities[:, label] > 0.05
        scores, order = probabilities[above, label].sort(descending=True)
        scores, rest = scores[:200], boxes[above][order[:200]]
        while len(rest):
            kept_boxes.append(rest[:1])
            kept_scores.append(scores[:1])
            kept_labels.append(label - 1)
            apart = box_iou(rest[:1], rest)[0] < 0.5
            scores, rest = scores[apart], rest[apart]
    if not kept_boxes:
        return torch.zeros(0, 4).numpy(), torch.zeros(0).numpy(), torch.zeros(0).numpy()
    scores, order = torch.cat(kept_scores).sort(descending=True)
    order = order[:limit]
    columns = torch.cat(kept_boxes)[order], scores[:limit], torch.tensor(kept_labels)[order]
    return tuple(column.numpy() for column in columns)


def torchvision(deltas: Tensor, logits: Tensor) -> list[Boxes]:
    """torchvision's method, at S=1, under TORCHVISION's settings; boxes are SHIFT off."""
    peer = SimpleNamespace(
        box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        score_thresh=TORCHVISION.score_threshold,
        topk_candidates=TORCHVISION.candidates_per_class,
        nms_thresh=TORCHVISION.nms_iou,
        detections_per_img=TORCHVISION.max_per_member,
    )
    outputs = {"bbox_regression": deltas[0], "cls_logits": logits[0]}
    anchors = [box_convert(DEFAULT_BOXES, "cxcywh", "xyxy") + SHIFT] * len(deltas[0])
    found = SSD.postprocess_detections(peer, outputs, anchors, [(9, 9)] * len(anchors))
    return [Boxes(one["boxes"], one["scores"], one["labels"] - 1) for one in found]


def with_one_thread(way: Callable[[], list[Boxes]]) -> list[Boxes]:
    """torch shares out small operations to all cores, which costs a peer of many of them more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return way()
    finally:
        torch.set_num_threads(threads)


def check_equal(ours: list[Boxes], theirs: list[Boxes], shift: float = 0.0) -> None:
    """The same boxes, scores and labels within 1e-5; at most one box in a thousand on the verge of a threshold."""
    missing = 0
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.scores) == len(other.scores) > 0
        rows, others = (
            torch.cat((10 * found.labels[:, None], found.scores[:, None], found.boxes - moved), dim=1).double()
            for found, moved in ((one, 0.0), (other, shift))
        )
        missing += int((torch.cdist(rows, others, p=torch.inf).amin(dim=1) > 1e-5).sum())
    assert missing <= sum(len(one.scores) for one in ours) // 1000, missing


def compare(name: str, members: int, outputs: tuple[Tensor, Tensor], settings: PostprocessSettings) -> None:
    """Prints a table."""
    peer, shift = (torchvision, SHIFT) if settings is TORCHVISION else (plain_loop, 0.0)
    name_of_peer = peer.__name__.replace("_", " ")
    ways = {
        name_of_peer: partial(peer, *outputs),
        f"{name_of_peer}, one thread": partial(with_one_thread, partial(peer, *outputs)),
        "divdet": partial(postprocess, *outputs, DEFAULT_BOXES, settings),
    }
    expected, _, ours = (way() for way in ways.values())
    check_equal(ours, expected, shift)
    images = outputs[1].shape[1]
    above = outputs[1].softmax(-1)[..., 1:] > settings.score_threshold
    print(
        f"\n{name}, S={members}, batch of {images}: an image and member has {int(above.sum()) // (members * images)} "
        f"scores above {settings.score_threshold}; {sum(len(one.scores) for one in ours) // images} boxes an image\n"
    )
    rounds = 11 if outputs[1][..., 0].mean() > 1 else 3
    timings = side_by_side(ways, name_of_peer, rounds=rounds, seconds=0.1)
    print(table(timings, name_of_peer))
    *peers, own = (timing.median for timing in timings)
    print(f"\ndivdet is {min(peers) / own:.3g} times as fast as the faster of the two", flush=True)


def main() -> None:
    """Prints a table per case."""
    warnings.simplefilter("ignore")  # ensemble-boxes'
    print(describe(machine("ensemble-boxes", "numba", "numpy")))
    for members, settings in ((2, PostprocessSettings()), (1, TORCHVISION)):
        for images in (1, 8, 32):
            compare("trained", members, trained(members, images), settings)
        compare("untrained", members, untrained(members, 1), settings)


if __name__ == "__main__":
    main()

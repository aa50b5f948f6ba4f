"""Every runtime beside PyTorch: checks that the boxes are the same, then times JPEG file to boxes at batch size 1.

python benchmarks/inference.py [--backbone wrn50_2] [--members 2] [--checkpoint best.pt] [--without compile …]

The reference is the network as created, without fused batch norms, in PyTorch's default memory layout. Without a
checkpoint the weights are random: batch norms take their statistics from the images, and the class heads are scaled and
biased to find tens of boxes. The images are those of --images, by default the photos of the reference data; 8 of them
also calibrate int8. Its boxes differ; measure what that costs with a trained detector and tools/eval_det.py --runtime
openvino --precision int8.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import describe, machine, table
from detection import Detections, Detector, create_ssd
from detection.heads import Input
from detection.images import read_image
from detection.prediction_settings import PostprocessSettings, RuntimeSettings
from detection.preprocess import Normalize, to_input
from detection.runtimes.backends import create_network
from detection.sources import find_images
from divdet.engine.timing import side_by_side
from divdet.engine.tuning import keep_freed_memory

PLAIN = "PyTorch, as created"
WAYS = {
    **{name: RuntimeSettings(runtime=name) for name in ("torch", "compile", "onnxruntime", "openvino")},
    "openvino int8": RuntimeSettings(runtime="openvino", precision="int8"),
}
# Largest differences between two runtimes in float32. Random weights, unlike trained ones, amplify rounding.
PIXELS, SCORE = 0.05, 5e-4
CHECKED = 3  # images whose boxes are compared


def random_detector(backbone: str, members: int, images: Tensor) -> Detector:
    """Creates an SSD with random weights that finds tens of boxes in each of ``images``, uint8 ``[N, 300, 300, 3]``."""
    torch.manual_seed(0)
    model = create_ssd(backbone, members, 80)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # averages the statistics of the images
    with torch.no_grad():
        normalize = Normalize()
        model.train()(normalize(images))
        spread: list[tuple[nn.Conv2d, Tensor]] = []
        hooks = [head.register_forward_hook(lambda head, _, y: spread.append((head, y.std()))) for head in model.conf]
        model.eval()(normalize(images[:1]))
        for hook in hooks:
            hook.remove()
        for head, deviation in spread:
            head.weight *= 1.5 / deviation
            head.bias.view(81, -1)[0] = 8
        _, logits = model(normalize(images[:CHECKED]))
    # No score is near the threshold, so that rounding does not decide what is a box.
    scores = logits.softmax(-1)[..., 1:].flatten().topk(200 * members * CHECKED).values[60 * members * CHECKED :]
    gap = (scores[:-1] - scores[1:]).argmax()
    settings = PostprocessSettings(score_threshold=float(scores[gap] + scores[gap + 1]) / 2)
    return Detector(model, [str(label) for label in range(80)], list(range(80)), settings, torch.device("cpu"))


def farthest(found: Detections, wanted: Detections) -> tuple[float, float]:
    """Returns the largest differences between matching boxes, in any order: of coordinates in pixels, and of scores.

    Raises:
        SystemExit: if the boxes are not the same ones.
    """
    if len(found) == len(wanted) == 0:
        return 0.0, 0.0
    if len(found) == len(wanted):
        # Labels weigh so much that matching boxes have the same.
        rows = [
            torch.cat((d.boxes, 100 * d.scores[:, None], 1e6 * d.labels[:, None]), 1).double() for d in (found, wanted)
        ]
        distance, counterpart = torch.cdist(*rows, p=torch.inf).min(1)
        if distance.max() < 1e5 and len(counterpart.unique()) == len(wanted):
            boxes = (found.boxes - wanted.boxes[counterpart]).abs().max().item()
            return boxes, (found.scores - wanted.scores[counterpart]).abs().max().item()
    raise SystemExit(f"other boxes: {len(found)} where {len(wanted)} were expected")


def check(detector: Detector, wanted: list[Detections], images: list[Path], exact: bool) -> str:
    """Describes how far a detector's boxes are from ``wanted``. Raises SystemExit if ``exact`` ones are too far."""
    found = detector.predict(images, batch_size=1)
    counts = f"{sum(map(len, found))} boxes where {sum(map(len, wanted))} were expected"
    if not exact:
        return counts
    boxes, scores = np.max([farthest(*pair) for pair in zip(found, wanted, strict=True)], axis=0)
    if boxes > PIXELS or scores > SCORE:
        raise SystemExit(f"boxes {boxes:.2g} pixels apart, scores {scores:.2g}")
    return f"{counts}, at most {boxes:.2g} pixels apart, scores {scores:.2g}"


def main() -> None:
    """Builds, checks and times the detectors."""
    shared = Path(os.environ.get("DIVDET_SHARED", Path(__file__).parents[2] / "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="wrn50_2")
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--checkpoint", help="a trained detector instead of random weights")
    parser.add_argument("--images", default=str(shared / "data/demo_photos"), help="a folder of images")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--without", nargs="*", default=[], choices=WAYS, help="ways to leave out")
    options = parser.parse_args()
    keep_freed_memory()  # as detect.py and eval_det.py do
    paths = find_images([options.images])[:8]
    inputs = torch.from_numpy(np.stack([to_input(read_image(path, orient=True), Input()) for path in paths]))

    if options.checkpoint:
        made = Detector.load(options.checkpoint, "cpu")
    else:
        made = random_detector(options.backbone, options.members, inputs[:4])
    ways = {name: settings for name, settings in WAYS.items() if name not in options.without}
    packages = [
        name
        for name, part in (("onnxruntime",) * 2, ("openvino",) * 2, ("nncf", "int8"))
        if any(part in way for way in ways)
    ]
    print(describe(machine(*packages)), f"{torch.get_num_threads()} threads", sep=", ", flush=True)

    def detector(network: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Detector:
        found = Detector(made.model, made.names, made.category_ids, made.settings, made.device)
        found.network = network
        return found

    normalize = Normalize()
    detectors = {PLAIN: detector(lambda images: made.model(normalize(images).contiguous()))}
    wanted = detectors[PLAIN].predict(paths[:CHECKED], batch_size=1)
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            os.symlink(path.resolve(), Path(folder) / path.name)
        for name, settings in ways.items():
            began = time.perf_counter()
            detectors[name] = detector(create_network(made.model, settings, made.device, folder))
            detectors[name].predict(paths[:1])
            ready = time.perf_counter() - began
            same = check(detectors[name], wanted, paths[:CHECKED], exact=settings.precision == "float32")
            print(f"{name}: ready in {ready:.1f} s; {same}", flush=True)

    print("\nFrom file to boxes, batch 1\n")
    timed = {name: (lambda own=own: own.predict(paths[:1])) for name, own in detectors.items()}
    print(table(side_by_side(timed, PLAIN, options.rounds), PLAIN))
    print("\nThe network alone, batch 1\n")
    with torch.inference_mode():
        timed = {name: (lambda own=own: own.network(inputs[:1])) for name, own in detectors.items()}
        print(table(side_by_side(timed, PLAIN, options.rounds), PLAIN))


if __name__ == "__main__":
    main()

"""How much code a reader meets: what importing ``Detector`` loads, and the path of one image to its boxes."""

import subprocess
import sys
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
import torch

from detection import Detector, create_ssd
from detection.prediction_settings import PostprocessSettings

ROOT = Path(__file__).parents[1]
PACKAGES = tuple(str(ROOT / name) for name in ("detection", "classification", "divdet"))


def size(files: set[str], what: str) -> tuple[int, int]:
    """Returns the number of files that are not empty, and of their lines; prints them."""
    lines = {str(Path(file).relative_to(ROOT)): len(Path(file).read_text().splitlines()) for file in files}
    lines = {file: count for file, count in sorted(lines.items()) if count}
    print(f"{what}: {len(lines)} files, {sum(lines.values())} lines")
    print(*(f"{count:5} {file}" for file, count in lines.items()), sep="\n")
    return len(lines), sum(lines.values())


def test_what_importing_detector_loads() -> None:
    code = """
import sys
from detection import Detector
print(*(module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)), sep="\\n")
for name in ("torchvision", "torch._dynamo", "numba", "PIL", "onnxruntime", "openvino", "timm"):
    assert name not in sys.modules, name
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    files, lines = size({file for file in run.stdout.splitlines() if file.startswith(PACKAGES)}, "import Detector")
    assert files <= 28
    assert lines <= 3100


def test_the_path_of_an_image_to_its_boxes(tmp_path: Path) -> None:
    """By the files whose functions run in ``predict``, kernels apart."""
    detector = Detector(create_ssd("resnet10_16", 2, 2), ["a", "b"], [1, 2], PostprocessSettings(), torch.device("cpu"))
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), np.zeros((40, 60, 3), np.uint8))
    detector.predict(path)  # numba compiles
    entered: set[str] = set()

    def enter(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            entered.add(frame.f_code.co_filename)

    sys.setprofile(enter)
    try:
        assert len(detector.predict(path))
    finally:
        sys.setprofile(None)
    ours = {file for file in entered if file.startswith(PACKAGES) and "/kernels/" not in file}
    files, lines = size(ours, "predict")
    assert files <= 14  # what all heads have, and the head
    assert lines <= 2300

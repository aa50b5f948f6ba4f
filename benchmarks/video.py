"""A generated video: ``python benchmarks/video.py CHECKPOINT [--frames 10000]``.

Prints the peak memory at frame 500 and at the last one, and the frames a second beside the bare network's.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import torch

from benchmarks.photos import alone
from detection import Detector


def peak() -> float:
    """Peak memory of this process so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--bare", type=int, default=200, help="forward passes of the bare network")
    args = parser.parse_args()
    detector = Detector.load(args.checkpoint, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "a.avi")
        writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (640, 480))
        for number in range(args.frames):
            image = np.full((480, 640, 3), 90, np.uint8)
            cv2.circle(image, (number % 640, 240), 40, (30, 200, 250), -1)
            writer.write(image)
        writer.release()
        began = time.perf_counter()
        for count, _ in enumerate(detector.stream(path, score_threshold=0.5), 1):
            if count == min(500, args.frames):
                early = peak()
        rate = count / (time.perf_counter() - began)
    print(f"{count} frames; peak {early:.0f} MiB at frame 500, {peak():.0f} MiB at the last")
    bare = alone(args.checkpoint, args.bare, torch.get_num_threads(), batch=1)
    print(f"{rate:.1f} frames a second, the bare network {bare:.1f}: {rate / bare:.2f}")


if __name__ == "__main__":
    main()

"""What classification and detection share: command lines, devices, the training loop, checkpoints and logs."""

import os

# OpenCV reads its limit of pixels per image when it is loaded. The default is a billion, 3 GB; the largest camera
# photos have 200 million.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "200000000")

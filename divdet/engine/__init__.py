"""What classification and detection share: configuration, devices, the training loop, checkpoints and logs."""

import os

# OpenCV reads its limit of an image's pixels when it is loaded, so this comes first. Its own is a billion, 3 GB; the
# largest camera photos have 200 million.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "200000000")

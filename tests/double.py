"""Runs a Python program in float64, in which rounding neither hides a difference nor excuses one.

python tests/double.py PROGRAM ARGUMENTS…
"""

import runpy
import sys

import torch

if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # what the code holds to float32
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")

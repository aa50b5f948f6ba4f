"""Normalizing the colors of images."""

from torch import Tensor


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalizes each channel: (pixel - mean) / std.

    Args:
        images: ``[..., H, W, 3]`` uint8 RGB.
        mean: ``[3]`` float, in pixel values (0…255).
        std: ``[3]`` float, likewise.

    Returns:
        ``[..., 3, H, W]`` float32, in channels-last memory.
    """
    # On whole rows, since PyTorch broadcasts 3 values pixel by pixel: 0.10 instead of 0.61 ms for 300 x 300 pixels.
    width = images.shape[-2]
    rows = images.flatten(-2).float().sub_(mean.repeat(width)).div_(std.repeat(width))
    return rows.unflatten(-1, (width, 3)).movedim(-1, -3)

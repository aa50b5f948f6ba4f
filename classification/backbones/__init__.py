"""Networks by name, undivided and divided; see `classification.backbones.registry`."""

TIMM = "timm:"  # begins the name of a network of the timm library

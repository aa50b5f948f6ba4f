"""The HTTP service; see docs/serving.md."""

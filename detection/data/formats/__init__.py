"""Formats of annotations: found, read, written."""

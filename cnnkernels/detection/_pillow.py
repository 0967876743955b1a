"""Pillow, or an ImportError that says what to install."""

from __future__ import annotations

try:
    from PIL import Image, ImageDraw, ImageFont, ImageOps
except ImportError as error:
    raise ImportError("pictures are read and written by Pillow: pip install pillow") from error

__all__ = ["Image", "ImageDraw", "ImageFont", "ImageOps"]

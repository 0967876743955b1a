"""Pictures from files: whatever the format, [H, W, 3] red, green, blue, 8 bits."""

from __future__ import annotations

import io
import os
import pathlib
from typing import Any

import numpy as np

from cnnkernels.detection.sample import Image

BACKGROUND = 255
"""Grey level behind transparent parts."""


def read_image(source: str | os.PathLike[str] | bytes, name: str | None = None) -> Image:
    """A picture as uint8 [H, W, 3].

    Grey-scale, palette and CMYK pictures become RGB; transparent ones are laid on white; 16-bit ones keep their upper
    eight bits; EXIF's orientation is applied; of an animation, the first frame.

    source: a file, or the bytes of one.
    name: what errors call the picture; the file's path unless given.

    OSError (FileNotFoundError and its kind) if the file cannot be opened; ValueError, with the picture's name, if what
    it holds is no picture, a truncated one, or one of floating-point numbers, whose range nobody knows.
    ImportError without Pillow.
    """
    from cnnkernels.detection import _pillow as pillow

    if isinstance(source, bytes):
        name, content = name or "picture", source
    else:
        name, content = name or os.fspath(source), pathlib.Path(source).read_bytes()
    try:
        with pillow.Image.open(io.BytesIO(content)) as picture:
            pixels = from_pillow(picture)
    except Exception as error:  # whatever a decoder raises: OSError, SyntaxError, struct.error, zlib.error
        raise ValueError(f"{name}: no picture that can be read: {error}") from error
    return pixels


def from_pillow(picture: Any) -> Image:
    """A Pillow image as ``read_image`` gives it.  TypeError for anything else; what Pillow raises for a truncated one."""
    from cnnkernels.detection import _pillow as pillow

    if not isinstance(picture, pillow.Image.Image):
        raise TypeError(
            f"a picture is a path, bytes, an array, a tensor or a Pillow image, got {type(picture).__name__}"
        )
    picture.load()
    return _as_rgb(pillow.ImageOps.exif_transpose(picture))


def _as_rgb(picture: Any) -> Image:
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if picture.mode.startswith("I"):  # 16 bits, which Pillow may hold in 32
        values = np.asarray(picture).astype(np.int64)
        grey = (values.clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"), np.float32)
        alpha = rgba[..., 3:] / 255
        return np.round(rgba[..., :3] * alpha + BACKGROUND * (1 - alpha)).astype(np.uint8)
    return np.array(picture.convert("RGB"))


def encode(image: Image, suffix: str) -> bytes:
    """uint8 [H, W, 3] as the content of a .png or .jpg file."""
    from cnnkernels.detection import _pillow as pillow

    buffer = io.BytesIO()
    options = {"quality": 92} if suffix == ".jpg" else {}
    pillow.Image.fromarray(image).save(buffer, "JPEG" if suffix == ".jpg" else "PNG", **options)
    return buffer.getvalue()

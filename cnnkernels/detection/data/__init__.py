"""Data for detectors: COCO's format, and a synthetic set in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnnkernels.detection.data.coco import CocoData

if TYPE_CHECKING:
    from cnnkernels.detection.data.scenes import make_scenes

__all__ = ["CocoData", "make_scenes"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: it needs Pillow, and python -m would otherwise find its module imported already.
    if name == "make_scenes":
        from cnnkernels.detection.data import scenes

        return scenes.make_scenes
    raise AttributeError(f"module {__name__} has no attribute {name}")

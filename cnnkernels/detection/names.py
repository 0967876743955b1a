"""Names of the classes that published weights were trained on."""

from __future__ import annotations

COCO: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 of COCO (Lin et al. 2014, arXiv:1405.0312), in the order of their category ids."""

_COCO_IDS_WITHOUT_CLASS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def coco_by_id() -> tuple[str, ...]:
    """For networks of 90 classes (EfficientDet), where class i is COCO's category i + 1: ten have no name."""
    names = iter(COCO)
    return tuple(f"(category {i})" if i in _COCO_IDS_WITHOUT_CLASS else next(names) for i in range(1, 91))


def default_names(num_classes: int) -> list[str]:
    """COCO's where the number of classes is one of its two, else "class 0", "class 1", ..."""
    known = {80: COCO, 90: coco_by_id()}.get(num_classes)
    return list(known) if known else [f"class {i}" for i in range(num_classes)]

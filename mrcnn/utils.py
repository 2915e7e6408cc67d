"""matterport's `mrcnn.utils`: the names that its users import, from where they live here.

What needs TensorFlow or Keras is imported at its first use.
"""

from importlib import import_module
from typing import Any

from mrcnn.core.boxes import (
    apply_box_deltas,
    box_refinement,
    compute_iou,
    compute_overlaps,
    compute_overlaps_masks,
    denorm_boxes,
    extract_bboxes,
    generate_anchors,
    generate_pyramid_anchors,
    non_max_suppression,
    norm_boxes,
    trim_zeros,
)
from mrcnn.core.image import (
    expand_mask,
    minimize_mask,
    resize,
    resize_image,
    resize_mask,
    unmold_mask,
)
from mrcnn.data.dataset import Dataset
from mrcnn.evaluation.per_image import compute_ap, compute_ap_range, compute_matches, compute_recall

__all__ = [
    "Dataset",
    "apply_box_deltas",
    "box_refinement",
    "compute_ap",
    "compute_ap_range",
    "compute_iou",
    "compute_matches",
    "compute_overlaps",
    "compute_overlaps_masks",
    "compute_recall",
    "denorm_boxes",
    "expand_mask",
    "extract_bboxes",
    "generate_anchors",
    "generate_pyramid_anchors",
    "minimize_mask",
    "non_max_suppression",
    "norm_boxes",
    "resize",
    "resize_image",
    "resize_mask",
    "trim_zeros",
    "unmold_mask",
]

# Names in mrcnn/network, by module.
_LAZY = {
    "COCO_MODEL_URL": "pretrained",
    "download_trained_weights": "pretrained",
    "batch_slice": "tensor_ops",
    "box_refinement_graph": "tensor_ops",
}
__all__ += list(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mrcnn.network.{_LAZY[name]}"), name)

"""matterport's `mrcnn.utils`: the names that its users import, from where they live here.

What needs TensorFlow or Keras is imported at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from mrcnn.network.pretrained import COCO_URL as COCO_MODEL_URL
    from mrcnn.network.pretrained import download_trained_weights
    from mrcnn.network.tensor_ops import batch_slice, box_refinement_graph

__all__ = [
    "COCO_MODEL_URL",
    "Dataset",
    "apply_box_deltas",
    "batch_slice",
    "box_refinement",
    "box_refinement_graph",
    "compute_ap",
    "compute_ap_range",
    "compute_iou",
    "compute_matches",
    "compute_overlaps",
    "compute_overlaps_masks",
    "compute_recall",
    "denorm_boxes",
    "download_trained_weights",
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

_LAZY = {
    "COCO_MODEL_URL": ("pretrained", "COCO_URL"),
    "download_trained_weights": ("pretrained", "download_trained_weights"),
    "batch_slice": ("tensor_ops", "batch_slice"),
    "box_refinement_graph": ("tensor_ops", "box_refinement_graph"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(f"mrcnn.network.{module}"), attribute)

"""Boxes and anchors in NumPy.

Letters used below: N boxes or instances, H and W rows and columns of an image.
A box is (y1, x1, y2, x2) with y2/x2 exclusive, so its area is (y2 - y1) * (x2 - x1).
Pixel boxes count pixels of the image; normalized boxes map its first row and column to 0
and its last to 1. A delta is (dy, dx, log dh, log dw) relative to the box it changes.
The same formulas on tensors: `mrcnn/network/tensor_ops.py`.

Arrays of a wrong shape raise ValueError.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Shape = Sequence[int] | np.ndarray  # (height, width, ...)

# Temporaries of the pairwise loops hold about this many numbers, so that they stay in cache.
_BLOCK = 1 << 16


def extract_bboxes(mask: ArrayLike) -> np.ndarray:
    """Tight boxes around masks.

    Args:
        mask: [H, W, N] bool or number; non-zero is inside.

    Returns:
        [N, (y1, x1, y2, x2)] int32 pixels, y2/x2 exclusive; (0, 0, 0, 0) for an empty mask.
    """
    mask = _as_masks("mask", mask)
    height, width, count = mask.shape
    if mask.size == 0:
        return np.zeros((count, 4), np.int32)
    rows, columns = np.any(mask, axis=1), np.any(mask, axis=0)  # [H, N], [W, N]
    found = rows.any(axis=0)
    y1, x1 = rows.argmax(axis=0), columns.argmax(axis=0)
    y2, x2 = height - rows[::-1].argmax(axis=0), width - columns[::-1].argmax(axis=0)
    return np.asarray(np.stack([y1, x1, y2, x2], axis=1) * found[:, None], np.int32)


def compute_iou(
    box: ArrayLike, boxes: ArrayLike, box_area: Any, boxes_area: np.ndarray
) -> np.ndarray:
    """Intersection over union of one box with many.

    Args:
        box, boxes: [4] and [N, (y1, x1, y2, x2)] in one frame.
        box_area, boxes_area: number and [N]; callers compute them once, which saves time.

    Returns:
        [N] float, 0 where both areas are 0; float32 if all inputs are, else float64.
    """
    box, boxes = np.asarray(box), np.asarray(boxes)
    top, left = np.maximum(box[0], boxes[:, 0]), np.maximum(box[1], boxes[:, 1])
    bottom, right = np.minimum(box[2], boxes[:, 2]), np.minimum(box[3], boxes[:, 3])
    shared = np.maximum(bottom - top, 0) * np.maximum(right - left, 0)
    return _ratio(shared, box_area + boxes_area - shared)


def compute_overlaps(boxes1: ArrayLike, boxes2: ArrayLike) -> np.ndarray:
    """Intersection over union of each of boxes1 [N1, 4] with each of boxes2 [N2, 4].

    Returns:
        [N1, N2] float64 in 0..1; two boxes without area have 0.
    """
    boxes1, boxes2 = _as_boxes("boxes1", boxes1), _as_boxes("boxes2", boxes2)
    overlaps = np.zeros((len(boxes1), len(boxes2)))
    y1, x1, y2, x2 = boxes2.T
    area2 = (y2 - y1) * (x2 - x1)
    step = max(1, _BLOCK // max(1, len(boxes2)))
    for start in range(0, len(boxes1), step):
        block = boxes1[start : start + step, :, None]
        height = np.minimum(block[:, 2], y2) - np.maximum(block[:, 0], y1)
        width = np.minimum(block[:, 3], x2) - np.maximum(block[:, 1], x1)
        shared = np.maximum(height, 0) * np.maximum(width, 0)
        area1 = (block[:, 2] - block[:, 0]) * (block[:, 3] - block[:, 1])
        overlaps[start : start + step] = _ratio(shared, area1 + area2 - shared)
    return overlaps


def compute_overlaps_masks(masks1: ArrayLike, masks2: ArrayLike) -> np.ndarray:
    """Intersection over union of each of masks1 [H, W, N1] with each of masks2 [H, W, N2].

    Masks are bool, or float with > 0.5 inside.

    Returns:
        [N1, N2] float32 in 0..1, two empty masks having 0; if N1 or N2 is 0, an array of
        that shape in float64.
    """
    masks1, masks2 = _as_masks("masks1", masks1), _as_masks("masks2", masks2)
    shape = masks1.shape[-1], masks2.shape[-1]
    if 0 in shape:
        return np.zeros(shape)
    if masks1.shape[:2] != masks2.shape[:2]:
        raise ValueError(
            f"masks1 is of {masks1.shape[:2]} pixels but masks2 of {masks2.shape[:2]}; "
            "pass masks of one image"
        )
    shared, area1, area2 = np.zeros(shape), np.zeros(shape[0]), np.zeros(shape[1])
    # By rows, because float copies of a hundred large masks would take a gigabyte.
    step = max(1, 8 * _BLOCK // max(1, masks1.shape[1] * max(shape)))
    for start in range(0, len(masks1), step):
        flat1 = (masks1[start : start + step] > 0.5).reshape(-1, shape[0]).astype(np.float32)
        flat2 = (masks2[start : start + step] > 0.5).reshape(-1, shape[1]).astype(np.float32)
        shared += flat1.T @ flat2
        area1 += flat1.sum(axis=0)
        area2 += flat2.sum(axis=0)
    return _ratio(shared, area1[:, None] + area2 - shared).astype(np.float32)


def non_max_suppression(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> np.ndarray:
    """Greedy suppression: the best box stays, those that overlap it by > threshold (IoU) go.

    Args:
        boxes: [N, (y1, x1, y2, x2)] in any frame.
        scores: [N], higher is better; of equal scores the later box is taken first.

    Returns:
        [kept] int32 indices into boxes, by descending score.
    """
    boxes, scores = _as_boxes("boxes", boxes), np.asarray(scores)
    if scores.shape != (len(boxes),):
        raise ValueError(
            f"scores has shape {scores.shape} for {len(boxes)} boxes; pass one score for each box"
        )
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(scores, kind="stable")[::-1]
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        overlaps = compute_iou(boxes[best], boxes[rest], areas[best], areas[rest])
        order = rest[overlaps <= threshold]
    return np.array(kept, np.int32)


def apply_box_deltas(boxes: ArrayLike, deltas: ArrayLike) -> np.ndarray:
    """Moves and scales boxes; the inverse of `box_refinement`.

    Args:
        boxes: [N, (y1, x1, y2, x2)] in any frame.
        deltas: [N, (dy, dx, log dh, log dw)], not divided by a standard deviation.

    Returns:
        [N, (y1, x1, y2, x2)] float32 in the frame of boxes.
    """
    boxes, deltas = _as_pair("boxes", boxes, "deltas", deltas)
    size = boxes[:, 2:] - boxes[:, :2]
    center = (boxes[:, :2] + 0.5 * size + deltas[:, :2] * size).astype(np.float32)
    size = (size * np.exp(deltas[:, 2:])).astype(np.float32)
    start = center - 0.5 * size
    return np.concatenate([start, start + size], axis=1)


def box_refinement(box: ArrayLike, gt_box: ArrayLike) -> np.ndarray:
    """The deltas that turn boxes [N, 4] into others [N, 4]; the inverse of `apply_box_deltas`.

    Returns:
        [N, (dy, dx, log dh, log dw)] float32.
    """
    box, gt_box = _as_pair("box", box, "gt_box", gt_box)
    gt_box = gt_box.astype(np.float32)
    size, gt_size = box[:, 2:] - box[:, :2], gt_box[:, 2:] - gt_box[:, :2]
    shift = (gt_box[:, :2] + 0.5 * gt_size - (box[:, :2] + 0.5 * size)) / size
    return np.concatenate([shift, np.log(gt_size / size)], axis=1)


def norm_boxes(boxes: ArrayLike, shape: Shape) -> np.ndarray:
    """Pixel boxes -> normalized boxes.

    Args:
        boxes: [..., (y1, x1, y2, x2)] pixels, y2/x2 exclusive.
        shape: (height, width) of the image, each 2 or more.

    Returns:
        [..., (y1, x1, y2, x2)] float32; y2/x2 inclusive, a box of the whole image is
        (0, 0, 1, 1).
    """
    shift, scale = _frame(shape)
    return np.asarray((np.asarray(boxes) - shift) / scale, np.float32)


def denorm_boxes(boxes: ArrayLike, shape: Shape) -> np.ndarray:
    """The inverse of `norm_boxes`: [..., 4] int32 pixels; halves round to even."""
    shift, scale = _frame(shape)
    return np.asarray(np.around(np.asarray(boxes) * scale + shift), np.int32)


def _frame(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The shift and scale between pixel and normalized boxes, [4] each."""
    height, width = (int(side) for side in shape[:2])
    # y2/x2 lie one pixel outside the box in pixels but on its last pixel when normalized.
    return np.array([0, 0, 1, 1]), np.array([height - 1, width - 1, height - 1, width - 1])


def trim_zeros(x: ArrayLike) -> np.ndarray:
    """Drops the all-zero rows of [rows, columns]: the padding of arrays of fixed length."""
    x = np.asarray(x)
    return np.asarray(x[(x != 0).any(axis=1)])


def backbone_shapes(image_shape: Shape, strides: ArrayLike) -> np.ndarray:
    """Sizes of the feature maps of a molded image, [levels, (height, width)] int64 cells.

    strides: [levels] pixels of the image for one cell; sizes are rounded up.
    """
    sides = np.asarray(image_shape[:2], np.int64)
    return -(-sides // np.asarray(strides, np.int64)[:, None])


def generate_anchors(
    scales: ArrayLike,
    ratios: ArrayLike,
    shape: Shape,
    feature_stride: int,
    anchor_stride: int,
) -> np.ndarray:
    """Anchors of one feature map.

    Args:
        scales: number or [scales], sides in pixels of the square anchors.
        ratios: [ratios], width / height; the area stays that of the square.
        shape: (height, width) of the feature map, cells.
        feature_stride: pixels of the image for one cell.
        anchor_stride: 1 for anchors at each cell, 2 for every other.

    Returns:
        [anchors, (y1, x1, y2, x2)] float64 pixels of the molded image, some reaching out of
        it; by row, column, ratio and scale, the last the fastest.
    """
    scales, roots = np.atleast_1d(scales), np.sqrt(np.atleast_1d(ratios))[:, None]
    heights, widths = (scales / roots).ravel(), (scales * roots).ravel()
    y = np.arange(0, shape[0], anchor_stride) * feature_stride
    x = np.arange(0, shape[1], anchor_stride) * feature_stride
    centers = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)[:, :, None]
    half = 0.5 * np.stack([heights, widths], axis=1)
    return np.concatenate([centers - half, centers + half], axis=-1).reshape(-1, 4)


def generate_pyramid_anchors(
    scales: Sequence[float],
    ratios: ArrayLike,
    feature_shapes: Any,
    feature_strides: Sequence[int],
    anchor_stride: int,
) -> np.ndarray:
    """Anchors of all levels, one scale a level.

    Args:
        scales: [levels] sides in pixels of the square anchors.
        ratios, anchor_stride: as for `generate_anchors`.
        feature_shapes: [levels, (height, width)] cells, as from `backbone_shapes`.
        feature_strides: [levels] pixels of the image for one cell.

    Returns:
        [anchors, (y1, x1, y2, x2)] float64 pixels of the molded image, level after level.
    """
    counts = len(scales), len(feature_shapes), len(feature_strides)
    if len(set(counts)) != 1:
        raise ValueError(
            "got {} scales, {} feature shapes and {} strides; pass one of each for every "
            "pyramid level".format(*counts)
        )
    levels = zip(scales, feature_shapes, feature_strides, strict=True)
    return np.concatenate(
        [generate_anchors(scale, ratios, shape, s, anchor_stride) for scale, shape, s in levels]
    )


def pyramid_anchors(
    image_shape: Shape,
    scales: Sequence[float],
    ratios: ArrayLike,
    strides: Sequence[int],
    anchor_stride: int,
    shapes: ArrayLike | None = None,
) -> np.ndarray:
    """`generate_pyramid_anchors` for a molded image.

    shapes: [levels, (height, width)] cells of the feature maps, if the backbone is not one of
    ours; None takes those of `backbone_shapes`.
    """
    if shapes is None:
        shapes = backbone_shapes(image_shape, strides)
    return generate_pyramid_anchors(scales, ratios, shapes, strides, anchor_stride)


def compute_backbone_shapes(config: Any, image_shape: Shape) -> np.ndarray:
    """Sizes of a configuration's feature maps, P2..P6: int [levels, (height, width)] cells."""
    if callable(config.BACKBONE):
        return np.asarray(config.COMPUTE_BACKBONE_SHAPE(image_shape))
    return backbone_shapes(image_shape, config.BACKBONE_STRIDES)


def config_anchors(config: Any, image_shape: Shape) -> np.ndarray:
    """`pyramid_anchors` by what a `Config` says: [A, (y1, x1, y2, x2)] float64 pixels."""
    return pyramid_anchors(
        image_shape,
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
        compute_backbone_shapes(config, image_shape),
    )


def _ratio(shared: np.ndarray, union: np.ndarray) -> np.ndarray:
    """shared / union, 0 where the union is empty."""
    ratio = np.zeros_like(shared / 1.0)
    np.divide(shared, union, out=ratio, where=union > 0)
    return ratio


def _as_boxes(name: str, boxes: ArrayLike) -> np.ndarray:
    """[N, 4] float32 or float64 (integers become float64, which holds their areas exactly)."""
    boxes = np.asarray(boxes)
    if boxes.size == 0 and boxes.ndim < 2:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{name} has shape {boxes.shape}; pass [N, 4], a row (y1, x1, y2, x2) for each box"
        )
    return boxes if boxes.dtype in (np.float32, np.float64) else boxes.astype(np.float64)


def _as_pair(
    name1: str, boxes1: ArrayLike, name2: str, boxes2: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays [N, 4] of one N, the first in float32, in which deltas are computed."""
    boxes1, boxes2 = _as_boxes(name1, boxes1), _as_boxes(name2, boxes2)
    if len(boxes1) != len(boxes2):
        raise ValueError(f"got {len(boxes1)} {name1} and {len(boxes2)} {name2}; pass as many")
    return boxes1.astype(np.float32), boxes2


def _as_masks(name: str, masks: ArrayLike) -> np.ndarray:
    masks = np.asarray(masks)
    if masks.ndim != 3:
        raise ValueError(
            f"{name} has shape {masks.shape}; pass [height, width, instances], "
            "a single mask as mask[:, :, None]"
        )
    return masks

"""Training targets of an image, from its ground truth (NumPy).

Letters in shapes: A anchors, N instances, R RoIs; h, w sides of the stored masks. Boxes are
(y1, x1, y2, x2) in pixels of the molded image, y2/x2 exclusive.

`rng` is a `numpy.random.Generator` where it is given; without one NumPy's global state is used,
as the original does, so that `np.random.seed()` reproduces its choices.
"""

from functools import partial
from typing import Any

import numpy as np

from mrcnn.config import Config
from mrcnn.core.boxes import box_refinement, compute_overlaps
from mrcnn.core.image import expand_mask, resize

RPN_POSITIVE_IOU = 0.7
RPN_NEGATIVE_IOU = 0.3
# An anchor that touches a crowd more than this is neither object nor background.
CROWD_IOU = 0.001
ROI_POSITIVE_IOU = 0.5
# Share of the random RoIs that lies around objects.
RANDOM_ROIS_NEAR_OBJECTS = 0.9

Rng = np.random.Generator


class AnchorIndex:
    """The anchors of one input size, indexed by position: a box's neighbours are found at once.

    Anchors of one level and ratio are the products of a row's and a column's interval, and so
    are their overlaps with a box: sums over rows and columns replace those over all anchors.

    Attributes:
        anchors: float64 [A, (y1, x1, y2, x2)], pixels, as `generate_pyramid_anchors` orders them.
    """

    def __init__(self, anchors: np.ndarray, shapes: Any, anchor_stride: int = 1) -> None:
        """Takes the anchors of feature maps of shapes [levels, (height, width)] cells.

        Raises:
            ValueError: if they weren't generated for these.
        """
        self.anchors, self._grids = anchors, []
        shapes = -(-np.asarray(shapes, int) // anchor_stride)
        places = int(shapes.prod(axis=1).sum())
        kinds, start = len(anchors) // max(1, places), 0
        if kinds * places != len(anchors):
            raise ValueError(f"got {len(anchors)} anchors for {places} places of {shapes.tolist()}")
        for rows, columns in shapes:
            count = rows * columns * kinds
            level = anchors[start : start + count].reshape(rows, columns, kinds, 4)
            ids = start + np.arange(count).reshape(rows, columns, kinds)
            for kind in range(kinds):
                y, x = level[:, 0, kind, ::2], level[0, :, kind, 1::2]
                regular = (level[:, :, kind, ::2] == y[:, None]).all()
                if not (regular and (level[:, :, kind, 1::2] == x).all()):
                    raise ValueError("the anchors of a level aren't a grid; generate them")
                self._grids.append(
                    (y, x, (y[:, 1] - y[:, 0]), (x[:, 1] - x[:, 0]), ids[:, :, kind])
                )
            start += count

    def overlapping(self, box: np.ndarray, min_iou: float) -> tuple[np.ndarray, np.ndarray]:
        """As `_overlapping`: ids of anchors that may overlap a box by min_iou, and their IoU."""
        ids, ious = [], []
        y1, x1, y2, x2 = (float(value) for value in box)
        area = (y2 - y1) * (x2 - x1)
        floor = min_iou * (1 - 1e-9)  # rounding must not lose an IoU of just min_iou
        for y, x, heights, widths, numbers in self._grids:
            largest = heights[0] * widths[0]
            if not (largest * (1 + 1e-6) >= area * floor and largest * floor <= area * (1 + 1e-6)):
                continue
            high = np.minimum(y[:, 1], y2) - np.maximum(y[:, 0], y1)
            wide = np.minimum(x[:, 1], x2) - np.maximum(x[:, 0], x1)
            touched = np.flatnonzero(high > 0), np.flatnonzero(wide > 0)
            if not all(map(len, touched)):
                continue
            rows, columns = (slice(line[0], line[-1] + 1) for line in touched)
            shared = high[rows, None] * wide[columns]
            union = heights[rows, None] * widths[columns] + area - shared
            near = shared >= floor * union
            ids.append(numbers[rows, columns][near])
            ious.append(shared[near] / union[near])
        none = np.zeros(0)
        return np.concatenate([none.astype(np.intp), *ids]), np.concatenate([none, *ious])


def build_rpn_targets(
    image_shape: Any,
    anchors: np.ndarray | AnchorIndex,
    gt_class_ids: np.ndarray,
    gt_boxes: np.ndarray,
    config: Config,
    *,
    rng: Rng | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Which anchors the RPN should call object or background, and their box deltas.

    Args:
        image_shape: kept for matterport's signature; anchors and boxes share one frame.
        anchors: float [A, (y1, x1, y2, x2)], pixels; or their `AnchorIndex`, which is quicker.
        gt_class_ids: int [N], negative for crowds.
        gt_boxes: int [N, (y1, x1, y2, x2)], pixels.
        config: RPN_TRAIN_ANCHORS_PER_IMAGE and RPN_BBOX_STD_DEV are used.

    Returns:
        rpn_match: int32 [A], 1 object, -1 background, 0 neither (not trained on).
        rpn_bbox: float64 [RPN_TRAIN_ANCHORS_PER_IMAGE, (dy, dx, log dh, log dw)], for the
            anchors of rpn_match 1 in their order, divided by RPN_BBOX_STD_DEV; then zeros.
    """
    is_crowd = gt_class_ids < 0
    crowd_boxes, gt_boxes = gt_boxes[is_crowd], gt_boxes[~is_crowd]
    rpn_match = _label_anchors(anchors, gt_boxes, crowd_boxes)
    if isinstance(anchors, AnchorIndex):
        anchors = anchors.anchors

    count = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    _keep_at_most(rpn_match, 1, count // 2, rng)
    positive = np.flatnonzero(rpn_match == 1)
    _keep_at_most(rpn_match, -1, count - len(positive), rng)

    rpn_bbox = np.zeros((count, 4))
    if len(positive):
        nearest = compute_overlaps(anchors[positive], gt_boxes).argmax(axis=1)
        deltas = box_refinement(anchors[positive], gt_boxes[nearest])
        rpn_bbox[: len(positive)] = deltas / config.RPN_BBOX_STD_DEV
    return rpn_match, rpn_bbox


def _label_anchors(
    anchors: np.ndarray | AnchorIndex, gt_boxes: np.ndarray, crowd_boxes: np.ndarray
) -> np.ndarray:
    """int32 [A]: 1 object, -1 background, 0 neither; before any sub-sampling."""
    if isinstance(anchors, AnchorIndex):
        labels, find = np.full(len(anchors.anchors), -1, np.int32), anchors.overlapping
    else:
        labels, areas = np.full(len(anchors), -1, np.int32), _areas(anchors)
        find = partial(_overlapping, anchors, areas)
    for box in crowd_boxes:
        ids, iou = find(box, CROWD_IOU)
        labels[ids[iou >= CROWD_IOU]] = 0
    positive = []
    for box in gt_boxes:
        ids, iou = find(box, RPN_NEGATIVE_IOU)
        labels[ids[iou >= RPN_NEGATIVE_IOU]] = 0
        if iou.max(initial=0) < RPN_NEGATIVE_IOU:  # the best fit is among the poor ones
            ids, iou = find(box, 0)
        # Each object gets its best anchors, however badly they fit; ties all count.
        needed = min(RPN_POSITIVE_IOU, iou.max(initial=0))
        positive.append(ids[(iou >= needed) & (iou > 0)])
    # Last, because the best anchor of one object may be background to all others.
    labels[np.concatenate([*positive, np.zeros(0, np.intp)])] = 1
    return labels


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _overlapping(
    anchors: np.ndarray, areas: np.ndarray, box: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Anchors that may overlap a box by min_iou or more, all such among them, and their IoU.

    Few pairs of anchors and boxes touch, and fewer are of like area: computing the rest
    would be most of the work.
    """
    y1, x1, y2, x2 = box
    area = (y2 - y1) * (x2 - x1)
    floor = min_iou * (1 - 1e-9)  # rounding must not lose an IoU of just min_iou
    ids = np.flatnonzero((areas >= area * floor) & (areas * floor <= area))
    ids = ids[(anchors[ids, 0] < y2) & (anchors[ids, 2] > y1)]
    ids = ids[(anchors[ids, 1] < x2) & (anchors[ids, 3] > x1)]
    return ids, compute_overlaps(anchors[ids], box[np.newaxis])[:, 0]


def _keep_at_most(rpn_match: np.ndarray, value: int, count: int, rng: Rng | None) -> None:
    """Sets randomly chosen entries of `value` to 0 until `count` of them are left."""
    if rng is not None and _keep_some(rpn_match, value, count, rng):
        return
    ids = np.flatnonzero(rpn_match == value)
    surplus = len(ids) - count
    if surplus <= 0:
        return
    if rng is None:
        rpn_match[np.random.choice(ids, surplus, replace=False)] = 0
    else:  # drawing the few that stay is quicker
        rpn_match[ids] = 0
        rpn_match[rng.choice(ids, count, replace=False, shuffle=False)] = value


def _keep_some(rpn_match: np.ndarray, value: int, count: int, rng: Rng) -> bool:
    """`_keep_at_most` where `value` is so common that blind draws find it; True if done.

    The first `count` different hits among even draws are an even choice without replacement.
    """
    draws = rng.integers(0, len(rpn_match), 4 * count)
    hits = draws[rpn_match[draws] == value]
    _, first = np.unique(hits, return_index=True)
    if len(first) < count:
        return False
    kept = hits[np.sort(first)[:count]]
    rpn_match[rpn_match == value] = 0
    rpn_match[kept] = value
    return True


def generate_random_rois(
    image_shape: tuple[int, ...],
    count: int,
    gt_class_ids: Any,
    gt_boxes: np.ndarray,
    *,
    rng: Rng | None = None,
) -> np.ndarray:
    """Random boxes, 90 % of them around the objects: stands in for the RPN's proposals.

    gt_class_ids is kept for matterport's signature: all of gt_boxes int [N, 4] count.

    Returns:
        int32 [count, (y1, x1, y2, x2)], pixels, each at least 1x1.
    """
    height, width = image_shape[:2]
    per_box = int(RANDOM_ROIS_NEAR_OBJECTS * count / len(gt_boxes)) if len(gt_boxes) else 0
    groups = []
    for y1, x1, y2, x2 in np.asarray(gt_boxes, int):
        # Up to its own size beyond the object on each side.
        rows = max(2 * y1 - y2, 0), min(2 * y2 - y1, height)
        columns = max(2 * x1 - x2, 0), min(2 * x2 - x1, width)
        groups.append(_random_boxes(rows, columns, per_box, rng))
    groups.append(_random_boxes((0, height), (0, width), count - per_box * len(gt_boxes), rng))
    return np.concatenate(groups).astype(np.int32)


def _random_boxes(
    rows: tuple[int, int], columns: tuple[int, int], count: int, rng: Rng | None
) -> np.ndarray:
    """int [count, 4]: boxes with corners drawn evenly from the half-open ranges given."""
    draw: Any = np.random.randint if rng is None else rng.integers
    while True:
        # Twice as many as needed, for some are empty.
        ys = draw(*rows, size=(2 * count, 2))
        xs = draw(*columns, size=(2 * count, 2))
        ys = np.sort(ys[ys[:, 0] != ys[:, 1]][:count], axis=1)
        xs = np.sort(xs[xs[:, 0] != xs[:, 1]][:count], axis=1)
        if len(ys) == len(xs) == count:
            return np.stack([ys[:, 0], xs[:, 0], ys[:, 1], xs[:, 1]], axis=1)


def build_detection_targets(
    rpn_rois: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_boxes: np.ndarray,
    gt_masks: np.ndarray,
    config: Config,
    *,
    rng: Rng | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the heads should say about given RoIs; used without the in-graph target layer.

    Args:
        rpn_rois: int [R, (y1, x1, y2, x2)], pixels.
        gt_class_ids: int [N]; rows with ids <= 0 (padding, crowds) are left out.
        gt_boxes: int [N, (y1, x1, y2, x2)], pixels.
        gt_masks: bool [h, w, N], mini masks if USE_MINI_MASK, else of the molded image's size.
        config: TRAIN_ROIS_PER_IMAGE (T below), ROI_POSITIVE_RATIO, NUM_CLASSES, BBOX_STD_DEV,
            MASK_SHAPE, USE_MINI_MASK and IMAGE_SHAPE are used.

    Returns:
        rois: int32 [T, 4], pixels; those on objects first.
        roi_gt_class_ids: int32 [T], 0 for background.
        bboxes: float32 [T, NUM_CLASSES, (dy, dx, log dh, log dw)], divided by BBOX_STD_DEV;
            non-zero only at the RoI's own class.
        masks: float32 [T, *MASK_SHAPE, NUM_CLASSES], 0..1, the object inside the RoI; not
            rounded, non-zero only at the RoI's own class.

    Raises:
        ValueError: if there are no RoIs to choose from.
    """
    is_object = gt_class_ids > 0
    gt_class_ids, gt_boxes = gt_class_ids[is_object], gt_boxes[is_object]
    gt_masks = gt_masks[:, :, is_object]

    overlaps = (
        compute_overlaps(rpn_rois, gt_boxes) if len(gt_boxes) else np.zeros((len(rpn_rois), 1))
    )
    nearest = overlaps.argmax(axis=1)
    kept, num_positive = _sample_rois(overlaps.max(axis=1), config, rng)
    rois = rpn_rois[kept].astype(np.int32)
    positive = np.arange(num_positive)
    nearest = nearest[kept[:num_positive]]
    class_ids = gt_class_ids[nearest] if num_positive else np.zeros(0, np.int32)

    roi_gt_class_ids = np.zeros(len(rois), np.int32)
    roi_gt_class_ids[positive] = class_ids
    bboxes = np.zeros((len(rois), config.NUM_CLASSES, 4), np.float32)
    masks = np.zeros((len(rois), *config.MASK_SHAPE, config.NUM_CLASSES), np.float32)
    if num_positive:
        deltas = box_refinement(rois[positive], gt_boxes[nearest])
        bboxes[positive, class_ids] = deltas / config.BBOX_STD_DEV
        crops = _crop_masks(rois[positive], nearest, gt_boxes, gt_masks, config)
        masks[positive, :, :, class_ids] = crops
    return rois, roi_gt_class_ids, bboxes, masks


def _sample_rois(iou: np.ndarray, config: Config, rng: Rng | None) -> tuple[np.ndarray, int]:
    """Chooses RoIs by their best IoU [R]: indices [T], positive ones first, and their number."""
    if not len(iou):
        raise ValueError("got no RoIs to build detection targets from; give at least one")
    choice = np.random.choice if rng is None else rng.choice
    count = config.TRAIN_ROIS_PER_IMAGE
    positive = np.flatnonzero(iou > ROI_POSITIVE_IOU)
    negative = np.flatnonzero(iou < ROI_POSITIVE_IOU)
    limit = int(count * config.ROI_POSITIVE_RATIO)
    if len(positive) > limit:
        positive = choice(positive, limit, replace=False)
    room = count - len(positive)
    if len(negative) > room:
        negative = choice(negative, room, replace=False)
    kept = np.concatenate([positive, negative])
    missing = count - len(kept)
    if not missing:
        return kept, len(positive)
    if len(negative) or not len(positive):
        pool = negative if len(negative) else np.arange(len(iou))
        return np.concatenate([kept, choice(pool, missing)]), len(positive)
    # Objects only (the original fails here): repeats of them are objects again.
    return np.concatenate([kept, choice(positive, missing)]), count


def _crop_masks(
    rois: np.ndarray,
    instances: np.ndarray,
    gt_boxes: np.ndarray,
    gt_masks: np.ndarray,
    config: Config,
) -> np.ndarray:
    """float [R, *MASK_SHAPE]: the mask of instance `instances[i]` inside `rois[i]`, resized."""
    used, instances = np.unique(instances, return_inverse=True)
    gt_masks = gt_masks[:, :, used]
    if config.USE_MINI_MASK:
        gt_masks = expand_mask(gt_boxes[used], gt_masks, config.IMAGE_SHAPE)
    crops = [
        resize(gt_masks[y1:y2, x1:x2, instance].astype(float), config.MASK_SHAPE)
        for (y1, x1, y2, x2), instance in zip(rois, instances, strict=True)
    ]
    return np.stack(crops)

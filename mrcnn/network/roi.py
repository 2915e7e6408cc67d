"""Regions of interest: cutting them out of the feature maps, and choosing those that train.

B is the batch size, N a number of RoIs, G of ground truth instances. Boxes are
(y1, x1, y2, x2) in normalised coordinates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import KerasTensor
from keras import layers as KL

from mrcnn.config import Config
from mrcnn.network.layers import KeyedRandom, Layer, Shape
from mrcnn.network.tensor_ops import (
    box_refinement_graph,
    log2_graph,
    non_zero_rows,
    overlaps_graph,
    parse_image_meta_graph,
)

# A RoI of this side, in pixels of the molded image, goes to P4 (FPN, arXiv:1612.03144, eq. 1).
CANONICAL_SIDE = 224.0
# Pieces that RoIs are pooled in, to keep the memory for their neighbours low.
POOLING_PARTS = 8


class PyramidROIAlign(KL.Layer):
    """Cuts each RoI out of the pyramid level that fits its size, by bilinear sampling.

    One sample a bin, the outer ones on the box's corners, as `tf.image.crop_and_resize` takes
    them; samples outside the map are 0. It is written on gathers, for three reasons: the
    gradient of crop_and_resize has a data race on CPUs, one gather serves all levels, and
    bfloat16 stays bfloat16. The boxes get no gradient. Source: Mask R-CNN
    (arXiv:1703.06870), section 3.

    Inputs: [boxes [B, N, (y1, x1, y2, x2)], image_meta [B, M], P2, P3, P4, P5], the maps
    [B, H, W, channels]. Output: [B, N, pool_height, pool_width, channels] in the maps' dtype.

    Args:
        pool_shape: [pool_height, pool_width], each at least 2.
    """

    def __init__(self, pool_shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # boxes stay float32
        self.pool_shape = tuple(int(side) for side in pool_shape)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        boxes, meta, *maps = inputs
        boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
        level = roi_levels(boxes, parse_image_meta_graph(meta)["image_shape"][0], len(maps))
        sizes = tf.stack([tf.shape(m)[1:3] for m in maps])  # [levels, (h, w)]
        table, starts = _flatten_maps(maps)
        start = tf.gather(starts, level) + tf.range(tf.shape(boxes)[0])[:, None] * starts[-1]
        rows, weights = _sample_points(boxes, tf.gather(sizes, level), start, self.pool_shape)
        pooled = _gather_sum(table, tf.stack(rows), tf.stack(weights))
        shape = [tf.shape(boxes)[0], tf.shape(boxes)[1], *self.pool_shape, table.shape[-1]]
        pooled = tf.reshape(pooled, shape)
        return tf.ensure_shape(pooled, self.compute_output_shape([x.shape for x in inputs]))

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return (*input_shape[0][:2], *self.pool_shape, input_shape[2][-1])

    def compute_output_spec(self, inputs: Sequence[KerasTensor]) -> KerasTensor:
        shape = self.compute_output_shape([x.shape for x in inputs])
        return KerasTensor(shape, dtype=inputs[2].dtype)

    def get_config(self) -> dict[str, Any]:
        config = {k: v for k, v in super().get_config().items() if k != "autocast"}
        return {**config, "pool_shape": self.pool_shape}


def roi_levels(boxes: tf.Tensor, image_shape: Sequence[Any], count: int = 4) -> tf.Tensor:
    """Pyramid level of each RoI [..., (y1, x1, y2, x2)]: [...] int32, 0 for P2 and so on.

    The level is P4 at `CANONICAL_SIDE` and one lower for each halving. image_shape is the molded
    image's (the original measures the whole batch by its first image), count the number of levels.
    """
    area = tf.cast(image_shape[0] * image_shape[1], tf.float32)
    size = boxes[..., 2:] - boxes[..., :2]
    side = tf.sqrt(size[..., 0] * size[..., 1]) / (CANONICAL_SIDE / tf.sqrt(area))
    level = 4.0 + tf.round(log2_graph(side))
    # Clipped as floats: the log of an empty box is -inf, that of a broken one NaN; no int
    # holds them, and a training that diverges should end in a NaN loss, not in a bad index.
    level = tf.where(tf.math.is_nan(level), 2.0, level)
    return tf.cast(tf.clip_by_value(level, 2.0, 1.0 + count), tf.int32) - 2


def _flatten_maps(maps: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps [B, H, W, C] -> one table [B * rows, C], and the first row of each level
    [levels + 1], the last being the number of rows an image."""
    batch, channels = tf.shape(maps[0])[0], maps[0].shape[-1]
    flat = [tf.reshape(m, [batch, -1, channels]) for m in maps]
    starts = tf.cumsum([0] + [tf.shape(f)[1] for f in flat])
    return tf.reshape(tf.concat(flat, axis=1), [-1, channels]), starts


def _sample_points(
    boxes: tf.Tensor, sizes: tf.Tensor, start: tf.Tensor, pool_shape: tuple[int, ...]
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Where the bins of boxes [B, N, 4] sample the table of their maps.

    sizes: [B, N, (h, w)] of the maps; start: [B, N], the first table row of the box's map.
    Returns the rows and weights of each sample's four neighbours, four [B * N * bins] each.
    """
    scale = tf.cast(sizes - 1, tf.float32)
    axes = []
    for axis, bins in enumerate(pool_shape):
        # Rounded in crop_and_resize's order, so that samples on the border stay inside.
        low = boxes[..., axis] * scale[..., axis]
        step = (boxes[..., axis + 2] - boxes[..., axis]) * scale[..., axis] / (bins - 1)
        at = low[..., None] + tf.range(bins, dtype=tf.float32) * step[..., None]
        last = scale[..., axis, None]
        inside = tf.cast((at >= 0) & (at <= last), tf.float32)
        at = tf.clip_by_value(tf.where(tf.math.is_finite(at), at, 0.0), 0.0, last)
        before = tf.floor(at)
        fraction = at - before
        indices = [tf.cast(i, tf.int32) for i in (before, tf.math.ceil(at))]
        axes.append(list(zip(indices, [(1 - fraction) * inside, fraction * inside], strict=True)))
    rows, weights = [], []
    for y, y_weight in axes[0]:
        first = start[..., None] + y * sizes[..., 1, None]  # [B, N, rows]
        for x, x_weight in axes[1]:
            rows.append(tf.reshape(first[..., :, None] + x[..., None, :], [-1]))
            weights.append(tf.reshape(y_weight[..., :, None] * x_weight[..., None, :], [-1]))
    return rows, weights


@tf.custom_gradient
def _gather_sum(
    table: tf.Tensor, rows: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor | None, ...]]]:
    """sum_i table[rows[i]] * weights[i], [samples, channels], in the table's dtype."""
    parts: list[tf.Tensor] = []
    count = tf.shape(rows)[1]
    for i in range(POOLING_PARTS):
        part = slice(i * count // POOLING_PARTS, (i + 1) * count // POOLING_PARTS)
        # One after the other: side by side the four neighbours need four times the memory.
        with tf.control_dependencies(parts[-1:]):
            neighbours = zip(tf.unstack(rows[:, part]), tf.unstack(weights[:, part]), strict=True)
            products = [
                tf.gather(table, r) * tf.cast(w, table.dtype)[:, None] for r, w in neighbours
            ]
        parts.append(tf.add_n(products))
    pooled = tf.concat(parts, axis=0)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        # Crowded boxes add up many small gradients in one row: in float32, whatever the dtype.
        upstream = tf.cast(upstream, tf.float32)
        values = tf.concat([upstream * w[:, None] for w in tf.unstack(weights)], axis=0)
        count = tf.shape(table)[0]
        summed = tf.math.unsorted_segment_sum(values, tf.reshape(rows, [-1]), count)
        return tf.cast(summed, table.dtype), None, None

    return pooled, gradient


class DetectionTargetLayer(KeyedRandom, Layer):
    """Samples the RoIs that train the heads, and their targets.

    RoIs are positive if their IoU with an object is 0.5 or more, negative below, crowds excepted;
    at most ROI_POSITIVE_RATIO of TRAIN_ROIS_PER_IMAGE are positive, and negatives are added to
    that ratio. Positives come first, then negatives, then zero padding.

    Inputs: proposals [B, P, 4] and gt_boxes [B, G, 4], normalised and zero-padded;
    gt_class_ids [B, G] int (negative: crowd), gt_masks [B, h, w, G] bool: of the whole image,
    or mini masks. Order: [proposals, gt_class_ids, gt_boxes, gt_masks].
    Outputs: rois [B, T, 4], class ids [B, T] int32, deltas [B, T, 4] (divided by BBOX_STD_DEV),
    masks [B, T, *MASK_SHAPE] float32 of 0 and 1, with T = TRAIN_ROIS_PER_IMAGE.

    Args:
        config: gives the values of the next five arguments and stop_gradient.
        stop_gradient: cuts the path from the deltas back into the RPN, which the original has.
        shuffle: False takes candidates in the order of the proposals instead of at random.
        seed: of the random choice.
    """

    fields: tuple[str, ...] = ("train_rois", "positive_ratio", "bbox_std_dev", "mask_shape")
    fields += ("use_mini_mask", "stop_gradient", "shuffle", "seed")

    def __init__(
        self,
        config: Config | None = None,
        train_rois: int = 200,
        positive_ratio: float = 0.33,
        bbox_std_dev: Sequence[float] | np.ndarray = (0.1, 0.1, 0.2, 0.2),
        mask_shape: Sequence[int] = (28, 28),
        use_mini_mask: bool = True,
        stop_gradient: bool = False,
        shuffle: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if config is not None:
            train_rois, positive_ratio = config.TRAIN_ROIS_PER_IMAGE, config.ROI_POSITIVE_RATIO
            bbox_std_dev, mask_shape = config.BBOX_STD_DEV, config.MASK_SHAPE
            use_mini_mask = config.USE_MINI_MASK
            stop_gradient = getattr(config, "STOP_TARGET_GRADIENT", False)
        self.train_rois, self.positive_ratio = int(train_rois), float(positive_ratio)
        self.bbox_std_dev = [float(v) for v in np.asarray(bbox_std_dev)]
        self.mask_shape = tuple(int(side) for side in mask_shape)
        self.use_mini_mask, self.stop_gradient = bool(use_mini_mask), bool(stop_gradient)
        self.shuffle, self.seed = bool(shuffle), seed
        self.max_positive = max_positive_rois(self.train_rois, self.positive_ratio)

    def call(self, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        proposals, class_ids, gt_boxes, gt_masks = inputs
        if self.stop_gradient:
            proposals = tf.stop_gradient(proposals)
        class_ids = tf.cast(class_ids, tf.int32)
        overlaps = tf.stop_gradient(overlaps_graph(proposals, gt_boxes))
        overlaps = tf.where(tf.math.is_finite(overlaps), overlaps, 0.0)  # padding on padding
        is_object = (non_zero_rows(gt_boxes) & (class_ids > 0))[:, None, :]
        is_crowd = (non_zero_rows(gt_boxes) & (class_ids < 0))[:, None, :]
        iou = tf.where(is_object, overlaps, -1.0)
        best = tf.reduce_max(iou, axis=-1)
        crowd = tf.reduce_max(tf.where(is_crowd, overlaps, 0.0), axis=-1)
        exists = non_zero_rows(proposals)
        positive = exists & (best >= 0.5)
        negative = exists & (best < 0.5) & (crowd < 0.001)

        index, count_positive, count = self._choose(positive, negative)
        slot = tf.range(self.train_rois)[None, :]
        is_positive = slot < count_positive[:, None]
        rois = tf.gather(proposals, index, batch_dims=1)
        rois = tf.where((slot < count[:, None])[..., None], rois, 0.0)
        nearest = tf.gather(tf.argmax(iou, axis=-1, output_type=tf.int32), index, batch_dims=1)
        ids = tf.where(is_positive, tf.gather(class_ids, nearest, batch_dims=1), 0)
        boxes = tf.gather(gt_boxes, nearest, batch_dims=1)
        deltas = self._deltas(rois, boxes, is_positive)
        masks = self._masks(rois, boxes, nearest, is_positive, gt_masks)
        return [rois, ids, deltas, masks]

    def _choose(
        self, positive: tf.Tensor, negative: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Indices [B, T] of the chosen proposals, and how many are positive and real [B]."""
        shape = tf.shape(positive)
        if self.shuffle:
            key = self.uniform(shape, 0.001)
        else:
            places = tf.cast(shape[1], tf.float32)
            key = 1.0 - tf.broadcast_to(tf.range(places), tf.cast(shape, tf.int32)) / places
        picked_pos, pos = self._best(tf.where(positive, key, 0.0), self.max_positive)
        count_pos = tf.reduce_sum(tf.cast(picked_pos, tf.int32), axis=1)
        ratio = tf.constant(1.0 / self.positive_ratio, tf.float32)
        wanted = tf.cast(ratio * tf.cast(count_pos, tf.float32), tf.int32) - count_pos
        picked_neg, neg = self._best(tf.where(negative, key, 0.0), self.train_rois)
        picked_neg &= tf.range(tf.shape(neg)[1])[None, :] < wanted[:, None]
        picked = tf.concat([picked_pos, picked_neg], axis=1)
        index = tf.concat([pos, neg], axis=1)
        # Equal keys keep their order in top_k: positives, then negatives, then the rest.
        _, order = tf.math.top_k(tf.cast(picked, tf.float32), tf.shape(picked)[1])
        index = tf.gather(index, order, batch_dims=1)
        missing = tf.maximum(0, self.train_rois - tf.shape(index)[1])
        index = tf.pad(index, [[0, 0], [0, missing]])[:, : self.train_rois]
        count = tf.reduce_sum(tf.cast(picked, tf.int32), axis=1)
        return index, count_pos, tf.minimum(count, self.train_rois)

    def _best(self, key: tf.Tensor, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
        values, index = tf.math.top_k(key, tf.minimum(limit, tf.shape(key)[1]))
        return values > 0, index

    def _deltas(self, rois: tf.Tensor, gt_boxes: tf.Tensor, is_positive: tf.Tensor) -> tf.Tensor:
        # Padding is replaced before the logarithm: a NaN there would reach the gradient.
        unit = tf.constant([0.0, 0.0, 1.0, 1.0])
        rois = tf.where(is_positive[..., None], rois, unit)
        gt_boxes = tf.where(is_positive[..., None], gt_boxes, unit)
        return box_refinement_graph(rois, gt_boxes) / self.bbox_std_dev

    def _masks(
        self,
        rois: tf.Tensor,
        gt_boxes: tf.Tensor,
        nearest: tf.Tensor,
        is_positive: tf.Tensor,
        gt_masks: tf.Tensor,
    ) -> tf.Tensor:
        """Ground truth masks cut to the RoIs, rounded; zero where not positive."""
        few = self.max_positive  # positives come first, so no others have masks
        boxes, gt_boxes = tf.stop_gradient(rois[:, :few]), gt_boxes[:, :few]
        if self.use_mini_mask:
            size = tf.maximum(gt_boxes[..., 2:] - gt_boxes[..., :2], 1e-12)
            corner = tf.concat([gt_boxes[..., :2], gt_boxes[..., :2]], axis=-1)
            boxes = (boxes - corner) / tf.concat([size, size], axis=-1)
        batch, _, _, instances = tf.unstack(tf.shape(gt_masks))
        stack = tf.transpose(tf.cast(gt_masks, tf.float32), [0, 3, 1, 2])
        stack = tf.reshape(stack, tf.concat([[-1], tf.shape(gt_masks)[1:3], [1]], axis=0))
        which = nearest[:, :few] + tf.range(batch)[:, None] * instances
        crops = tf.image.crop_and_resize(
            stack, tf.reshape(boxes, [-1, 4]), tf.reshape(which, [-1]), self.mask_shape
        )
        crops = tf.reshape(tf.round(crops), [batch, few, *self.mask_shape])
        crops = tf.where(is_positive[:, :few, None, None], crops, 0.0)
        return tf.pad(crops, [[0, 0], [0, self.train_rois - few], [0, 0], [0, 0]])

    def compute_output_spec(self, inputs: Sequence[KerasTensor]) -> list[KerasTensor]:
        lead = (inputs[0].shape[0], self.train_rois)
        return [
            KerasTensor((*lead, 4), "float32"),
            KerasTensor(lead, "int32"),
            KerasTensor((*lead, 4), "float32"),
            KerasTensor((*lead, *self.mask_shape), "float32"),
        ]


def max_positive_rois(train_rois: int, positive_ratio: float) -> int:
    """How many of an image's training RoIs may hold objects (66 of 200 at 0.33)."""
    return int(train_rois * positive_ratio)

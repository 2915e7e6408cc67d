"""Box formulas and batch helpers on tensors: the twins of `mrcnn/core/boxes.py`.

Boxes are `(y1, x1, y2, x2)` float32 in normalised coordinates (0..1 over the molded image,
y2/x2 pointing at the last pixel), unless a docstring says otherwise. B is the batch size,
N a count of boxes. The names are matterport's. All functions work eagerly and in graphs.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf


def apply_box_deltas_graph(boxes: tf.Tensor, deltas: tf.Tensor) -> tf.Tensor:
    """Moves and scales boxes [..., 4] of any frame; the inverse of `box_refinement_graph`.

    deltas: [..., (dy, dx, log(dh), log(dw))], centre shifts in box sizes. Source: Fast R-CNN
    (arXiv:1504.08083), appendix C.
    """
    size = boxes[..., 2:] - boxes[..., :2]
    center = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
    size = size * tf.exp(deltas[..., 2:])
    corner = center - 0.5 * size
    return tf.concat([corner, corner + size], axis=-1)


def box_refinement_graph(box: tf.Tensor, gt_box: tf.Tensor) -> tf.Tensor:
    """Deltas [..., (dy, dx, log(dh), log(dw))] that turn box [..., 4] into gt_box [..., 4]."""
    box, gt_box = tf.cast(box, tf.float32), tf.cast(gt_box, tf.float32)
    size, gt_size = box[..., 2:] - box[..., :2], gt_box[..., 2:] - gt_box[..., :2]
    center, gt_center = box[..., :2] + 0.5 * size, gt_box[..., :2] + 0.5 * gt_size
    return tf.concat([(gt_center - center) / size, tf.math.log(gt_size / size)], axis=-1)


def clip_boxes_graph(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Clips boxes [..., 4] to a window [(y1, x1, y2, x2)] in the same frame."""
    low = tf.concat([window[:2], window[:2]], axis=0)
    high = tf.concat([window[2:], window[2:]], axis=0)
    clipped = tf.maximum(tf.minimum(boxes, high), low)
    return tf.ensure_shape(clipped, boxes.shape)


def overlaps_graph(boxes1: tf.Tensor, boxes2: tf.Tensor) -> tf.Tensor:
    """IoU of boxes [..., N, 4] with boxes [..., M, 4]: [..., N, M]; NaN where both are empty."""
    one, two = boxes1[..., :, None, :], boxes2[..., None, :, :]
    extent = tf.minimum(one[..., 2:], two[..., 2:]) - tf.maximum(one[..., :2], two[..., :2])
    intersection = tf.reduce_prod(tf.maximum(extent, 0.0), axis=-1)
    return intersection / (box_areas(one) + box_areas(two) - intersection)


def norm_boxes_graph(boxes: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Boxes [..., 4] in pixels (y2/x2 exclusive) -> normalised, given [(height, width)]."""
    shift, scale = _frame(shape)
    return (tf.cast(boxes, tf.float32) - shift) / scale


def denorm_boxes_graph(boxes: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Normalised boxes -> whole pixels, int32 (y2/x2 exclusive); halves go to even."""
    shift, scale = _frame(shape)
    return tf.cast(tf.round(boxes * scale + shift), tf.int32)


def _frame(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The shift and scale between pixels and normalised coordinates, [4] each."""
    return tf.constant([0.0, 0.0, 1.0, 1.0]), tf.tile(tf.cast(shape, tf.float32), [2]) - 1.0


def smooth_l1_loss(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Huber loss with its knee at 1, elementwise (Fast R-CNN, arXiv:1504.08083, eq. 3)."""
    distance = tf.abs(y_true - y_pred)
    return tf.where(distance < 1.0, 0.5 * tf.square(distance), distance - 0.5)


def log2_graph(x: tf.Tensor) -> tf.Tensor:
    """Logarithm to the base of 2."""
    return tf.math.log(x) / tf.math.log(2.0)


def masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean of the values where mask (broadcast over values) holds; 0 where it never does.

    A weighted sum over all values, so that shapes stay static.
    """
    mask = tf.broadcast_to(mask, tf.shape(values))
    total = tf.reduce_sum(tf.where(mask, values, 0.0))
    return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(mask, tf.float32)))


def non_zero_rows(boxes: tf.Tensor) -> tf.Tensor:
    """[..., N] bool: which rows of zero-padded boxes [..., N, 4] hold a box."""
    return tf.reduce_any(tf.not_equal(boxes, 0), axis=-1)


def box_areas(boxes: tf.Tensor) -> tf.Tensor:
    """Areas [..., N] of boxes [..., N, (y1, x1, y2, x2)], in squares of their unit."""
    return tf.reduce_prod(boxes[..., 2:] - boxes[..., :2], axis=-1)


def has_area(boxes: tf.Tensor) -> tf.Tensor:
    """[..., N] bool: which boxes [..., N, 4] have an area; False where a number is NaN."""
    return tf.reduce_all(boxes[..., 2:] > boxes[..., :2], axis=-1)


def trim_zeros_graph(boxes: tf.Tensor, name: str = "trim_zeros") -> tuple[tf.Tensor, tf.Tensor]:
    """Boxes [N, 4] without their zero-padded rows, and the mask of kept rows, [N] bool."""
    keep = non_zero_rows(boxes)
    return tf.boolean_mask(boxes, keep, name=name), keep


def batch_pack_graph(x: tf.Tensor, counts: tf.Tensor, num_rows: int) -> tf.Tensor:
    """The first counts[i] rows of each x[i], one after the other: [B, N, ...] -> [rows, ...]."""
    rows = tf.range(tf.shape(x)[1])[None, :] < tf.cast(counts[:num_rows], tf.int32)[:, None]
    return tf.boolean_mask(x[:num_rows], rows)


def batch_slice(
    inputs: tf.Tensor | Sequence[tf.Tensor],
    graph_fn: Callable[..., tf.Tensor | Sequence[tf.Tensor]],
    batch_size: int,
    names: str | Sequence[str] | None = None,
) -> tf.Tensor | list[tf.Tensor]:
    """Runs a function for one image on each image of a batch and stacks the results.

    Args:
        inputs: one tensor or several, each [B, ...].
        graph_fn: takes one slice [...] of each input and gives one tensor or several.
        batch_size: B.
        names: of the outputs.

    Returns:
        a tensor [B, ...], or a list of them if graph_fn gives several.
    """
    inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    results = [graph_fn(*(x[i] for x in inputs)) for i in range(batch_size)]
    if not isinstance(results[0], (list, tuple)):
        results = [(r,) for r in results]
    columns = list(zip(*results, strict=True))
    given = [names] if isinstance(names, str) else list(names or ())
    padded = given + [None] * (len(columns) - len(given))
    stacked = [tf.stack(c, name=n) for c, n in zip(columns, padded, strict=True)]
    return stacked[0] if len(stacked) == 1 else stacked


def map_batch(fn: Callable[..., tf.Tensor], inputs: Sequence[tf.Tensor]) -> tf.Tensor:
    """`batch_slice` for a float32 function of a fixed shape, where B may be unknown in a graph."""
    batch = inputs[0].shape[0]
    if batch is not None:
        return batch_slice(inputs, fn, batch)
    return tf.map_fn(lambda x: fn(*x), inputs, fn_output_signature=tf.float32)


def pad_rows(x: tf.Tensor, count: int) -> tf.Tensor:
    """Zero rows appended to x [N, ...] up to a static [count, ...]; N must not exceed it."""
    padding = [[0, count - tf.shape(x)[0]]] + [[0, 0]] * (x.shape.rank - 1)
    return tf.ensure_shape(tf.pad(x, padding), [count, *x.shape[1:]])


def parse_image_meta_graph(meta: tf.Tensor) -> dict[str, tf.Tensor]:
    """Splits image metas [B, 12 + NUM_CLASSES] into their parts, all float32.

    image_id [B], original_image_shape [B, (h, w, c)], image_shape [B, (h, w, c)] of the molded
    image, window [B, (y1, x1, y2, x2)] pixels, scale [B], active_class_ids [B, NUM_CLASSES].
    """
    return {
        "image_id": meta[:, 0],
        "original_image_shape": meta[:, 1:4],
        "image_shape": meta[:, 4:7],
        "window": meta[:, 7:11],
        "scale": meta[:, 11],
        "active_class_ids": meta[:, 12:],
    }

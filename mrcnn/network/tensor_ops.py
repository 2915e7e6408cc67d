"""Box formulas and batch helpers on tensors: the twins of `mrcnn/core/boxes.py`.

Boxes are `(y1, x1, y2, x2)` float32 in normalised coordinates (0..1 over the molded image,
y2/x2 pointing at the last pixel), unless a docstring says otherwise. B is the batch size,
N a count of boxes. The names are matterport's. All functions work eagerly and in graphs.
"""

import tensorflow as tf


def apply_box_deltas_graph(boxes, deltas):
    """Moves and scales boxes (the inverse of `box_refinement_graph`).

    Args:
        boxes: [..., (y1, x1, y2, x2)] float32, any frame.
        deltas: [..., (dy, dx, log(dh), log(dw))] float32, centre shifts in box sizes.

    Returns:
        [..., (y1, x1, y2, x2)] float32. Source: Fast R-CNN (arXiv:1504.08083), appendix C.
    """
    size = boxes[..., 2:] - boxes[..., :2]
    center = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
    size = size * tf.exp(deltas[..., 2:])
    corner = center - 0.5 * size
    return tf.concat([corner, corner + size], axis=-1)


def box_refinement_graph(box, gt_box):
    """Deltas that turn `box` into `gt_box`.

    Args:
        box, gt_box: [..., (y1, x1, y2, x2)], the same frame.

    Returns:
        [..., (dy, dx, log(dh), log(dw))] float32.
    """
    box, gt_box = tf.cast(box, tf.float32), tf.cast(gt_box, tf.float32)
    size, gt_size = box[..., 2:] - box[..., :2], gt_box[..., 2:] - gt_box[..., :2]
    center, gt_center = box[..., :2] + 0.5 * size, gt_box[..., :2] + 0.5 * gt_size
    return tf.concat([(gt_center - center) / size, tf.math.log(gt_size / size)], axis=-1)


def clip_boxes_graph(boxes, window):
    """Clips boxes to a window.

    Args:
        boxes: [N, (y1, x1, y2, x2)].
        window: [(y1, x1, y2, x2)] in the same frame.
    """
    low = tf.concat([window[:2], window[:2]], axis=0)
    high = tf.concat([window[2:], window[2:]], axis=0)
    clipped = tf.maximum(tf.minimum(boxes, high), low)
    return tf.ensure_shape(clipped, boxes.shape)


def overlaps_graph(boxes1, boxes2):
    """Intersection over union of each box with each other.

    Args:
        boxes1: [..., N, (y1, x1, y2, x2)], boxes2: [..., M, (y1, x1, y2, x2)].

    Returns:
        [..., N, M] float32; NaN where both boxes are empty.
    """
    one, two = boxes1[..., :, None, :], boxes2[..., None, :, :]
    extent = tf.minimum(one[..., 2:], two[..., 2:]) - tf.maximum(one[..., :2], two[..., :2])
    intersection = tf.reduce_prod(tf.maximum(extent, 0.0), axis=-1)
    return intersection / (box_areas(one) + box_areas(two) - intersection)


def norm_boxes_graph(boxes, shape):
    """Pixels (y2/x2 exclusive) -> normalised coordinates.

    Args:
        boxes: [..., (y1, x1, y2, x2)], any numeric dtype.
        shape: [(height, width)] of the image, any numeric dtype.
    """
    scale = tf.tile(tf.cast(shape, tf.float32), [2]) - 1.0
    shift = tf.constant([0.0, 0.0, 1.0, 1.0])
    return (tf.cast(boxes, tf.float32) - shift) / scale


def denorm_boxes_graph(boxes, shape):
    """Normalised coordinates -> whole pixels, int32 (y2/x2 exclusive); halves go to even."""
    scale = tf.tile(tf.cast(shape, tf.float32), [2]) - 1.0
    shift = tf.constant([0.0, 0.0, 1.0, 1.0])
    return tf.cast(tf.round(boxes * scale + shift), tf.int32)


def smooth_l1_loss(y_true, y_pred):
    """Huber loss with its knee at 1, elementwise (Fast R-CNN, arXiv:1504.08083, eq. 3)."""
    distance = tf.abs(y_true - y_pred)
    return tf.where(distance < 1.0, 0.5 * tf.square(distance), distance - 0.5)


def non_zero_rows(boxes):
    """[..., N] bool: which rows of zero-padded boxes [..., N, 4] hold a box."""
    return tf.reduce_any(tf.not_equal(boxes, 0), axis=-1)


def box_areas(boxes):
    """Areas [..., N] of boxes [..., N, (y1, x1, y2, x2)], in squares of their unit."""
    return tf.reduce_prod(boxes[..., 2:] - boxes[..., :2], axis=-1)


def trim_zeros_graph(boxes, name="trim_zeros"):
    """Drops the zero-padded rows of boxes.

    Args:
        boxes: [N, 4].

    Returns:
        boxes [M, 4] and the mask of kept rows, [N] bool.
    """
    keep = non_zero_rows(boxes)
    return tf.boolean_mask(boxes, keep, name=name), keep


def batch_pack_graph(x, counts, num_rows):
    """The first counts[i] rows of each x[i], one after the other.

    Args:
        x: [B, N, ...], counts: [B] int, num_rows: B.

    Returns:
        [sum(counts), ...]
    """
    rows = tf.range(tf.shape(x)[1])[None, :] < tf.cast(counts[:num_rows], tf.int32)[:, None]
    return tf.boolean_mask(x[:num_rows], rows)


def batch_slice(inputs, graph_fn, batch_size, names=None):
    """Runs a function for one image on each image of a batch and stacks the results.

    Args:
        inputs: tensor or list of tensors with a first dimension B.
        graph_fn: takes the slices [...] and gives a tensor or a sequence of tensors.
        batch_size: B, an int.
        names: name or list of names of the outputs, optional.

    Returns:
        a tensor [B, ...], or a list of them if graph_fn gives several.
    """
    inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    results = [graph_fn(*(x[i] for x in inputs)) for i in range(batch_size)]
    if not isinstance(results[0], (list, tuple)):
        results = [(r,) for r in results]
    columns = list(zip(*results, strict=True))
    names = [names] if isinstance(names, str) or names is None else list(names)
    names += [None] * (len(columns) - len(names))
    stacked = [tf.stack(c, name=n) for c, n in zip(columns, names, strict=True)]
    return stacked[0] if len(stacked) == 1 else stacked


def map_batch(fn, inputs, dtype=tf.float32):
    """`batch_slice` where the batch may be unknown while the graph is drawn.

    Args:
        fn: takes one slice of each input, gives one tensor of a fixed shape.
        inputs: list of tensors [B, ...].
        dtype: of the result.

    Returns:
        [B, ...]
    """
    batch = inputs[0].shape[0]
    if batch is not None:
        return batch_slice(inputs, fn, batch)
    return tf.map_fn(lambda x: fn(*x), inputs, fn_output_signature=dtype)


def pad_rows(x, count):
    """Zero rows appended to x [N, ...] up to a static [count, ...]; N must not exceed it."""
    padding = [[0, count - tf.shape(x)[0]]] + [[0, 0]] * (x.shape.rank - 1)
    return tf.ensure_shape(tf.pad(x, padding), [count, *x.shape[1:]])


def parse_image_meta_graph(meta):
    """Splits image metas into their parts, all float32.

    Args:
        meta: [B, 12 + NUM_CLASSES].

    Returns:
        dict: image_id [B], original_image_shape [B, (h, w, c)], image_shape [B, (h, w, c)] of
        the molded image, window [B, (y1, x1, y2, x2)] pixels, scale [B],
        active_class_ids [B, NUM_CLASSES].
    """
    return {
        "image_id": meta[:, 0],
        "original_image_shape": meta[:, 1:4],
        "image_shape": meta[:, 4:7],
        "window": meta[:, 7:11],
        "scale": meta[:, 11],
        "active_class_ids": meta[:, 12:],
    }

"""What a garment looks like in itself and beside itself, and the file of the head that judges it.

Bare arms lie beside a short-sleeved shirt, not in it. So the features of `SiblingHead` are means
of the pyramid over parts of a box a little larger than the garment's: over the garment and
over what surrounds it, each in rows from top to bottom. Left and right count alike.

Letters in shapes: B batch, N detections, C channels of the pyramid, S side of a mask, R rows of
parts, G side of the grid, F features.
"""

import json
import shutil

import h5py
import numpy as np
import tensorflow as tf

from mrcnn.core.classes import names_for
from mrcnn.core.files import replacing
from mrcnn.network.roi import PyramidROIAlign
from mrcnn.network.weights import WeightsError, inspect, open_weights
from mrcnn.siblings import head as siblings
from mrcnn.siblings.head import SiblingHead

# The group beside the layers' in a weights file; readers that don't know it pass it over.
GROUP = "sleeve_head"
# Samples across the garment's box, as many as the mask head's half size, and beyond it.
INNER, BEYOND = 14, 3
GRID = INNER + 2 * BEYOND
# Parts from top to bottom.
ROWS = 5


def describe(boxes, image_meta, maps, masks):
    """Features of detections.

    Args:
        boxes: [B, N, (y1, x1, y2, x2)] normalised.
        image_meta: [B, M].
        maps: [P2, P3, P4, P5], each [B, h, w, C].
        masks: [B, N, S, S] in 0..1, S a multiple of `INNER`.

    Returns:
        [B, N, F] float32, F = ROWS * 2 * (C + 1).
    """
    size = boxes[..., 2:] - boxes[..., :2]
    beyond = size * (BEYOND / (INNER - 1))
    wide = tf.concat([boxes[..., :2] - beyond, boxes[..., 2:] + beyond], axis=-1)
    grid = PyramidROIAlign((GRID, GRID), name="roi_align_sleeves")([wide, image_meta, *maps])
    return pool_parts(tf.cast(grid, tf.float32), on_grid(masks))


def on_grid(masks):
    """Masks [B, N, S, S] within their boxes -> shares of cells [B, N, G, G], 0 beyond the box."""
    step = masks.shape[-1] // INNER
    batch = tf.shape(masks)
    cells = tf.reshape(masks, [batch[0], batch[1], INNER, step, INNER, step])
    around = [BEYOND, BEYOND]
    return tf.pad(tf.reduce_mean(cells, axis=[3, 5]), [[0, 0], [0, 0], around, around])


def pool_parts(grid, shares):
    """Means over garment and surroundings in each row of parts.

    Args:
        grid: [B, N, G, G, C] float32.
        shares: [B, N, G, G] float32, how much of a cell is garment.

    Returns:
        [B, N, ROWS * 2 * (C + 1)]: of each row the means over the garment, those over its
        surroundings, and the shares that both have of the row.
    """
    weights = tf.stack([shares, 1.0 - shares], axis=-1)
    batch, count = tf.shape(grid)[0], tf.shape(grid)[1]
    rows = [batch, count, ROWS, GRID // ROWS * GRID]
    weights = tf.reshape(weights, [*rows, 2])
    values = tf.reshape(grid, [*rows, grid.shape[-1]])
    sums = tf.einsum("bnrip,bnric->bnrpc", weights, values)
    area = tf.reduce_sum(weights, axis=3)[..., None]  # [B, N, ROWS, 2, 1]
    means = sums / tf.maximum(area, 1.0)  # fades out where hardly a cell is left
    parts = tf.concat([means, area / rows[3]], axis=-1)
    return tf.reshape(parts, [batch, count, ROWS * 2 * (grid.shape[-1] + 1)])


def read_head(path, class_names):
    """The head that a weights file carries.

    Args:
        path: of the file.
        class_names: of the model, background first.

    Returns:
        `SiblingHead`.

    Raises:
        WeightsError: if it has none, or one that doesn't fit.
    """
    with open_weights(path) as root:
        if GROUP not in root.file:
            raise WeightsError(
                f"{path} has no sleeve head, which SLEEVE_REFINE needs; train one with\n"
                f"  python scripts/train_sleeves.py --weights {path}\n"
                "or go without it: --no-sleeve_refine, SLEEVE_REFINE = False"
            )
        group = root.file[GROUP]
        try:
            return SiblingHead(
                np.asarray(group["kernel:0"], np.float32),
                np.asarray(group["bias:0"], np.float32),
                siblings.siblings_from_json(group.attrs["groups"], class_names),
                float(group.attrs["margin"]),
            )
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"the sleeve head of {path} can't be used: {error}; train it anew with "
                "scripts/train_sleeves.py"
            ) from error


def write_head(head, source, target, refine=None):
    """Writes a weights file with a head: a copy of another, under a temporary name until complete.

    Args:
        head: `SiblingHead`.
        source: a weights file; a head that it has is replaced.
        target: path, may be the same.
        refine: what SLEEVE_REFINE becomes in the file's configuration; None leaves it.
    """
    names = model_names(inspect(source))
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "a") as file:
            file.pop(GROUP, None)
            group = file.create_group(GROUP)
            # As the layers' groups, so that tools which go through all groups can copy it.
            group.attrs["weight_names"] = np.array([b"kernel:0", b"bias:0"])
            group.attrs["groups"] = siblings.groups_to_json(head.siblings, names)
            group.attrs["margin"] = head.margin
            group.create_dataset("kernel:0", data=head.kernel)
            group.create_dataset("bias:0", data=head.bias)
            if refine is not None and "config" in file.attrs:
                config = json.loads(file.attrs["config"]) | {"SLEEVE_REFINE": bool(refine)}
                file.attrs["config"] = json.dumps(config)


def model_names(info):
    """Class names, background first, of a model by the `weights.FileInfo` of its file."""
    return info.class_names or names_for(info.num_classes)


def refine_batch(head, detections, masks, features, nms_threshold):
    """`SiblingHead.refine` of each image of a batch, in place.

    Args:
        head: `SiblingHead`, or None if no file with one was loaded.
        detections: [B, D, 6]. masks: [B, n, S, S]. features: [B, n, F].
        nms_threshold: as there.

    Raises:
        WeightsError: if there is no head.
    """
    if head is None:
        raise WeightsError(
            "SLEEVE_REFINE is True, but load_weights() has loaded no file with a sleeve head; "
            "load one or set it to False"
        )
    for i, found in enumerate(zip(detections, masks, features, strict=True)):
        detections[i], masks[i] = head.refine(*found, nms_threshold)

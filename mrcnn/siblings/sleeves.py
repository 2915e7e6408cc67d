"""Features of a garment and its surroundings, and the sleeve head in weights files.

Bare arms lie beside a short-sleeved shirt, not in it. So the features of `SiblingHead` are means
of the pyramid over parts of a box a little larger than the garment's: over the garment and
over what surrounds it, each in rows from top to bottom. Left and right count alike.

Letters in shapes: B batch, N detections, C channels of the pyramid, S side of a mask, R rows of
parts, G side of the grid, F features.
"""

import json
import shutil
from collections.abc import Sequence

import h5py
import numpy as np
import tensorflow as tf

from mrcnn.core.classes import names_for
from mrcnn.core.files import PathLike, replacing
from mrcnn.network.metadata import inspect
from mrcnn.network.roi import PyramidROIAlign
from mrcnn.network.weights_file import Part, WeightsError, open_weights
from mrcnn.siblings.head import GROUP, SiblingHead, groups_to_json, siblings_from_json

# Samples across the garment's box, as many as the mask head's half size, and beyond it.
INNER, BEYOND = 14, 3
GRID = INNER + 2 * BEYOND
# Parts from top to bottom.
ROWS = 5


def describe(
    boxes: tf.Tensor, image_meta: tf.Tensor, maps: Sequence[tf.Tensor], masks: tf.Tensor
) -> tf.Tensor:
    """Features of detections: [B, N, F] float32, F = ROWS * 2 * (C + 1).

    Args:
        boxes: [B, N, (y1, x1, y2, x2)] normalised.
        image_meta: [B, M].
        maps: [P2, P3, P4, P5], each [B, h, w, C].
        masks: [B, N, S, S] in 0..1, S a multiple of `INNER`.
    """
    size = boxes[..., 2:] - boxes[..., :2]
    beyond = size * (BEYOND / (INNER - 1))
    wide = tf.concat([boxes[..., :2] - beyond, boxes[..., 2:] + beyond], axis=-1)
    grid = PyramidROIAlign((GRID, GRID), name="roi_align_sleeves")([wide, image_meta, *maps])
    return pool_parts(tf.cast(grid, tf.float32), on_grid(masks))


def on_grid(masks: tf.Tensor) -> tf.Tensor:
    """Masks [B, N, S, S] within their boxes -> shares of cells [B, N, G, G], 0 beyond the box."""
    step = masks.shape[-1] // INNER
    batch = tf.shape(masks)
    cells = tf.reshape(masks, [batch[0], batch[1], INNER, step, INNER, step])
    around = [BEYOND, BEYOND]
    return tf.pad(tf.reduce_mean(cells, axis=[3, 5]), [[0, 0], [0, 0], around, around])


def pool_parts(grid: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Means of grid [B, N, G, G, C] over garment and surroundings in each row of parts.

    shares [B, N, G, G] is how much of a cell is garment. Returns [B, N, ROWS * 2 * (C + 1)]: for
    each row the means over the garment, then those over its surroundings, each followed by the
    share of the row's area.
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


def read_head(
    path: PathLike, class_names: Sequence[str], channels: int | None = None
) -> SiblingHead:
    """The head that a weights file carries, for a model of these classes, background first.

    Args:
        channels: of the model's pyramid, to check the head's features; None: they aren't.

    Raises:
        WeightsError: if it has none, or one that doesn't fit.
    """
    with open_weights(path) as file:
        try:
            part = file.part(GROUP)
            head = _head(part, class_names) if part else None
            if head and channels is not None and len(head.kernel) != ROWS * 2 * (channels + 1):
                raise ValueError(f"it is for another number of features, {len(head.kernel)}")
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"the sleeve head of {path} can't be used: {error}; train it anew with "
                "scripts/train_sleeves.py"
            ) from error
    if head is None:
        raise WeightsError(
            f"{path} has no sleeve head, which SLEEVE_REFINE needs; train one with\n"
            f"  python scripts/train_sleeves.py --weights {path}\n"
            "or go without it: --no-sleeve_refine, SLEEVE_REFINE = False"
        )
    return head


def _head(part: Part, class_names: Sequence[str]) -> SiblingHead:
    arrays = dict(zip(part.datasets, part.arrays(), strict=True))
    siblings = siblings_from_json(part.text("groups") or "", class_names)
    return SiblingHead(arrays["kernel:0"], arrays["bias:0"], siblings, part.number("margin"))


def write_head(
    head: SiblingHead, source: PathLike, target: PathLike, refine: bool | None = None
) -> None:
    """Writes a weights file with a head: a copy of another, under a temporary name until complete.

    A head that the source has is replaced; target may be the same file. refine is what
    SLEEVE_REFINE becomes in the file's configuration; None leaves it.
    """
    info = inspect(source)
    names = info.class_names or names_for(len(head.bias))
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "a") as file:
            file.pop(GROUP, None)
            group = file.create_group(GROUP)
            # Like the layers' groups, so that tools which go through all groups can copy it.
            group.attrs["weight_names"] = np.array([b"kernel:0", b"bias:0"])
            group.attrs["groups"] = groups_to_json(head.siblings, names)
            group.attrs["margin"] = head.margin
            group.create_dataset("kernel:0", data=head.kernel)
            group.create_dataset("bias:0", data=head.bias)
            if refine is not None and info.config is not None:
                config = info.config | {"SLEEVE_REFINE": bool(refine)}
                file.attrs["config"] = json.dumps(config)


def refine_batch(
    head: SiblingHead | None,
    detections: np.ndarray,
    masks: np.ndarray,
    features: np.ndarray,
    nms_threshold: float,
) -> None:
    """`SiblingHead.refine` for each image of a batch, in place.

    detections [B, D, 6], masks [B, n, S, S], features [B, n, F].

    Raises:
        WeightsError: if there is no head, as no file with one was loaded.
    """
    if head is None:
        raise WeightsError(
            "SLEEVE_REFINE is True, but load_weights() has loaded no file with a sleeve head; "
            "load one or set it to False"
        )
    for i, found in enumerate(zip(detections, masks, features, strict=True)):
        detections[i], masks[i] = head.refine(*found, nms_threshold)

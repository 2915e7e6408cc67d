"""From images to the network and from its output back to images.

Letters used below: B batch, H, W rows and columns of an image, h, w of the molded image, D
detections kept at most, N detections of an image, S side of a mask (28).
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mrcnn.config import Config
from mrcnn.core.boxes import denorm_boxes, norm_boxes
from mrcnn.core.image import compose_image_meta, paste_masks, resize_image
from mrcnn.network.heads import apply_mask_head

PYRAMID = ("fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5")


class DetectionGraph:
    """Runs a model of `network.build_inference_model`; the mask head on real detections only.

    The model itself computes all D masks in all classes, which is wasted on an image with two
    garments. One trace serves each input shape; weights are read anew at each call, except those
    of layers that are frozen (`layers.freeze`).

    Attributes:
        traces: how often the graph was traced.

    Args:
        model: of `network.build_inference_model`.
        describe: f(boxes, image_meta, maps, masks) -> [B, n, F], features of the detections that
            are returned too (`sleeves.describe`).
    """

    def __init__(
        self, model: keras.Model, describe: Callable[..., tf.Tensor] | None = None
    ) -> None:
        self._model, self._describe = model, describe
        outputs = [model.get_layer(name).output for name in ("mrcnn_detection", *PYRAMID)]
        self._trunk = keras.Model(model.inputs, outputs)
        self._run = tf.function(self._graph, autograph=False)
        self.traces = 0

    def __call__(
        self, molded: np.ndarray, metas: np.ndarray, anchors: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Detects in molded images.

        Args:
            molded: [B, h, w, channels], mean subtracted.
            metas: [B, M], see `image.compose_image_meta`.
            anchors: [A, (y1, x1, y2, x2)] normalised.

        Returns:
            detections [B, D, (y1, x1, y2, x2, class id, score)] float32, normalised, best first,
            zero-padded; the mask of each one's own class, [B, n, S, S] float32 in 0..1, n
            being the most detections of an image in the batch, at least 1; and with a
            `describe`, its features.
        """
        inputs = [np.asarray(x, np.float32) for x in (molded, metas, anchors[None])]
        outputs = self._run([tf.convert_to_tensor(x) for x in inputs])
        return tuple(output.numpy() for output in outputs)

    def _graph(self, inputs: list[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        self.traces += 1  # counts traces, not calls: this line runs only while tracing
        detections, *maps = self._trunk(inputs, training=False)
        ids = tf.cast(detections[..., 4], tf.int32)
        # At least one: some kernels refuse empty batches.
        count = tf.maximum(tf.reduce_max(tf.reduce_sum(tf.sign(ids), axis=1)), 1)
        ids, boxes = ids[:, :count], detections[:, :count, :4]
        masks = apply_mask_head(self._model, boxes, inputs[1], maps)
        own = tf.one_hot(ids, masks.shape[-1], dtype=masks.dtype)
        own = tf.reduce_sum(masks * own[:, :, None, None, :], axis=-1)
        if self._describe is None:
            return detections, own
        return detections, own, self._describe(boxes, inputs[1], maps, own)


def as_image(image: Any, channels: int) -> np.ndarray:
    """An image as `mold` takes it; the one rule for what programs pass.

    Numbers from 0 to 255 are taken, whatever their type: matterport's programs pass uint8, and
    float32 as Keras loads images. Floats of 0 to 1 would all look black, and nothing be found.

    Args:
        image: [H, W, channels], an array or what NumPy makes one of.

    Returns:
        the same values, [H, W, channels]: the array itself if it is uint8, uint8 of other
        integers, floats as they are.

    Raises:
        ValueError: if it has another shape, no pixels, another kind of values, or values that are
            not finite, not 0 to 255 (half a grey level more is rounding), or floats of 0 to 1.
    """
    wanted = f"give [height, width, {channels}] uint8{' RGB' if channels == 3 else ''}"
    try:
        pixels = np.asarray(image)
    except ValueError:  # lists of several lengths
        raise ValueError(f"got an image whose rows differ in length; {wanted}") from None
    if pixels.ndim != 3 or pixels.shape[2] != channels or not pixels.size:
        raise ValueError(f"got an image of shape {pixels.shape}; {wanted}")
    found = f"got an image of {pixels.dtype} {pixels.shape}"
    if pixels.dtype.kind not in "iuf":
        raise ValueError(f"{found}; {wanted}")
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    is_float = pixels.dtype.kind == "f"
    if not (np.rint(low) >= 0 and np.rint(high) <= 255):  # nor if they are not numbers
        raise ValueError(f"{found} with values from {low:g} to {high:g}; give values from 0 to 255")
    if is_float and high <= 1:
        raise ValueError(
            f"{found} with values from {low:g} to {high:g}; give values from 0 to 255, such as "
            "255 * image"
        )
    return pixels if is_float else pixels.astype(np.uint8)


def mold(images: Sequence[Any], config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resizes, pads and normalises images; see `MaskRCNN.mold_inputs`."""
    molded, metas, windows = [], [], []
    for given in images:
        image = as_image(given, config.IMAGE_CHANNEL_COUNT)
        resized, window, scale, _, _ = resize_image(
            image,
            min_dim=config.IMAGE_MIN_DIM,
            min_scale=config.IMAGE_MIN_SCALE,
            max_dim=config.IMAGE_MAX_DIM,
            mode=config.IMAGE_RESIZE_MODE,
        )
        active = np.zeros(config.NUM_CLASSES, np.int32)  # unknown: the image has no data set
        metas.append(compose_image_meta(0, image.shape, resized.shape, window, scale, active))
        # In float32 at once: float64 would double the memory for digits that don't matter.
        mean = np.asarray(config.MEAN_PIXEL, np.float32)
        molded.append(np.subtract(resized, mean, dtype=np.float32))
        windows.append(window)
    shapes = {m.shape for m in molded}
    if len(shapes) > 1:
        raise ValueError(
            f"the images of a batch become {sorted(shapes)}; they must have one shape: use "
            "IMAGE_RESIZE_MODE = 'square' or IMAGES_PER_GPU = 1"
        )
    return np.stack(molded), np.stack(metas), np.stack(windows)


def check_molded(images: np.ndarray) -> None:
    """Refuses molded images with values that aren't finite, in which nothing would be found."""
    if not np.isfinite(images).all():
        raise ValueError("the molded images hold values that are not finite; give finite ones")


def unmold_boxes(
    detections: np.ndarray,
    original_shape: Sequence[int],
    molded_shape: Sequence[int],
    window: Sequence[int] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The network's detections of one image -> boxes in that image.

    Args:
        detections: [D, (y1, x1, y2, x2, class id, score)], normalised, zero-padded.
        original_shape: (H, W, ...) of the image.
        molded_shape: (h, w, ...) of the molded image.
        window: (y1, x1, y2, x2) of the image within the molded one, pixels.

    Returns:
        boxes [N, (y1, x1, y2, x2)] int32 pixels of the image, class_ids [N] int32, scores
        [N] float32, and their rows in `detections`, [N] int. Boxes without area are left out.
    """
    detections = np.asarray(detections)
    # The first zero row starts the padding.
    zeros = np.flatnonzero(detections[:, 4] == 0)
    count = zeros[0] if len(zeros) else len(detections)
    low = norm_boxes(np.asarray(window), molded_shape[:2]).astype(np.float32)
    size = low[2:] - low[:2]
    boxes = (detections[:count, :4] - np.tile(low[:2], 2)) / np.tile(size, 2)
    boxes = denorm_boxes(boxes, original_shape[:2])
    rows = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    return boxes[rows], detections[rows, 4].astype(np.int32), detections[rows, 5], rows


def unmold(
    detections: np.ndarray,
    masks: np.ndarray,
    original_shape: Sequence[int],
    molded_shape: Sequence[int],
    window: Sequence[int] | np.ndarray,
) -> dict[str, np.ndarray]:
    """Network output of one image -> the dict that `MaskRCNN.detect` returns for it.

    masks: [at least N, S, S] of each detection's own class, 0..1; the rest as of `unmold_boxes`.
    """
    shapes = original_shape, molded_shape, window
    boxes, class_ids, scores, rows = unmold_boxes(detections, *shapes)
    pasted = paste_masks(np.asarray(masks)[rows], boxes, original_shape)
    return {"rois": boxes, "class_ids": class_ids, "scores": scores, "masks": pasted}

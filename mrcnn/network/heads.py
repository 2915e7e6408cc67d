"""The class, box and mask heads, the detections made from them, and their losses.

B is the batch size, N a number of RoIs, C of classes (background included), D of detections.
Boxes are (y1, x1, y2, x2) in normalised coordinates.
Source: He et al., Mask R-CNN (arXiv:1703.06870), section 3 and figure 4 (right).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor
from keras import layers as KL

from mrcnn.config import Config
from mrcnn.network.layers import (
    Conv2D,
    Conv2DTranspose,
    ConvBn,
    Dropout,
    Layer,
    Shape,
    policy_for,
)
from mrcnn.network.roi import PyramidROIAlign
from mrcnn.network.tensor_ops import (
    apply_box_deltas_graph,
    box_areas,
    clip_boxes_graph,
    has_area,
    map_batch,
    masked_mean,
    norm_boxes_graph,
    overlaps_graph,
    pad_rows,
    parse_image_meta_graph,
    smooth_l1_loss,
)


def fpn_classifier_graph(
    rois: KerasTensor,
    feature_maps: Sequence[KerasTensor],
    image_meta: KerasTensor,
    pool_size: int,
    num_classes: int,
    train_bn: bool | None = True,
    fc_layers_size: int = 1024,
    dtype: str = "float32",
    dropout: float = 0.0,
) -> tuple[KerasTensor, KerasTensor, KerasTensor]:
    """Class and box head.

    Args:
        rois: [B, N, (y1, x1, y2, x2)].
        feature_maps: [P2, P3, P4, P5], each [B, H, W, channels].
        image_meta: [B, M].
        pool_size: side of the square that each RoI is pooled to.
        num_classes: background included.
        train_bn: as of `layers.BatchNorm`.
        fc_layers_size: width of the two dense layers.
        dtype: compute dtype; the outputs are float32.
        dropout: share of the numbers after each dense layer that training leaves out, as in
            Fast R-CNN's VGG16 (arXiv:1504.08083); 0 adds no layer.

    Returns:
        logits [B, N, C], probabilities [B, N, C], deltas [B, N, C, (dy, dx, log(dh), log(dw))].
    """
    conv_bn, policy = ConvBn(train_bn, dtype), policy_for(dtype)
    align = PyramidROIAlign([pool_size, pool_size], name="roi_align_classifier", dtype=policy)
    x = align([rois, image_meta, *feature_maps])
    # Two dense layers, written as convolutions so that the weights of old files fit.
    for index, side in ((1, pool_size), (2, 1)):
        names = f"mrcnn_class_conv{index}", f"mrcnn_class_bn{index}"
        x = conv_bn(x, fc_layers_size, side, names)
        if dropout:
            x = Dropout(dropout, index, name=f"mrcnn_class_dropout{index}", dtype=policy)(x)
    count = rois.shape[1] if rois.shape[1] is not None else -1
    shared = KL.Reshape((count, fc_layers_size), name="pool_squeeze", dtype="float32")(x)
    logits = KL.Dense(num_classes, name="mrcnn_class_logits", dtype="float32")(shared)
    probs = KL.Activation("softmax", name="mrcnn_class", dtype="float32")(logits)
    deltas = KL.Dense(4 * num_classes, name="mrcnn_bbox_fc", dtype="float32")(shared)
    deltas = KL.Reshape((count, num_classes, 4), name="mrcnn_bbox", dtype="float32")(deltas)
    return logits, probs, deltas


def build_fpn_mask_graph(
    rois: KerasTensor,
    feature_maps: Sequence[KerasTensor],
    image_meta: KerasTensor,
    pool_size: int,
    num_classes: int,
    train_bn: bool | None = True,
    channels: int = 256,
    dtype: str = "float32",
) -> KerasTensor:
    """Mask head: four 3x3 convolutions, a doubling of the size, one mask for each class.

    Arguments as of `fpn_classifier_graph`; channels are those of the convolutions. Returns the
    probabilities, [B, N, 2 * pool_size, 2 * pool_size, C] float32.
    """
    conv_bn, policy = ConvBn(train_bn, dtype), policy_for(dtype)
    align = PyramidROIAlign([pool_size, pool_size], name="roi_align_mask", dtype=policy)
    x = align([rois, image_meta, *feature_maps])
    for index in (1, 2, 3, 4):
        names = f"mrcnn_mask_conv{index}", f"mrcnn_mask_bn{index}"
        x = conv_bn(x, channels, 3, names, padding="same")
    x = Conv2DTranspose(
        channels, 2, strides=2, activation="relu", name="mrcnn_mask_deconv", dtype=policy
    )(x)
    return MaskProbability(num_classes, 1, name="mrcnn_mask", dtype=policy)(x)


def apply_mask_head(
    model: keras.Model, rois: tf.Tensor, image_meta: tf.Tensor, feature_maps: Sequence[tf.Tensor]
) -> tf.Tensor:
    """The mask head of a built model on other RoIs than its own.

    The tensors are those of `build_fpn_mask_graph`; N may be unknown while the graph is traced.
    """
    layer = model.get_layer
    x = layer("roi_align_mask")([rois, image_meta, *feature_maps])
    for index in (1, 2, 3, 4):
        x = layer(f"mrcnn_mask_conv{index}")(x)
        x = tf.nn.relu(layer(f"mrcnn_mask_bn{index}")(x, training=False))
    return layer("mrcnn_mask")(layer("mrcnn_mask_deconv")(x))


class MaskProbability(Conv2D):
    """Convolution in the compute dtype, its sigmoid in float32: the loss needs 1 - p."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(tf.cast(super().call(inputs), tf.float32))

    def compute_output_spec(self, inputs: KerasTensor) -> KerasTensor:
        return KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")


class DetectionLayer(Layer):
    """Heads' outputs -> final detections.

    Inputs: rois [B, N, 4], probabilities [B, N, C], deltas [B, N, C, 4] (divided by
    BBOX_STD_DEV), image_meta [B, M].
    Output: [B, D, (y1, x1, y2, x2, class id, score)] float32, best first, zero-padded. Boxes
    without area, and those with a number that isn't finite, are left out.

    Args:
        config: gives the values of all other arguments (DETECTION_..., BBOX_STD_DEV and
            NMS_REPEAT_EMPTY_BOXES).
    """

    fields = (
        *("max_instances", "min_confidence", "nms_threshold", "bbox_std_dev", "per_class"),
        "repeat_empty",
    )

    def __init__(
        self,
        config: Config | None = None,
        max_instances: int = 100,
        min_confidence: float | None = 0.7,
        nms_threshold: float = 0.3,
        bbox_std_dev: Sequence[float] | np.ndarray = (0.1, 0.1, 0.2, 0.2),
        per_class: bool = False,
        repeat_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if config is not None:
            # getattr: configurations written for matterport's package lack them.
            per_class = getattr(config, "DETECTION_PER_CLASS", False)
            repeat_empty = getattr(config, "NMS_REPEAT_EMPTY_BOXES", False)
            max_instances = config.DETECTION_MAX_INSTANCES
            min_confidence = config.DETECTION_MIN_CONFIDENCE
            nms_threshold, bbox_std_dev = config.DETECTION_NMS_THRESHOLD, config.BBOX_STD_DEV
        self.max_instances, self.min_confidence = int(max_instances), float(min_confidence or 0)
        self.nms_threshold = float(nms_threshold)
        self.bbox_std_dev = [float(v) for v in np.asarray(bbox_std_dev)]
        self.per_class, self.repeat_empty = bool(per_class), bool(repeat_empty)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        rois, probs, deltas, meta = inputs
        parts = parse_image_meta_graph(meta)
        # Every image of a batch has the molded shape of the first.
        windows = norm_boxes_graph(parts["window"], parts["image_shape"][0, :2])
        return map_batch(self.refine, [rois, probs, deltas, windows])

    def refine(
        self, rois: tf.Tensor, probs: tf.Tensor, deltas: tf.Tensor, window: tf.Tensor
    ) -> tf.Tensor:
        """One image's detections, [D, 6]; window: [(y1, x1, y2, x2)] of the real image."""
        rows, class_ids = self._candidates(probs)
        scores = tf.gather_nd(probs, tf.stack([rows, class_ids], axis=1))
        deltas = tf.gather_nd(deltas, tf.stack([rows, class_ids], axis=1)) * self.bbox_std_dev
        boxes = clip_boxes_graph(apply_box_deltas_graph(tf.gather(rois, rows), deltas), window)
        wanted = (class_ids > 0) & (scores >= self.min_confidence) & tf.math.is_finite(scores)
        if not self.repeat_empty:
            wanted &= has_area(boxes)
        kept = self._suppress(boxes, tf.where(wanted, scores, -1.0), class_ids)
        columns = [boxes, tf.cast(class_ids, tf.float32)[:, None], scores[:, None]]
        detections = tf.gather(tf.concat(columns, axis=1), kept)
        return pad_rows(tf.ensure_shape(detections, [None, 6]), self.max_instances)

    def _candidates(self, probs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Which RoIs and which of their classes may become detections, int32 [N] each."""
        count, classes = tf.shape(probs)[0], tf.shape(probs)[1]
        if not self.per_class:
            return tf.range(count), tf.argmax(probs, axis=1, output_type=tf.int32)
        # As many as there are RoIs: those that fall out would hardly be among the best.
        best = tf.math.top_k(tf.reshape(probs[:, 1:], [-1]), count).indices
        return best // (classes - 1), best % (classes - 1) + 1

    def _suppress(self, boxes: tf.Tensor, scores: tf.Tensor, class_ids: tf.Tensor) -> tf.Tensor:
        """Indices kept, best first. Boxes of different classes don't suppress each other, so
        one pass over IoU masked by class equals one pass for each class."""
        iou = overlaps_graph(boxes, boxes)
        iou = tf.where(tf.math.is_finite(iou), iou, 0.0)
        if self.repeat_empty:
            # In the original's NMS a box without area (cut off at the window's edge) isn't
            # suppressed itself, but suppresses all that come after it (see rpn._repeat_empty).
            iou = tf.where(box_areas(boxes)[None, :] <= 0, 1.0, iou)  # [candidate, kept before]
        iou = tf.where(class_ids[:, None] == class_ids[None, :], iou, 0.0)
        return tf.image.non_max_suppression_overlaps(
            iou, scores, self.max_instances, self.nms_threshold, score_threshold=-0.5
        )

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return (input_shape[0][0], self.max_instances, 6)


def refine_detections_graph(
    rois: tf.Tensor, probs: tf.Tensor, deltas: tf.Tensor, window: tf.Tensor, config: Config
) -> tf.Tensor:
    """`DetectionLayer` for one image, in matterport's signature."""
    return DetectionLayer(config).refine(rois, probs, deltas, window)


def mrcnn_class_loss_graph(
    target_class_ids: tf.Tensor,
    pred_class_logits: tf.Tensor,
    active_class_ids: tf.Tensor,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """Mean cross-entropy of the class head.

    RoIs whose predicted class isn't among the image's active classes (those of its data
    source) don't count; the batch's first image decides. Zero-padded RoIs count as
    background.

    Args:
        target_class_ids: [B, N] int.
        pred_class_logits: [B, N, C] float32.
        active_class_ids: [B, C], 1 where active.
        label_smoothing: share of each RoI's label that is spread evenly over the active classes,
            background among them (Szegedy et al., arXiv:1512.00567, section 7).
    """
    is_active = tf.cast(active_class_ids[0], tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.cast(target_class_ids, tf.int64), logits=pred_class_logits
    )
    if label_smoothing:
        evenly = tf.math.divide_no_nan(is_active, tf.reduce_sum(is_active))
        even = -tf.linalg.matvec(tf.nn.log_softmax(pred_class_logits), evenly)
        losses += label_smoothing * (even - losses)
    counts = tf.gather(is_active, tf.argmax(pred_class_logits, axis=2))
    return tf.math.divide_no_nan(tf.reduce_sum(losses * counts), tf.reduce_sum(counts))


def mrcnn_bbox_loss_graph(
    target_bbox: tf.Tensor, target_class_ids: tf.Tensor, pred_bbox: tf.Tensor
) -> tf.Tensor:
    """Mean smooth L1 of the deltas of each positive RoI's own class; 0 without any.

    target_bbox: [B, N, 4]; target_class_ids: [B, N] int; pred_bbox: [B, N, C, 4].
    """
    ids = tf.cast(target_class_ids, tf.int32)
    own = tf.gather(pred_bbox, tf.maximum(ids, 0), batch_dims=2)
    return masked_mean(smooth_l1_loss(target_bbox, own), (ids > 0)[..., None])


def mrcnn_mask_loss_graph(
    target_masks: tf.Tensor, target_class_ids: tf.Tensor, pred_masks: tf.Tensor
) -> tf.Tensor:
    """Mean binary cross-entropy of the mask of each positive RoI's own class; 0 without any.

    target_masks: [B, N, h, w] float32 of 0 and 1; target_class_ids: [B, N] int;
    pred_masks: [B, N, h, w, C] float32, probabilities.
    """
    epsilon = keras.config.epsilon()
    probs, is_positive = _own_masks(pred_masks, target_class_ids)
    probs = tf.clip_by_value(probs, epsilon, 1.0 - epsilon)
    losses = -(target_masks * tf.math.log(probs) + (1.0 - target_masks) * tf.math.log(1.0 - probs))
    return masked_mean(losses, is_positive[..., None, None])


def mrcnn_edge_loss_graph(
    target_masks: tf.Tensor, target_class_ids: tf.Tensor, pred_masks: tf.Tensor
) -> tf.Tensor:
    """Edge agreement: how well the edges of the mask of each positive RoI's own class fit.

    Mean squared difference of the Sobel gradients, across and down, of the predicted
    probabilities and the true mask; border pixels, which lack neighbours, don't count
    (Zimmermann and Siems, arXiv:1809.07069, with p = 2 and no smoothing). Arguments as of
    `mrcnn_mask_loss_graph`; 0 without positive RoIs.
    """
    probs, is_positive = _own_masks(pred_masks, target_class_ids)
    # Filtering is linear: the difference of the edges is the edge of the difference.
    difference = probs - target_masks
    shape = tf.shape(difference)
    flat = tf.reshape(difference, tf.concat([[-1], shape[2:], [1]], axis=0))
    across = tf.constant([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = tf.stack([across, tf.transpose(across)], axis=-1)[:, :, None, :]
    edges = tf.nn.conv2d(flat, kernels, 1, "VALID")
    per_roi = tf.reshape(tf.reduce_mean(tf.square(edges), axis=[1, 2, 3]), shape[:2])
    return masked_mean(per_roi, is_positive)


def _own_masks(masks: tf.Tensor, class_ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of masks [B, N, h, w, C] those of the RoIs' own classes, and which RoIs are positive."""
    ids = tf.cast(class_ids, tf.int32)
    own = tf.one_hot(tf.maximum(ids, 0), tf.shape(masks)[-1])[:, :, None, None, :]
    return tf.reduce_sum(masks * own, axis=-1), ids > 0

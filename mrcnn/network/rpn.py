"""Region proposal network: its head, the proposals made from it, and its two losses.

B is the batch size, A the number of anchors over all pyramid levels (level by level, row by
row, ratio fastest), N a number of proposals. Boxes are (y1, x1, y2, x2) normalised.
Source: Ren et al., Faster R-CNN (arXiv:1506.01497), section 3.1.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor
from keras import layers as KL

from mrcnn.config import Config
from mrcnn.network.layers import Conv2D, Layer, Shape, policy_for
from mrcnn.network.tensor_ops import (
    apply_box_deltas_graph,
    box_areas,
    clip_boxes_graph,
    has_area,
    map_batch,
    masked_mean,
    non_zero_rows,
    pad_rows,
    smooth_l1_loss,
)


def build_rpn_model(
    anchor_stride: int,
    anchors_per_location: int,
    depth: int,
    channels: int = 512,
    dtype: str = "float32",
) -> keras.Model:
    """The RPN head as one model that runs on every pyramid level, [B, H, W, depth].

    See `rpn_graph` for the other arguments and the outputs.
    """
    feature_map = KL.Input((None, None, depth), name="input_rpn_feature_map", dtype=dtype)
    outputs = rpn_graph(feature_map, anchors_per_location, anchor_stride, channels, dtype)
    return keras.Model(feature_map, outputs, name="rpn_model")


def rpn_graph(
    feature_map: KerasTensor,
    anchors_per_location: int,
    anchor_stride: int,
    channels: int = 512,
    dtype: str = "float32",
) -> list[KerasTensor]:
    """The RPN head's layers on one feature map.

    Args:
        feature_map: [B, H, W, depth].
        anchors_per_location: number of anchor ratios.
        anchor_stride: 1 for anchors at every cell, 2 at every other.
        channels: of the shared 3x3 convolution.
        dtype: compute dtype; the outputs are float32.

    Returns:
        logits [B, H*W*ratios, (bg, fg)], their softmax, and
        deltas [B, H*W*ratios, (dy, dx, log(dh), log(dw))].
    """
    policy = policy_for(dtype)
    options = {"padding": "same", "activation": "relu", "strides": anchor_stride}
    shared = Conv2D(channels, 3, name="rpn_conv_shared", dtype=policy, **options)(feature_map)

    def per_anchor(name: str, values: int) -> KerasTensor:
        x = Conv2D(values * anchors_per_location, 1, name=name, dtype=policy)(shared)
        return KL.Reshape((-1, values), dtype="float32")(x)

    logits = per_anchor("rpn_class_raw", 2)
    probs = KL.Activation("softmax", name="rpn_class_xxx", dtype="float32")(logits)
    deltas = per_anchor("rpn_bbox_pred", 4)
    return [logits, probs, deltas]


class ProposalLayer(Layer):
    """Anchors and RPN outputs -> the best boxes after non-maximum suppression.

    Inputs: rpn_probs [B, A, (bg, fg)], rpn_bbox [B, A, (dy, dx, log(dh), log(dw))] (divided by
    RPN_BBOX_STD_DEV), anchors [B, A, (y1, x1, y2, x2)].
    Output: [B, proposal_count, (y1, x1, y2, x2)], zero-padded, best first. Boxes without area,
    and those with a score or number that isn't finite, are left out.

    Args:
        proposal_count: boxes kept after NMS.
        nms_threshold: IoU above which the lower-scoring box goes.
        config: gives PRE_NMS_LIMIT, RPN_BBOX_STD_DEV and NMS_REPEAT_EMPTY_BOXES in place of the
            other arguments.
    """

    fields = ("proposal_count", "nms_threshold", "pre_nms_limit", "bbox_std_dev", "repeat_empty")

    def __init__(
        self,
        proposal_count: int,
        nms_threshold: float,
        config: Config | None = None,
        pre_nms_limit: int = 6000,
        bbox_std_dev: Sequence[float] | np.ndarray = (0.1, 0.1, 0.2, 0.2),
        repeat_empty: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if config is not None:
            pre_nms_limit, bbox_std_dev = config.PRE_NMS_LIMIT, config.RPN_BBOX_STD_DEV
            # getattr: configurations written for matterport's package lack it.
            repeat_empty = getattr(config, "NMS_REPEAT_EMPTY_BOXES", False)
        self.proposal_count = int(proposal_count)
        self.nms_threshold = float(nms_threshold)
        self.pre_nms_limit = int(pre_nms_limit)
        self.bbox_std_dev = [float(v) for v in np.asarray(bbox_std_dev)]
        self.repeat_empty = bool(repeat_empty)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        probs, deltas, anchors = inputs
        scores = probs[:, :, 1]
        scores = tf.where(tf.math.is_finite(scores), scores, -1.0)
        limit = tf.minimum(self.pre_nms_limit, tf.shape(anchors)[1])
        scores, order = tf.math.top_k(scores, limit)
        # The anchors of one image may stand for the whole batch.
        anchors = tf.broadcast_to(anchors, tf.shape(deltas))
        anchors = tf.gather(anchors, order, batch_dims=1)
        deltas = tf.gather(deltas, order, batch_dims=1) * self.bbox_std_dev
        boxes = apply_box_deltas_graph(anchors, deltas)
        boxes = clip_boxes_graph(boxes, tf.constant([0.0, 0.0, 1.0, 1.0]))
        return map_batch(self._suppress, [boxes, scores])

    def _suppress(self, boxes: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
        if not self.repeat_empty:
            scores = tf.where(has_area(boxes), scores, -1.0)
        kept = tf.image.non_max_suppression(
            boxes,
            scores,
            self.proposal_count,
            self.nms_threshold,
            score_threshold=-0.5,
            name="rpn_non_max_suppression",
        )
        boxes = pad_rows(tf.ensure_shape(tf.gather(boxes, kept), [None, 4]), self.proposal_count)
        return _repeat_empty(boxes) if self.repeat_empty else boxes

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return (input_shape[0][0], self.proposal_count, 4)


def _repeat_empty(boxes: tf.Tensor) -> tf.Tensor:
    """Boxes [N, 4] as the original's NMS gives them where one has no area.

    That NMS drops a box that it has taken by its overlap with itself. A box without area (an
    anchor moved out of the image) has none, so it is taken again until the output is full.
    """
    count = boxes.shape[0]
    is_box = non_zero_rows(boxes)
    places = tf.where(is_box & (box_areas(boxes) <= 0), tf.range(count), count)
    return tf.gather(boxes, tf.minimum(tf.range(count), tf.reduce_min(places)))


def rpn_class_loss_graph(rpn_match: tf.Tensor, rpn_class_logits: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of object against background over the anchors that take part, or 0.

    Args:
        rpn_match: [B, A, 1] int: 1 object, -1 background, 0 left out.
        rpn_class_logits: [B, A, (bg, fg)] float32.
    """
    match = tf.squeeze(rpn_match, -1)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.cast(tf.equal(match, 1), tf.int32), logits=rpn_class_logits
    )
    return masked_mean(losses, tf.not_equal(match, 0))


def rpn_bbox_loss_graph(
    config: Any, target_bbox: tf.Tensor, rpn_match: tf.Tensor, rpn_bbox: tf.Tensor
) -> tf.Tensor:
    """Mean smooth L1 of the deltas at the anchors that match an object; 0 without any.

    Args:
        config: unused; in matterport's signature.
        target_bbox: [B, T, 4], row i of an image belongs to its i-th positive anchor.
        rpn_match: [B, A, 1] int: 1 object, -1 background, 0 left out.
        rpn_bbox: [B, A, 4] float32.
    """
    del config
    positive = tf.equal(tf.squeeze(rpn_match, -1), 1)
    row = tf.cumsum(tf.cast(positive, tf.int32), axis=1) - 1
    row = tf.clip_by_value(row, 0, tf.shape(target_bbox)[1] - 1)
    target = tf.gather(tf.cast(target_bbox, tf.float32), row, batch_dims=1)
    return masked_mean(smooth_l1_loss(target, rpn_bbox), positive[..., None])

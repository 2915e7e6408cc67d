"""Region proposal network: its head, the proposals made from it, and its two losses.

B is the batch size, A the number of anchors over all pyramid levels (level by level, row by
row, ratio fastest), N a number of proposals. Boxes are (y1, x1, y2, x2) normalised.
Source: Ren et al., Faster R-CNN (arXiv:1506.01497), section 3.1.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers as KL

from mrcnn.network.layers import Conv2D, policy_for
from mrcnn.network.tensor_ops import (
    apply_box_deltas_graph,
    box_areas,
    clip_boxes_graph,
    map_batch,
    pad_rows,
    smooth_l1_loss,
)


def build_rpn_model(anchor_stride, anchors_per_location, depth, channels=512, dtype="float32"):
    """The RPN head, one model that runs on every pyramid level.

    Args:
        anchor_stride: 1 for anchors at every cell, 2 at every other.
        anchors_per_location: number of anchor ratios.
        depth: channels of the feature map.
        channels: of the shared 3x3 convolution.
        dtype: compute dtype; the outputs are float32.

    Returns:
        keras.Model: [B, H, W, depth] -> [logits [B, H*W*ratios, (bg, fg)], their softmax,
        deltas [B, H*W*ratios, (dy, dx, log(dh), log(dw))]].
    """
    feature_map = KL.Input((None, None, depth), name="input_rpn_feature_map", dtype=dtype)
    outputs = rpn_graph(feature_map, anchors_per_location, anchor_stride, channels, dtype)
    return keras.Model(feature_map, outputs, name="rpn_model")


def rpn_graph(feature_map, anchors_per_location, anchor_stride, channels=512, dtype="float32"):
    """The RPN head's layers on one feature map, a keras tensor; see `build_rpn_model`."""
    policy = policy_for(dtype)
    shared = Conv2D(
        channels,
        3,
        padding="same",
        activation="relu",
        strides=anchor_stride,
        name="rpn_conv_shared",
        dtype=policy,
    )(feature_map)

    def per_anchor(name, values):
        x = Conv2D(values * anchors_per_location, 1, name=name, dtype=policy)(shared)
        return KL.Reshape((-1, values), dtype="float32")(x)

    logits = per_anchor("rpn_class_raw", 2)
    probs = KL.Activation("softmax", name="rpn_class_xxx", dtype="float32")(logits)
    deltas = per_anchor("rpn_bbox_pred", 4)
    return [logits, probs, deltas]


class ProposalLayer(KL.Layer):
    """Anchors and RPN outputs -> the best boxes after non-maximum suppression.

    Inputs: rpn_probs [B, A, (bg, fg)], rpn_bbox [B, A, (dy, dx, log(dh), log(dw))] (divided by
    RPN_BBOX_STD_DEV), anchors [B, A, (y1, x1, y2, x2)].
    Output: [B, proposal_count, (y1, x1, y2, x2)], zero-padded, best first.

    Args:
        proposal_count: boxes kept after NMS.
        nms_threshold: IoU above which the lower-scoring box goes.
        config: a `Config` to take PRE_NMS_LIMIT and RPN_BBOX_STD_DEV from; or give these as
            pre_nms_limit and bbox_std_dev.
    """

    def __init__(
        self,
        proposal_count,
        nms_threshold,
        config=None,
        pre_nms_limit=6000,
        bbox_std_dev=(0.1, 0.1, 0.2, 0.2),
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        if config is not None:
            pre_nms_limit, bbox_std_dev = config.PRE_NMS_LIMIT, config.RPN_BBOX_STD_DEV
        self.proposal_count = int(proposal_count)
        self.nms_threshold = float(nms_threshold)
        self.pre_nms_limit = int(pre_nms_limit)
        self.bbox_std_dev = [float(v) for v in np.asarray(bbox_std_dev)]

    def call(self, inputs):
        probs, deltas, anchors = inputs
        scores = probs[:, :, 1]
        limit = tf.minimum(self.pre_nms_limit, tf.shape(anchors)[1])
        scores, order = tf.math.top_k(scores, limit)
        # An anchor grid of one image may stand for the whole batch.
        anchors = tf.broadcast_to(anchors, tf.shape(deltas))
        anchors = tf.gather(anchors, order, batch_dims=1)
        deltas = tf.gather(deltas, order, batch_dims=1) * self.bbox_std_dev
        boxes = apply_box_deltas_graph(anchors, deltas)
        window = tf.constant([0.0, 0.0, 1.0, 1.0])
        boxes = tf.reshape(clip_boxes_graph(tf.reshape(boxes, [-1, 4]), window), tf.shape(boxes))
        return map_batch(self._suppress, [boxes, scores])

    def _suppress(self, boxes, scores):
        kept = tf.image.non_max_suppression(
            boxes, scores, self.proposal_count, self.nms_threshold, name="rpn_non_max_suppression"
        )
        boxes = tf.ensure_shape(tf.gather(boxes, kept), [None, 4])
        return _repeat_empty(pad_rows(boxes, self.proposal_count))

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.proposal_count, 4)

    def get_config(self):
        return {
            **super().get_config(),
            "proposal_count": self.proposal_count,
            "nms_threshold": self.nms_threshold,
            "pre_nms_limit": self.pre_nms_limit,
            "bbox_std_dev": self.bbox_std_dev,
        }


def _repeat_empty(boxes):
    """Boxes [N, 4] as the original's NMS gives them where one has no area.

    That NMS drops a box that it has taken by its overlap with itself. A box without area (an
    anchor moved out of the image) has none, so it is taken again until the output is full.
    """
    count = boxes.shape[0]
    is_box = tf.reduce_any(tf.not_equal(boxes, 0), axis=-1)
    places = tf.where(is_box & (box_areas(boxes) <= 0), tf.range(count), count)
    return tf.gather(boxes, tf.minimum(tf.range(count), tf.reduce_min(places)))


def rpn_class_loss_graph(rpn_match, rpn_class_logits):
    """Cross-entropy of object against background over the anchors that take part.

    Args:
        rpn_match: [B, A, 1] int: 1 object, -1 background, 0 left out.
        rpn_class_logits: [B, A, (bg, fg)] float32.

    Returns:
        scalar float32, the mean; 0 if no anchor takes part.
    """
    match = tf.squeeze(rpn_match, -1)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.cast(tf.equal(match, 1), tf.int32), logits=rpn_class_logits
    )
    return masked_mean(losses, tf.not_equal(match, 0))


def rpn_bbox_loss_graph(config, target_bbox, rpn_match, rpn_bbox):
    """Smooth L1 of the deltas at the anchors that match an object.

    Args:
        config: unused; in matterport's signature.
        target_bbox: [B, T, 4], row i of an image belongs to its i-th positive anchor.
        rpn_match: [B, A, 1] int: 1 object, -1 background, 0 left out.
        rpn_bbox: [B, A, 4] float32.

    Returns:
        scalar float32, the mean over matched anchors and the four deltas; 0 without any.
    """
    del config
    positive = tf.equal(tf.squeeze(rpn_match, -1), 1)
    row = tf.cumsum(tf.cast(positive, tf.int32), axis=1) - 1
    row = tf.clip_by_value(row, 0, tf.shape(target_bbox)[1] - 1)
    target = tf.gather(tf.cast(target_bbox, tf.float32), row, batch_dims=1)
    return masked_mean(smooth_l1_loss(target, rpn_bbox), positive[..., None])


def masked_mean(values, mask):
    """Mean of the values where mask (broadcast over values) holds; 0 where it never does.

    A weighted sum over all values, so that shapes stay static.
    """
    mask = tf.broadcast_to(mask, tf.shape(values))
    total = tf.reduce_sum(tf.where(mask, values, 0.0))
    return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(mask, tf.float32)))

"""The two models: one that trains, one that detects.

They share their layers' names and weights, not the objects. Shapes: B batch, A anchors,
G = MAX_GT_INSTANCES, T = TRAIN_ROIS_PER_IMAGE, D = DETECTION_MAX_INSTANCES, C classes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor
from keras import layers as KL

from mrcnn.config import Config
from mrcnn.core.boxes import norm_boxes, pyramid_anchors
from mrcnn.core.files import PathLike
from mrcnn.network import weights
from mrcnn.network.backbone import build_backbone, fpn_graph
from mrcnn.network.heads import (
    DetectionLayer,
    build_fpn_mask_graph,
    fpn_classifier_graph,
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
)
from mrcnn.network.layers import Layer, Shape, fold_batch_norms, resolve_dtype
from mrcnn.network.roi import DetectionTargetLayer, max_positive_rois
from mrcnn.network.rpn import (
    ProposalLayer,
    build_rpn_model,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
)
from mrcnn.network.tensor_ops import norm_boxes_graph, parse_image_meta_graph

Tensors = Sequence[KerasTensor]
HeadSizes = tuple[int, int, bool | None, int, str]


class Network(keras.Model):
    """A functional model that reads and writes weights in matterport's HDF5 layout.

    Attributes:
        filled: names of the layers that `load_weights` has filled.
    """

    filled: frozenset[str] = frozenset()

    def save_weights(self, filepath: PathLike, overwrite: bool = True, **attributes: Any) -> None:
        """Writes all weights; see `weights.save`."""
        weights.save(self, filepath, overwrite=overwrite, **attributes)

    def load_weights(
        self, filepath: PathLike, by_name: bool = False, exclude: Iterable[str] = (), **_: Any
    ) -> weights.LoadReport:
        """Reads weights; see `weights.load`."""
        report = weights.load(self, filepath, by_name=by_name, exclude=exclude)
        self.filled |= frozenset(report.loaded)
        return report


class NormBoxes(Layer):
    """Boxes [B, N, 4] of any numeric dtype, in pixels of an image [B, H, W, c] -> normalised."""

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        boxes, image = inputs
        return norm_boxes_graph(boxes, tf.shape(image)[1:3])

    def compute_output_spec(self, inputs: Tensors) -> KerasTensor:
        return KerasTensor(inputs[0].shape, dtype="float32")


class Anchors(Layer):
    """The anchors of an image [B, H, W, channels]: [1, A, (y1, x1, y2, x2)] normalised.

    Args:
        scales, ratios, strides, anchor_stride: as in `Config`.
        shapes: f(image_shape) -> [levels, (height, width)], for backbones of one's own.
    """

    fields = ("scales", "ratios", "strides", "anchor_stride", "shapes")

    def __init__(
        self,
        scales: Sequence[float],
        ratios: Sequence[float],
        strides: Sequence[int],
        anchor_stride: int,
        shapes: Callable[[Sequence[int]], np.ndarray] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scales, self.ratios = [float(s) for s in scales], [float(r) for r in ratios]
        self.strides, self.anchor_stride = [int(s) for s in strides], int(anchor_stride)
        self.shapes = shapes

    def call(self, image: tf.Tensor) -> tf.Tensor:
        side = tuple(image.shape[1:3])
        if None in side:
            raise ValueError(
                "the training model got images of unknown size; trace it for a fixed shape"
            )
        grid = self.scales, self.ratios, self.strides, self.anchor_stride
        shapes = self.shapes(side) if self.shapes else None
        anchors = pyramid_anchors(side, *grid, shapes=shapes)
        return tf.constant(norm_boxes(anchors, side)[None], tf.float32)

    def compute_output_spec(self, image: KerasTensor) -> KerasTensor:
        return KerasTensor((1, None, 4), dtype="float32")


class PadRois(Layer):
    """[B, n, ...] -> [B, count, ...], zeros appended."""

    fields = ("count",)

    def __init__(self, count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = int(count)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        rest = [[0, 0]] * (inputs.shape.rank - 2)
        return tf.pad(inputs, [[0, 0], [0, self.count - inputs.shape[1]], *rest])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.count, *input_shape[2:])


LOSSES: dict[str, Callable[..., tf.Tensor]] = {
    "rpn_class_loss": rpn_class_loss_graph,
    "rpn_bbox_loss": lambda *args: rpn_bbox_loss_graph(None, *args),
    "mrcnn_class_loss": mrcnn_class_loss_graph,
    "mrcnn_bbox_loss": mrcnn_bbox_loss_graph,
    "mrcnn_mask_loss": mrcnn_mask_loss_graph,
}


class LossLayer(Layer):
    """One of the five losses as a layer; its inputs are the loss function's arguments.

    Args:
        loss: a key of `LOSSES`; also the layer's name.
        options: further arguments of the loss function.
    """

    fields = ("loss", "options")

    def __init__(self, loss: str, options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**{"name": loss, **kwargs})
        self.loss, self.options = loss, dict(options or {})

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        return LOSSES[self.loss](*inputs, **self.options)

    def compute_output_spec(self, inputs: Tensors) -> KerasTensor:
        return KerasTensor((), dtype="float32")


def _pyramid_and_rpn(
    image: KerasTensor, config: Config, dtype: str
) -> tuple[list[KerasTensor], list[KerasTensor]]:
    """P2..P5 for the heads, and the RPN's outputs over P2..P6, concatenated."""
    _, *c_maps = build_backbone(image, config, dtype)
    maps = fpn_graph(c_maps, config.TOP_DOWN_PYRAMID_SIZE, dtype)
    rpn = build_rpn_model(
        config.RPN_ANCHOR_STRIDE,
        len(config.RPN_ANCHOR_RATIOS),
        config.TOP_DOWN_PYRAMID_SIZE,
        config.RPN_CONV_CHANNELS,
        dtype,
    )
    levels = zip(*(rpn(m) for m in maps), strict=True)
    names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
    outputs = [
        KL.Concatenate(axis=1, name=name, dtype="float32")(list(parts))
        for name, parts in zip(names, levels, strict=True)
    ]
    return maps[:4], outputs


def _class_head(config: Config, dtype: str) -> HeadSizes:
    """The arguments of `fpn_classifier_graph` from pool_size to dtype."""
    width = config.FPN_CLASSIF_FC_LAYERS_SIZE
    return config.POOL_SIZE, config.NUM_CLASSES, config.TRAIN_BN, width, dtype


def _mask_head(config: Config, dtype: str) -> HeadSizes:
    """The arguments of `build_fpn_mask_graph` from pool_size to dtype."""
    width = config.MASK_CONV_CHANNELS
    return config.MASK_POOL_SIZE, config.NUM_CLASSES, config.TRAIN_BN, width, dtype


def build_inference_model(config: Config) -> Network:
    """The detector.

    Inputs: input_image [B, H, W, channels] molded, input_image_meta [B, M], input_anchors
    [B or 1, A, 4] normalised.
    Outputs: detections [B, D, (y1, x1, y2, x2, class id, score)], mrcnn_class [B, N, C],
    mrcnn_bbox [B, N, C, 4], mrcnn_mask [B, D, h, w, C], rpn_rois [B, N, 4],
    rpn_class [B, A, 2], rpn_bbox [B, A, 4].
    """
    dtype = resolve_dtype(config.COMPUTE_DTYPE)
    image = KL.Input((None, None, config.IMAGE_CHANNEL_COUNT), name="input_image")
    meta = KL.Input((config.IMAGE_META_SIZE,), name="input_image_meta")
    anchors = KL.Input((None, 4), name="input_anchors")
    maps, (_, rpn_class, rpn_bbox) = _pyramid_and_rpn(image, config, dtype)
    rois = ProposalLayer(
        config.POST_NMS_ROIS_INFERENCE, config.RPN_NMS_THRESHOLD, config, name="ROI"
    )([rpn_class, rpn_bbox, anchors])
    _, probs, deltas = fpn_classifier_graph(rois, maps, meta, *_class_head(config, dtype))
    detections = DetectionLayer(config, name="mrcnn_detection")([rois, probs, deltas, meta])
    masks = build_fpn_mask_graph(detections[..., :4], maps, meta, *_mask_head(config, dtype))
    outputs = [detections, probs, deltas, masks, rois, rpn_class, rpn_bbox]
    return _finish([image, meta, anchors], outputs)


def build_training_model(config: Config) -> Network:
    """The model whose outputs end with the five losses.

    Inputs: input_image [B, H, W, channels] molded, input_image_meta [B, M], input_rpn_match
    [B, A, 1] int32, input_rpn_bbox [B, anchors that train, 4], input_gt_class_ids [B, G] int32,
    input_gt_boxes [B, G, 4] pixels, input_gt_masks [B, h, w, G] bool; and input_roi
    [B, N, 4] pixels if USE_RPN_ROIS is False.
    Outputs: rpn_class_logits, rpn_class, rpn_bbox, mrcnn_class_logits, mrcnn_class, mrcnn_bbox,
    mrcnn_mask, rpn_rois, output_rois, and the scalars rpn_class_loss, rpn_bbox_loss,
    mrcnn_class_loss, mrcnn_bbox_loss, mrcnn_mask_loss. mrcnn_mask is 0 for RoIs that can't be
    positive: masks are computed where the loss needs them.
    """
    dtype = resolve_dtype(config.COMPUTE_DTYPE)
    image = KL.Input((None, None, config.IMAGE_CHANNEL_COUNT), name="input_image")
    meta = KL.Input((config.IMAGE_META_SIZE,), name="input_image_meta")
    rpn_match = KL.Input((None, 1), name="input_rpn_match", dtype="int32")
    rpn_target = KL.Input((None, 4), name="input_rpn_bbox")
    gt_ids = KL.Input((None,), name="input_gt_class_ids", dtype="int32")
    gt_boxes = KL.Input((None, 4), name="input_gt_boxes")
    mask_shape = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else config.IMAGE_SHAPE[:2]
    gt_masks = KL.Input((*map(int, mask_shape), None), name="input_gt_masks", dtype="bool")
    inputs = [image, meta, rpn_match, rpn_target, gt_ids, gt_boxes, gt_masks]

    maps, (rpn_logits, rpn_class, rpn_bbox) = _pyramid_and_rpn(image, config, dtype)
    anchors = Anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
        config.COMPUTE_BACKBONE_SHAPE if callable(config.BACKBONE) else None,
        name="anchors",
    )(image)
    rpn_rois = ProposalLayer(
        config.POST_NMS_ROIS_TRAINING, config.RPN_NMS_THRESHOLD, config, name="ROI"
    )([rpn_class, rpn_bbox, anchors])
    proposals = rpn_rois
    if not config.USE_RPN_ROIS:
        inputs.append(KL.Input((config.POST_NMS_ROIS_TRAINING, 4), name="input_roi"))
        proposals = NormBoxes(name="norm_rois")([inputs[-1], image])
    targets = DetectionTargetLayer(config, name="proposal_targets")
    rois, target_ids, target_bbox, target_mask = targets(
        [proposals, gt_ids, NormBoxes(name="norm_gt_boxes")([gt_boxes, image]), gt_masks]
    )
    few = max_positive_rois(config.TRAIN_ROIS_PER_IMAGE, config.ROI_POSITIVE_RATIO)
    logits, probs, deltas = fpn_classifier_graph(
        rois, maps, meta, *_class_head(config, dtype), config.HEAD_DROPOUT
    )
    masks = build_fpn_mask_graph(rois[:, :few], maps, meta, *_mask_head(config, dtype))
    loss_inputs = {
        "rpn_class_loss": [rpn_match, rpn_logits],
        "rpn_bbox_loss": [rpn_target, rpn_match, rpn_bbox],
        "mrcnn_class_loss": [target_ids, logits, parse_image_meta_graph(meta)["active_class_ids"]],
        "mrcnn_bbox_loss": [target_bbox, target_ids, deltas],
        "mrcnn_mask_loss": [target_mask[:, :few], target_ids[:, :few], masks],
    }
    options = {"mrcnn_class_loss": {"label_smoothing": config.LABEL_SMOOTHING}}
    losses = [LossLayer(name, options.get(name))(v) for name, v in loss_inputs.items()]
    all_masks = PadRois(config.TRAIN_ROIS_PER_IMAGE, name="mrcnn_mask_padded")(masks)
    output_rois = KL.Identity(name="output_rois")(rois)
    outputs = [rpn_logits, rpn_class, rpn_bbox, logits, probs, deltas, all_masks]
    return _finish(inputs, [*outputs, rpn_rois, output_rois, *losses])


def _finish(inputs: Tensors, outputs: Tensors) -> Network:
    model = Network(inputs, outputs, name="mask_rcnn")
    fold_batch_norms(model)
    return model

"""The two models as a whole, on a small backbone; and the layers that only they need."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn.core.boxes import config_anchors, norm_boxes
from mrcnn.network.build import Anchors, LossLayer, NormBoxes, PadRois
from tests.helpers.shapes import SmallConfig, shapes

pytestmark = pytest.mark.tf


def every_fourth_pixel(image_shape):
    """Map shapes of a backbone of one's own: 2x2 whatever the image."""
    del image_shape
    return np.array([[2, 2]])


@pytest.mark.parametrize(
    "layer",
    [
        PadRois(9, name="pad"),
        NormBoxes(name="norm"),
        Anchors([8, 16], [0.5, 1], [4, 8], 2, name="anchors"),
        LossLayer("mrcnn_class_loss", {"label_smoothing": 0.1}),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_round_trip(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.name, again.compute_dtype) == (layer.name, layer.compute_dtype)


def test_anchors_round_trip_keeps_its_shapes():
    layer = Anchors([8], [1], [4], 1, shapes=every_fourth_pixel)
    again = Anchors.from_config(layer.get_config())
    image = tf.zeros((1, 64, 64, 3))
    np.testing.assert_array_equal(layer(image), again(image))
    # Squares of 8 pixels around (0, 0), (0, 4), (4, 0) and (4, 4), of 63 pixels' distance.
    first, last = layer(image)[0].numpy()[[0, -1]] * 63
    np.testing.assert_allclose(first, [-4, -4, 3, 3], atol=1e-5)
    np.testing.assert_allclose(last, [0, 0, 7, 7], atol=1e-5)


def test_anchors_are_those_of_the_configuration():
    config = SmallConfig()
    layer = Anchors(config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, config.BACKBONE_STRIDES, 1)
    expected = norm_boxes(config_anchors(config, (128, 128, 3)), (128, 128))
    np.testing.assert_array_equal(layer(tf.zeros((1, 128, 128, 3)))[0], expected)
    with pytest.raises(ValueError, match="images of unknown size"):
        layer.call(keras.KerasTensor((1, None, None, 3)))


def test_norm_boxes_and_padding():
    boxes, image = tf.constant([[[0, 0, 11, 21]]]), tf.zeros((1, 11, 21, 3))
    np.testing.assert_allclose(NormBoxes()([boxes, image]), [[[0, 0, 1, 1]]])
    np.testing.assert_array_equal(PadRois(3)(tf.ones((1, 2, 1))), [[[1], [1], [0]]])
    assert PadRois(3)(tf.ones((2, 0, 4, 4))).shape == (2, 3, 4, 4)


def training_batch(config):
    """Inputs of the training model for two images of squares and discs."""
    from mrcnn.model import data_generator

    inputs, _ = next(data_generator(shapes(2), config, shuffle=False, batch_size=2))
    return [tf.convert_to_tensor(x) for x in inputs]


@pytest.mark.parametrize("stop", [False, True])
def test_bbox_loss_reaches_the_rpn_through_its_targets(stop):
    """As in the original: mrcnn_bbox_loss has a path into the RPN, unless it is stopped."""
    from mrcnn.network.build import build_training_model

    keras.utils.set_random_seed(0)
    config = type("C", (SmallConfig,), {"STOP_TARGET_GRADIENT": stop})()
    model = build_training_model(config)
    batch = training_batch(config)
    # Ground truth that proposals overlap well: the five largest, two pixels larger.
    proposals = keras.Model(model.inputs, model.get_layer("ROI").output)(batch).numpy()
    boxes = np.zeros(batch[5].shape)
    for image, found in enumerate(proposals):
        largest = np.argsort(-np.prod(found[:, 2:] - found[:, :2], axis=1))[:5]
        boxes[image, :5] = np.rint(found[largest] * 127) + np.array([0, 0, 3, 3])
    batch[4] = tf.cast(boxes[..., 2] > 0, tf.int32)
    batch[5] = tf.constant(boxes, batch[5].dtype)
    kernel = model.get_layer("rpn_model").get_layer("rpn_bbox_pred").kernel.value
    loss_of = keras.Model(model.inputs, model.get_layer("mrcnn_bbox_loss").output)
    with tf.GradientTape() as tape:
        loss = loss_of(batch, training=False)
    norm = tf.norm(tape.gradient(loss, kernel, unconnected_gradients="zero"))
    assert loss > 0
    assert norm == 0 if stop else norm > 1e-3


def test_one_trace_for_each_input_shape(tmp_path):
    from mrcnn.model import MaskRCNN

    values = {"IMAGE_RESIZE_MODE": "pad64", "IMAGE_MIN_DIM": 64, "IMAGES_PER_GPU": 1}
    model = MaskRCNN("inference", type("C", (SmallConfig,), values)(), str(tmp_path))
    model.random_layers = []
    wide, tall = np.full((60, 120, 3), 90, np.uint8), np.full((120, 60, 3), 90, np.uint8)
    for image in (wide, wide[:, :110], tall, wide, tall):
        model.detect([image])
    assert model.traces == 2

"""Class, box and mask heads, the detections made from them, and their losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn.config import Config
from mrcnn.network.build import LossLayer
from mrcnn.network.heads import (
    DetectionLayer,
    MaskProbability,
    build_fpn_mask_graph,
    fpn_classifier_graph,
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
    refine_detections_graph,
)
from mrcnn.network.layers import fold_batch_norms

pytestmark = pytest.mark.tf


def detection_inputs(golden):
    return [tf.constant(golden[f"detection.{n}"]) for n in ("rois", "probs", "deltas", "meta")]


def detect(rois, classes, scores, window=(0, 0, 101, 101), **options):
    """Detections of one image of 101x101 with four classes and no deltas."""
    rois, count = np.array(rois, np.float32).reshape(-1, 4), len(classes)
    probs = np.zeros((count, 4), np.float32)
    probs[np.arange(count), classes] = scores
    meta = np.zeros(16, np.float32)
    meta[4:7], meta[7:11] = (101, 101, 3), window
    inputs = [rois, probs, np.zeros((count, 4, 4), np.float32), meta]
    return DetectionLayer(**options)([tf.constant(x[None]) for x in inputs]).numpy()[0]


# --- Heads ------------------------------------------------------------------------------------


def head_inputs(dtype="float32", count=5, channels=4):
    rois = keras.Input((count, 4))
    meta = keras.Input((16,))
    maps = [keras.Input((None, None, channels), dtype=dtype) for _ in range(4)]
    return rois, meta, maps


def head_values(dtype="float32", batch=2, count=5, channels=4):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1, (2, batch, count, 2))
    rois = np.concatenate([corners.min(0), corners.max(0)], axis=-1)
    meta = np.zeros((batch, 16))
    meta[:, 4:7] = (64, 64, 3)
    maps = [rng.standard_normal((batch, side, side, channels)) for side in (16, 8, 4, 2)]
    values = [tf.constant(x, tf.float32) for x in (rois, meta)]
    return values + [tf.constant(m, dtype) for m in maps]


def class_head(dtype="float32", train_bn=False):
    rois, meta, maps = head_inputs(dtype)
    outputs = fpn_classifier_graph(rois, maps, meta, 7, 3, train_bn, fc_layers_size=6, dtype=dtype)
    return keras.Model([rois, meta, *maps], outputs)


def mask_head(dtype="float32", train_bn=False):
    rois, meta, maps = head_inputs(dtype)
    masks = build_fpn_mask_graph(rois, maps, meta, 14, 3, train_bn, channels=6, dtype=dtype)
    return keras.Model([rois, meta, *maps], masks)


def weight_shapes(model):
    return {layer.name: tuple(layer.weights[0].shape) for layer in model.layers if layer.weights}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_class_head(dtype):
    model = class_head(dtype)
    logits, probs, deltas = model(head_values(dtype))
    assert logits.shape == probs.shape == (2, 5, 3)
    assert deltas.shape == (2, 5, 3, 4)
    assert {x.dtype for x in (logits, probs, deltas)} == {tf.float32}
    np.testing.assert_allclose(probs, tf.nn.softmax(logits), rtol=1e-5)
    assert weight_shapes(model) == {
        "mrcnn_class_conv1": (7, 7, 4, 6),
        "mrcnn_class_bn1": (6,),
        "mrcnn_class_conv2": (1, 1, 6, 6),
        "mrcnn_class_bn2": (6,),
        "mrcnn_class_logits": (6, 3),
        "mrcnn_bbox_fc": (6, 12),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mask_head(dtype):
    model = mask_head(dtype)
    masks = model(head_values(dtype))
    assert (masks.shape, masks.dtype) == ((2, 5, 28, 28, 3), tf.float32)
    assert masks.numpy().min() > 0 and masks.numpy().max() < 1
    convolutions = {f"mrcnn_mask_conv{i}": (3, 3, 4 if i == 1 else 6, 6) for i in (1, 2, 3, 4)}
    norms = {f"mrcnn_mask_bn{i}": (6,) for i in (1, 2, 3, 4)}
    last = {"mrcnn_mask_deconv": (2, 2, 6, 6), "mrcnn_mask": (1, 1, 6, 3)}
    assert weight_shapes(model) == {**convolutions, **norms, **last}


@pytest.mark.parametrize(("build", "folded"), [(class_head, 2), (mask_head, 4)])
def test_heads_give_the_same_folded(build, folded):
    keras.utils.set_random_seed(0)
    model, values = build(), head_values()
    rng = np.random.default_rng(1)
    for weight in model.weights:
        noise = 0.1 * rng.standard_normal(weight.shape)
        weight.assign(weight + np.abs(noise) if "variance" in weight.name else weight + noise)
    before = keras.tree.flatten(model(values))
    assert fold_batch_norms(model) == folded
    for one, other in zip(before, keras.tree.flatten(model(values)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_heads_take_any_number_of_rois():
    rois, meta, maps = head_inputs(count=None)
    outputs = fpn_classifier_graph(rois, maps, meta, 7, 3, False, fc_layers_size=6)
    model = keras.Model([rois, meta, *maps], outputs)
    for count in (0, 3):
        assert model(head_values(count=count))[2].shape == (2, count, 3, 4)


def test_mask_probability_is_a_sigmoid_in_float32():
    layer = MaskProbability(2, 1, dtype="mixed_bfloat16")
    x = tf.constant(np.linspace(-12, 12, 7).reshape(1, 1, 1, 7, 1), tf.bfloat16)
    layer.build(x.shape)
    layer.set_weights([np.array([1.0, -1.0]).reshape(1, 1, 1, 2), np.zeros(2)])
    out = layer(x)
    assert out.dtype == tf.float32
    expected = tf.sigmoid(tf.cast(x, tf.float32))
    np.testing.assert_allclose(out[..., 0], expected[..., 0], rtol=1e-6)
    assert out.numpy().max() < 1  # bfloat16 would round 1 - 6e-6 to 1


# --- Detections -------------------------------------------------------------------------------


@pytest.mark.parametrize(("confidence", "count"), [(0.7, 100), (0, 100), (0.5, 10)])
def test_golden_detections(golden, confidence, count):
    layer = DetectionLayer(max_instances=count, min_confidence=confidence, repeat_empty=True)
    expected = golden[f"detection.out_conf{confidence}_max{count}"]
    found = layer(detection_inputs(golden))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_detections_of_a_batch_are_those_of_each_image(golden):
    layer, inputs = DetectionLayer(max_instances=40), detection_inputs(golden)
    alone = [layer([x[i : i + 1] for x in inputs]) for i in range(2)]
    np.testing.assert_array_equal(layer(inputs), tf.concat(alone, axis=0))


def test_detections_are_sorted_suppressed_and_padded():
    boxes = [[0.1, 0.1, 0.3, 0.3], [0.1, 0.1, 0.3, 0.31], [0.5, 0.5, 0.9, 0.9], [0, 0, 0.2, 0.1]]
    found = detect(boxes, [1, 1, 2, 3], [0.8, 0.9, 0.95, 0.6], max_instances=5)
    expected = [[0.5, 0.5, 0.9, 0.9, 2, 0.95], [0.1, 0.1, 0.3, 0.31, 1, 0.9]]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-6)
    np.testing.assert_array_equal(found[2:], np.zeros((3, 6)))


def test_two_classes_at_one_place_do_not_suppress_each_other():
    found = detect([[0.1, 0.1, 0.3, 0.3]] * 3, [1, 2, 1], [0.8, 0.9, 0.85])
    np.testing.assert_array_equal(found[:3, 4], [2, 1, 0])
    np.testing.assert_allclose(found[:2, 5], [0.9, 0.85])


def test_detections_obey_the_threshold_of_suppression():
    boxes = [[0, 0, 0.4, 0.4], [0.1, 0, 0.5, 0.4]]  # IoU 0.6
    kept = [
        (detect(boxes, [1, 1], [0.9, 0.8], nms_threshold=t)[:, 5] > 0).sum() for t in (0.55, 0.65)
    ]
    assert kept == [1, 2]


def test_detections_keep_scores_at_the_confidence_but_no_background():
    boxes = [[0, 0, 0.1, 0.1], [0.2, 0.2, 0.3, 0.3], [0.4, 0.4, 0.5, 0.5]]
    found = detect(boxes, [1, 0, 2], [0.5, 0.99, 0.25], min_confidence=0.5)
    np.testing.assert_array_equal(found[:, 4], [1] + [0] * 99)
    np.testing.assert_array_equal(
        detect(boxes, [1, 0, 2], [0.5, 0.99, 0.25], min_confidence=None)[:3, 4], [1, 2, 0]
    )


def test_detections_are_clipped_to_the_real_image():
    found = detect([[0, 0, 1, 1]], [1], [0.9], window=(10, 20, 91, 81))
    np.testing.assert_allclose(found[0, :4], [0.1, 0.2, 0.9, 0.8], rtol=1e-6)


def test_detections_use_the_deltas_of_their_class():
    probs = np.array([[[0.1, 0.2, 0.7]]], np.float32)
    deltas = np.zeros((1, 1, 3, 4), np.float32)
    deltas[0, 0, 1], deltas[0, 0, 2] = 9, [2.0, -1.0, np.log(2) / 0.5, 0.0]
    meta = np.array([[0, 9, 9, 3, 11, 11, 3, 0, 0, 11, 11, 1, 1, 1, 1]], np.float32)
    rois = np.array([[[0.2, 0.2, 0.4, 0.4]]], np.float32)
    layer = DetectionLayer(min_confidence=0.7, bbox_std_dev=(0.25, 0.5, 0.5, 1.0))
    found = layer([rois, probs, deltas, meta])[0, 0]
    np.testing.assert_allclose(found, [0.2, 0.1, 0.6, 0.3, 2, 0.7], rtol=1e-5)


def test_each_class_of_a_roi_may_be_a_detection():
    boxes = [[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.51], [0.6, 0.6, 0.6, 0.9]]
    probs = np.array([[[0.1, 0.5, 0.4], [0.3, 0.4, 0.3], [0, 1, 0]]], np.float32)
    meta = np.array([[0, 9, 9, 3, 11, 11, 3, 0, 0, 11, 11, 1, 1, 1, 1]], np.float32)
    inputs = [np.array([boxes], np.float32), probs, np.zeros((1, 3, 3, 4), np.float32), meta]
    options = {"min_confidence": 0.35, "max_instances": 3}
    single = DetectionLayer(**options)(inputs)[0, :, 4:].numpy()
    np.testing.assert_allclose(single, [[1, 0.5], [0, 0], [0, 0]])
    found = DetectionLayer(per_class=True, **options)(inputs)[0].numpy()
    np.testing.assert_allclose(found[:, 4:], [[1, 0.5], [2, 0.4], [0, 0]])
    np.testing.assert_allclose(found[:2, :4], [boxes[0], boxes[0]])


@pytest.mark.parametrize("boxes", [[[0.1, 0.1, 0.3, 0.3]], [[0, 0, 0, 0]], []])
def test_no_detections_are_all_zero(boxes):
    assert not detect(boxes, [0] * len(boxes), [0.9] * len(boxes)).any()
    below = detect(boxes, [1] * len(boxes), [0.6] * len(boxes))
    assert below.shape == (100, 6) and not below.any()


TWO_FLAT = [[0.5, 0.5, 0.9, 0.9], [0.2, 0.2, 0.2, 0.4], [0.1, 0, 0.1, 1], [0, 0, 0.1, 0.1]]


def test_a_box_without_area_ends_its_class_where_the_switch_asks_for_it():
    # TensorFlow 1.15 puts a kept box back into its queue and relies on the box overlapping
    # itself to be rid of it. One without area is taken again until the output is full.
    boxes, scores = TWO_FLAT + TWO_FLAT[3:], [0.95, 0.9, 0.8, 0.75, 0.7]
    found = detect(boxes, [1, 1, 1, 1, 2], scores, repeat_empty=True)
    np.testing.assert_allclose(found[:4, 5], [0.95, 0.9, 0.7, 0])
    np.testing.assert_array_equal(found[:4, 4], [1, 1, 2, 0])


def test_a_box_without_area_is_left_out():
    found = detect(TWO_FLAT + TWO_FLAT[3:], [1, 1, 1, 1, 2], [0.95, 0.9, 0.8, 0.75, 0.7])
    np.testing.assert_allclose(found[:4, 5], [0.95, 0.75, 0.7, 0])
    np.testing.assert_array_equal(found[:4, 4], [1, 1, 2, 0])
    np.testing.assert_allclose(found[:3, :4], [TWO_FLAT[0], TWO_FLAT[3], TWO_FLAT[3]])
    assert not detect(TWO_FLAT[1:3], [1, 1], [0.9, 0.8]).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_detections_that_are_no_numbers_are_left_out(value, place):
    boxes = np.array([[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.7, 0.7], [0.6, 0.1, 0.9, 0.3]], np.float32)
    probs = np.array([[0, 0.9], [0, 0.8], [0, 0.75]], np.float32)
    inputs = [boxes, probs, np.zeros((3, 2, 4), np.float32)]
    inputs[place][1] = value
    meta = np.array([0, 9, 9, 3, 11, 11, 3, 0, 0, 11, 11, 1, 1, 1], np.float32)
    found = DetectionLayer(max_instances=3)([tf.constant(x[None]) for x in (*inputs, meta)])[0]
    np.testing.assert_allclose(found[:, 5], [0.9, 0.75, 0], rtol=1e-6)
    np.testing.assert_allclose(found[:2, :4], boxes[[0, 2]], rtol=1e-6)


def test_detections_keep_their_static_shape_in_graphs(golden):
    layer, inputs = DetectionLayer(max_instances=30), detection_inputs(golden)
    for batch in (2, None):
        spec = [tf.TensorSpec([batch, *x.shape[1:]]) for x in inputs]
        traced = tf.function(lambda *args: layer(list(args)), input_signature=spec)
        assert traced.get_concrete_function().structured_outputs.shape[1:] == (30, 6)
        np.testing.assert_allclose(traced(*inputs), layer(inputs), atol=1e-6)


def test_refine_detections_graph_reads_a_config(golden):
    config = Config()
    config.DETECTION_MAX_INSTANCES, config.DETECTION_MIN_CONFIDENCE = 7, 0.5
    config.DETECTION_NMS_THRESHOLD, config.BBOX_STD_DEV = 0.4, np.array([1, 2, 3, 4])
    assert not DetectionLayer(config).repeat_empty
    config.NMS_REPEAT_EMPTY_BOXES = True
    layer = DetectionLayer(config)
    assert layer.repeat_empty
    assert (layer.max_instances, layer.min_confidence, layer.nms_threshold) == (7, 0.5, 0.4)
    assert layer.bbox_std_dev == [1.0, 2.0, 3.0, 4.0]
    rois, probs, deltas, _ = (x[0] for x in detection_inputs(golden))
    window = tf.constant([0.0, 0.0, 1.0, 1.0])
    found = refine_detections_graph(rois, probs, deltas, window, config)
    np.testing.assert_array_equal(found, layer.refine(rois, probs, deltas, window))
    assert found.shape == (7, 6)


# --- Losses -----------------------------------------------------------------------------------


def loss_arguments(golden, *names):
    return [tf.constant(golden[f"loss.{name}"]) for name in names]


def test_golden_class_loss(golden):
    arguments = loss_arguments(golden, "target_class_ids", "class_logits", "active_class_ids")
    loss = mrcnn_class_loss_graph(*arguments)
    np.testing.assert_allclose(loss, golden["loss.out_mrcnn_class"], rtol=1e-6)


@pytest.mark.parametrize("case", ["", "_nopos"])
def test_golden_bbox_loss(golden, case):
    target, ids, pred = loss_arguments(golden, "target_bbox", "target_class_ids", "pred_bbox")
    ids = tf.zeros_like(ids) if case else ids
    loss = mrcnn_bbox_loss_graph(target, ids, pred)
    np.testing.assert_allclose(loss, golden[f"loss.out_mrcnn_bbox{case}"], rtol=1e-6)


@pytest.mark.parametrize("case", ["", "_nopos"])
def test_golden_mask_loss(golden, case):
    target, ids, pred = loss_arguments(golden, "target_mask", "target_class_ids", "pred_mask")
    ids = tf.zeros_like(ids) if case else ids
    loss = mrcnn_mask_loss_graph(target, ids, pred)
    np.testing.assert_allclose(loss, golden[f"loss.out_mrcnn_mask{case}"], rtol=1e-6)


def test_class_loss_counts_active_predictions_only():
    logits = np.array([[[0, np.log(3), 0], [0, 0, 9.0]], [[9.0, 0, 0], [0, 0, 8]]], np.float32)
    ids = np.array([[1, 1], [0, 0]])
    active = np.array([[1, 1, 0], [1, 1, 1]])  # the first image's row decides
    expected = (np.log(5 / 3) + np.log(1 + 2 * np.exp(-9))) / 2
    np.testing.assert_allclose(mrcnn_class_loss_graph(ids, logits, active), expected, rtol=1e-5)
    assert mrcnn_class_loss_graph(ids, logits, np.zeros((2, 3))) == 0


def test_smoothed_labels_are_spread_over_the_active_classes():
    logits = np.log([[[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]]).astype(np.float32)
    ids, active = np.array([[1, 1]]), np.array([[1, 1, 0]])
    # A label of 1 becomes 0.1 of background and 0.9 of 1; nothing of 2, which isn't active.
    losses = [-0.1 * np.log(0.5) - 0.9 * np.log(0.3), -0.1 * np.log(0.1) - 0.9 * np.log(0.8)]
    loss = mrcnn_class_loss_graph(ids, logits, active, label_smoothing=0.2)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    layer = LossLayer("mrcnn_class_loss", {"label_smoothing": 0.2})
    np.testing.assert_allclose(layer([ids, logits, active]), loss, rtol=1e-6)
    nothing = mrcnn_class_loss_graph(ids, logits, np.zeros((1, 3)), label_smoothing=0.2)
    assert nothing == 0


def test_bbox_loss_takes_the_deltas_of_the_own_class():
    target = np.array([[[1.0] * 4, [2.0] * 4, [7.0] * 4]], np.float32)
    pred = np.full((1, 3, 3, 4), 50, np.float32)
    pred[0, 0, 2], pred[0, 1, 1] = 1.5, 4.0
    loss = mrcnn_bbox_loss_graph(target, np.array([[2, 1, 0]]), pred)
    np.testing.assert_allclose(loss, (0.125 + 1.5) / 2, rtol=1e-6)


def test_mask_loss_takes_the_mask_of_the_own_class():
    target = np.array([[[[1.0, 0.0]], [[1.0, 1.0]], [[1.0, 1.0]]]], np.float32)
    pred = np.full((1, 3, 1, 2, 3), 0.001, np.float32)
    pred[0, 0, 0, :, 2], pred[0, 1, 0, :, 1] = [0.8, 0.25], [0.5, 1.0]
    loss = mrcnn_mask_loss_graph(target, np.array([[2, 1, 0]]), pred)
    expected = -(np.log(0.8) + np.log(0.75) + np.log(0.5) + np.log(1 - 1e-7)) / 4
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_mask_loss_is_finite_for_certain_errors(certain):
    pred = tf.fill((1, 1, 2, 2, 2), certain)
    loss = mrcnn_mask_loss_graph(tf.fill((1, 1, 2, 2), 1 - certain), np.ones((1, 1), int), pred)
    # float32 knows 1 - 1e-7 as 1 - 1.19e-7.
    np.testing.assert_allclose(loss, -np.log(1e-7 if certain == 0 else 1.19e-7), rtol=1e-3)


def test_losses_without_objects_have_no_nans():
    bbox, masks = tf.Variable(tf.ones((1, 2, 3, 4))), tf.Variable(tf.zeros((1, 2, 4, 4, 3)))
    ids = tf.zeros((1, 2), tf.int32)
    with tf.GradientTape() as tape:
        losses = [
            mrcnn_bbox_loss_graph(tf.zeros((1, 2, 4)), ids, bbox),
            mrcnn_mask_loss_graph(tf.ones((1, 2, 4, 4)), ids, masks),
        ]
        total = tf.add_n(losses)
    assert total == 0
    assert not any(
        tf.convert_to_tensor(g).numpy().any() for g in tape.gradient(total, [bbox, masks])
    )


# --- Layers of the network --------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        DetectionLayer(
            max_instances=5, min_confidence=0.1, nms_threshold=0.2, bbox_std_dev=(1, 2, 3, 4)
        ),
        MaskProbability(3, 1, dtype="mixed_bfloat16"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_config_round_trip(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.name == layer.name
    assert again.compute_dtype == layer.compute_dtype

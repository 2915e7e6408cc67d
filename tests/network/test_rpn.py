"""Region proposal network: its head, its proposals and its losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn.config import Config
from mrcnn.network.rpn import (
    ProposalLayer,
    build_rpn_model,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
)
from mrcnn.network.tensor_ops import masked_mean

pytestmark = pytest.mark.tf


def proposal_inputs(golden):
    return [
        tf.constant(golden[f"proposal.{name}"]) for name in ("rpn_probs", "rpn_bbox", "anchors")
    ]


def inputs_for(boxes, scores):
    """ProposalLayer's inputs for one image whose anchors need no change."""
    boxes, scores = np.array([boxes], np.float32), np.array([scores], np.float32)
    return [np.stack([1 - scores, scores], axis=-1), np.zeros_like(boxes), boxes]


# --- Head -------------------------------------------------------------------------------------


def test_head_shapes_and_names():
    model = build_rpn_model(1, 3, depth=8, channels=6)
    logits, probs, deltas = model(np.zeros((2, 4, 5, 8), np.float32))
    assert logits.shape == probs.shape == (2, 4 * 5 * 3, 2)
    assert deltas.shape == (2, 4 * 5 * 3, 4)
    assert model.name == "rpn_model"
    shapes = {layer.name: layer.kernel.shape for layer in model.layers if layer.weights}
    assert shapes == {
        "rpn_conv_shared": (3, 3, 8, 6),
        "rpn_class_raw": (1, 1, 6, 6),
        "rpn_bbox_pred": (1, 1, 6, 12),
    }


def test_head_puts_anchors_by_row_column_and_ratio():
    model = build_rpn_model(1, 3, depth=1, channels=1)
    shared, raw = model.get_layer("rpn_conv_shared"), model.get_layer("rpn_class_raw")
    centre = np.zeros((3, 3, 1, 1), np.float32)
    centre[1, 1] = 1
    shared.set_weights([centre, np.zeros(1)])
    raw.set_weights([np.zeros((1, 1, 1, 6)) + 1, np.arange(6) / 10])
    cells = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    logits, probs, _ = model(cells)
    expected = cells.reshape(6, 1, 1) + np.arange(6).reshape(3, 2) / 10
    np.testing.assert_allclose(logits[0], expected.reshape(-1, 2), rtol=1e-6)
    np.testing.assert_allclose(probs[0, :, 1], 1 / (1 + np.exp(-0.1)) * np.ones(18), rtol=1e-5)


def test_head_with_anchors_at_every_other_cell():
    model = build_rpn_model(2, 1, depth=2, channels=2)
    assert model(np.zeros((1, 4, 6, 2), np.float32))[0].shape == (1, 2 * 3, 2)


def test_head_in_bfloat16_gives_float32():
    model = build_rpn_model(1, 1, depth=2, channels=2, dtype="bfloat16")
    outputs = model(tf.ones((1, 2, 2, 2), tf.bfloat16))
    assert [out.dtype for out in outputs] == [tf.float32] * 3
    assert {w.dtype for w in model.weights} == {"float32"}


# --- Proposals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "threshold", "case"), [(100, 0.7, "out100"), (1000, 0.3, "out1000_nms0.3")]
)
def test_golden_proposals(golden, count, threshold, case):
    layer = ProposalLayer(count, threshold, pre_nms_limit=1000, repeat_empty=True)
    boxes = layer(proposal_inputs(golden))
    assert boxes.dtype == tf.float32
    np.testing.assert_allclose(boxes, golden[f"proposal.{case}"], rtol=1e-6, atol=1e-6)


def test_proposals_of_a_batch_are_those_of_each_image(golden):
    layer = ProposalLayer(300, 0.5, pre_nms_limit=500)
    inputs = proposal_inputs(golden)
    alone = [layer([x[i : i + 1] for x in inputs]) for i in range(2)]
    np.testing.assert_array_equal(layer(inputs), tf.concat(alone, axis=0))


def test_one_anchor_grid_serves_the_batch(golden):
    layer = ProposalLayer(50, 0.7, pre_nms_limit=500)
    probs, deltas, anchors = proposal_inputs(golden)
    repeated = tf.repeat(anchors[:1], 2, axis=0)
    np.testing.assert_array_equal(
        layer([probs, deltas, anchors[:1]]), layer([probs, deltas, repeated])
    )


def test_proposals_suppress_clip_sort_and_pad():
    boxes = [[0.5, 0.5, 1.5, 0.9], [0.1, 0.1, 0.3, 0.3], [0.11, 0.1, 0.3, 0.3], [0, 0.6, 0.2, 0.8]]
    layer = ProposalLayer(5, 0.7)
    out = layer(inputs_for(boxes, [0.2, 0.7, 0.9, 0.8]))
    expected = [[0.11, 0.1, 0.3, 0.3], [0, 0.6, 0.2, 0.8], [0.5, 0.5, 1.0, 0.9]]
    np.testing.assert_allclose(out[0, :3], expected, rtol=1e-6)
    np.testing.assert_array_equal(out[0, 3:], np.zeros((2, 4)))


def test_proposals_apply_deltas_times_their_deviation():
    probs, deltas, anchors = inputs_for([[0.2, 0.2, 0.4, 0.4]], [0.9])
    deltas[0, 0] = [2.0, -1.0, np.log(2.0) / 0.5, 0.0]
    layer = ProposalLayer(1, 0.7, bbox_std_dev=(0.25, 0.5, 0.5, 1.0))
    np.testing.assert_allclose(
        layer([probs, deltas, anchors])[0], [[0.2, 0.1, 0.6, 0.3]], rtol=1e-5
    )


def test_proposals_come_from_the_best_anchors_only():
    boxes = [[i / 10, 0, i / 10 + 0.1, 0.1] for i in range(6)]
    out = ProposalLayer(6, 0.7, pre_nms_limit=2)(inputs_for(boxes, [0.1, 0.2, 0.9, 0.3, 0.8, 0]))
    np.testing.assert_array_equal(tf.reduce_any(out != 0, axis=-1)[0], [True] * 2 + [False] * 4)
    np.testing.assert_allclose(out[0, :2, 0], [0.2, 0.4])


ONE_OUTSIDE = [[0.1, 0.1, 0.3, 0.3], [0.5, 1.2, 0.7, 1.5], [0.6, 0.6, 0.9, 0.9]]


def test_a_proposal_without_area_is_taken_again_and_again():
    """As the original's NMS does, where the switch asks for it; see `rpn._repeat_empty`."""
    out = ProposalLayer(3, 0.7, repeat_empty=True)(inputs_for(ONE_OUTSIDE, [0.9, 0.8, 0.7]))[0]
    expected = [[0.1, 0.1, 0.3, 0.3], [0.5, 1, 0.7, 1], [0.5, 1, 0.7, 1]]
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize("scores", [[0.9, 0.8, 0.7], [0.7, 0.9, 0.8], [1.0, 1.0, 1.0]])
def test_a_proposal_without_area_is_left_out(scores):
    out = ProposalLayer(4, 0.7)(inputs_for(ONE_OUTSIDE, scores))[0].numpy()
    rows = sorted([0, 2], key=lambda i: -scores[i])
    np.testing.assert_allclose(out[:2], np.array(ONE_OUTSIDE)[rows], rtol=1e-6)
    assert not out[2:].any()


def test_proposals_without_area_only_are_none():
    boxes = [
        [-0.4, 0.2, -0.1, 0.4],
        [0.5, 1.2, 0.7, 1.5],
        [1.1, 1.1, 1.2, 1.2],
        [0.3, 0.3, 0.3, 0.9],
    ]
    out = ProposalLayer(3, 0.7)(inputs_for(boxes, [0.9, 1.0, 0.8, 0.7]))
    np.testing.assert_array_equal(out, np.zeros((1, 3, 4)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["scores", "deltas", "anchors"])
def test_proposals_that_are_no_numbers_are_left_out(value, place):
    boxes = [[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.7, 0.7], [0.6, 0.1, 0.9, 0.3]]
    probs, deltas, anchors = inputs_for(boxes, [0.9, 0.8, 0.7])
    {"scores": probs, "deltas": deltas, "anchors": anchors}[place][0, 1] = value
    out = ProposalLayer(3, 0.7)([probs, deltas, anchors])[0].numpy()
    np.testing.assert_allclose(out, [boxes[0], boxes[2], [0] * 4], rtol=1e-6)


def test_proposals_keep_their_static_shape_in_graphs(golden):
    layer = ProposalLayer(40, 0.7, pre_nms_limit=200)
    inputs = proposal_inputs(golden)
    for batch in (2, None):
        spec = [tf.TensorSpec([batch, None, x.shape[-1]]) for x in inputs]
        traced = tf.function(lambda *args: layer(list(args)), input_signature=spec)
        assert traced.get_concrete_function().structured_outputs.shape[1:] == (40, 4)
        np.testing.assert_allclose(traced(*inputs), layer(inputs), atol=1e-6)


def test_proposals_take_their_values_from_a_config():
    config = Config()
    assert not ProposalLayer(10, 0.5, config).repeat_empty
    config.PRE_NMS_LIMIT, config.RPN_BBOX_STD_DEV = 77, np.array([1, 2, 3, 4])
    config.NMS_REPEAT_EMPTY_BOXES = True
    layer = ProposalLayer(10, 0.5, config)
    assert (layer.pre_nms_limit, layer.bbox_std_dev) == (77, [1.0, 2.0, 3.0, 4.0])
    assert layer.repeat_empty


def test_proposal_layer_config_round_trip():
    layer = ProposalLayer(
        12, 0.4, pre_nms_limit=34, bbox_std_dev=(1, 2, 3, 4), repeat_empty=True, name="ROI"
    )
    again = ProposalLayer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.proposal_count, again.nms_threshold, again.pre_nms_limit) == (12, 0.4, 34)
    assert (again.bbox_std_dev, again.name) == ([1.0, 2.0, 3.0, 4.0], "ROI")
    assert again.repeat_empty
    shapes = [keras.KerasTensor((None, 9, n)) for n in (2, 4, 4)]
    assert again(shapes).shape == (None, 12, 4)


# --- Losses -----------------------------------------------------------------------------------


def test_golden_rpn_class_loss(golden):
    loss = rpn_class_loss_graph(golden["loss.rpn_match"], golden["loss.rpn_logits"])
    np.testing.assert_allclose(loss, golden["loss.out_rpn_class"], rtol=1e-6)


def test_golden_rpn_bbox_loss(golden):
    arguments = [golden[f"loss.{name}"] for name in ("rpn_target_bbox", "rpn_match", "rpn_bbox")]
    loss = rpn_bbox_loss_graph(None, *arguments)
    np.testing.assert_allclose(loss, golden["loss.out_rpn_bbox"], rtol=1e-6)


def test_rpn_class_loss_leaves_neutral_anchors_out():
    match = np.array([[[1], [-1], [0]]])
    logits = np.array([[[0, 0], [np.log(3), 0], [99, -99]]], np.float32)
    expected = (np.log(2) + np.log(4 / 3)) / 2
    np.testing.assert_allclose(rpn_class_loss_graph(match, logits), expected, rtol=1e-6)


def test_rpn_bbox_loss_pairs_targets_with_positive_anchors_in_order():
    match = np.array([[[1], [0], [1]], [[-1], [1], [0]]])
    target = np.array([[[1.0] * 4, [2.0] * 4], [[3.0] * 4, [99.0] * 4]])
    bbox = np.array([[[1.0] * 4, [50] * 4, [2.5] * 4], [[50] * 4, [5.0] * 4, [50] * 4]], np.float32)
    loss = rpn_bbox_loss_graph(None, target, match, bbox)
    np.testing.assert_allclose(loss, (0 + 0.125 + 1.5) / 3, rtol=1e-6)


@pytest.mark.parametrize("mark", [0, -1])
def test_rpn_losses_without_objects_have_no_nans(mark):
    match = tf.fill((1, 3, 1), mark)
    logits, bbox = tf.Variable(tf.zeros((1, 3, 2))), tf.Variable(tf.zeros((1, 3, 4)))
    with tf.GradientTape() as tape:
        class_loss = rpn_class_loss_graph(match, logits)
        bbox_loss = rpn_bbox_loss_graph(None, tf.ones((1, 2, 4)), match, bbox)
        total = class_loss + bbox_loss
    assert bbox_loss == 0
    np.testing.assert_allclose(class_loss, np.log(2) if mark else 0.0, rtol=1e-6)
    gradients = tape.gradient(total, [logits, bbox])
    assert all(np.isfinite(g).all() for g in gradients)
    assert not gradients[1].numpy().any()


def test_masked_mean():
    values = tf.constant([[1.0, 2.0], [3.0, 5.0]])
    assert masked_mean(values, tf.constant([[True], [False]])) == 1.5
    assert masked_mean(values, tf.constant([[True, False], [False, True]])) == 3.0
    assert masked_mean(values, tf.zeros((2, 2), bool)) == 0.0
    assert masked_mean(tf.constant([np.inf, 1.0]), tf.constant([False, True])) == 1.0


def test_the_rpn_on_a_map_of_ones_own():
    from mrcnn.network.rpn import rpn_graph

    feature_map = keras.Input((8, 12, 16))
    outputs = rpn_graph(feature_map, 3, anchor_stride=2, channels=8)
    values = keras.Model(feature_map, outputs)(tf.ones((2, 8, 12, 16)))
    assert [v.shape for v in values] == [(2, 72, 2), (2, 72, 2), (2, 72, 4)]
    np.testing.assert_allclose(tf.reduce_sum(values[1], axis=-1), 1, rtol=1e-6)

"""RoIs: cutting them out of the feature maps, and choosing those that train the heads."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn.config import Config
from mrcnn.network.roi import DetectionTargetLayer, PyramidROIAlign, max_positive_rois, roi_levels

pytestmark = pytest.mark.tf


IMAGE_SHAPE = (1024, 1536, 3)  # decides the levels; the maps are smaller, to be quick
MAP_SHAPES = [(32, 48), (16, 24), (8, 12), (4, 6)]
TARGETS = ("rois", "class_ids", "deltas", "masks")


def metas(batch, shape=IMAGE_SHAPE):
    meta = np.zeros((batch, 14), np.float32)
    meta[:, 4:7] = shape
    return meta


def feature_maps(rng, batch=1, channels=3):
    """P2..P5 of noise."""
    noise = [rng.standard_normal((batch, *size, channels)) for size in MAP_SHAPES]
    return [tf.constant(values, tf.float32) for values in noise]


def random_boxes(rng, count, low=0.0, high=1.0):
    corners = rng.uniform(low, high, (2, count, 2))
    return np.concatenate([corners.min(0), corners.max(0)], axis=1).astype(np.float32)


def align(boxes, maps, pool=(7, 7), **options):
    boxes = tf.convert_to_tensor(boxes)
    return PyramidROIAlign(pool, **options)([boxes, tf.constant(metas(boxes.shape[0])), *maps])


def crop_and_resize(boxes, maps, pool):
    """What the layer should give, from the op that the original used."""
    levels = roi_levels(boxes, IMAGE_SHAPE).numpy()
    out = np.zeros((*boxes.shape[:2], *pool, maps[0].shape[-1]), np.float32)
    for level, feature_map in enumerate(maps):
        image, box = np.nonzero(levels == level)
        if len(box):
            chosen = boxes[image, box]
            out[image, box] = tf.image.crop_and_resize(feature_map, chosen, image, pool)
    return out


# --- Levels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["roialign", "roialign_big"])
def test_golden_levels(golden, case):
    rois = tf.constant(golden["roialign.rois"])
    levels = roi_levels(rois, golden[f"{case}.meta"][0, 4:7])
    np.testing.assert_array_equal(levels + 2, golden[f"{case}.level"])


@pytest.mark.parametrize(
    ("side", "level"),
    [(0, 0), (1, 0), (56, 0), (79, 0), (80, 1), (112, 1), (224, 2), (448, 3), (896, 3), (1023, 3)],
)
def test_level_of_squares_in_an_image_of_1024(side, level):
    boxes = tf.constant([[[0, 0, side / 1024, side / 1024]]], tf.float32)
    assert roi_levels(boxes, (1024, 1024, 3)).numpy() == [[level]]


# --- PyramidROIAlign --------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "side"), [("roialign", 7), ("roialign", 14), ("roialign_big", 7)])
def test_golden_roi_align(golden, case, side):
    maps = [golden[f"roialign.P{level}"] for level in (2, 3, 4, 5)]
    inputs = [golden["roialign.rois"], golden[f"{case}.meta"], *maps]
    pooled = PyramidROIAlign([side, side])([tf.constant(x) for x in inputs])
    np.testing.assert_allclose(pooled, golden[f"{case}.out{side}"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pool", [(7, 7), (14, 14), (2, 5)])
def test_roi_align_equals_crop_and_resize(pool):
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 400, -0.2, 1.2).reshape(2, 200, 4)
    boxes[:, 50:100] *= 0.1  # small ones, for P2
    maps = feature_maps(rng, batch=2)
    assert set(roi_levels(boxes, IMAGE_SHAPE).numpy().ravel()) == {0, 1, 2, 3}
    np.testing.assert_allclose(
        align(boxes, maps, pool), crop_and_resize(boxes, maps, pool), rtol=1e-5, atol=1e-5
    )


def test_roi_align_equals_crop_and_resize_at_the_border():
    # The last sample of a box clipped to the image lies on the last pixel, or by a rounding
    # error beyond it, where samples are 0: only the same order of operations gives the same.
    rng = np.random.default_rng(1)
    boxes = np.clip(random_boxes(rng, 2000, -0.3, 1.3), 0, 1)[None]
    maps = feature_maps(rng, channels=1)
    np.testing.assert_allclose(
        align(boxes, maps), crop_and_resize(boxes, maps, (7, 7)), rtol=1e-5, atol=1e-5
    )


def test_roi_align_of_hand_made_boxes():
    rows = tf.range(8, dtype=tf.float32)[None, :, None, None] * tf.ones((1, 8, 8, 1))
    maps = [rows, *(tf.zeros((1, side, side, 1)) for side in (4, 2, 1))]
    boxes = np.array(
        [[[0, 0, 1, 1], [1 / 7, 0, 2 / 7, 1], [-1, 0, 1, 1], [2, 2, 3, 3]]], np.float32
    )
    pooled = PyramidROIAlign([3, 2])([boxes, metas(1, (32, 32, 3)), *maps])
    expected = [[0, 3.5, 7], [1, 1.5, 2], [0, 0, 7], [0, 0, 0]]
    np.testing.assert_allclose(pooled[0, :, :, 0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(pooled[0, :, :, 1, 0], expected, rtol=1e-6)


def test_roi_align_of_boxes_without_area_repeats_one_sample():
    maps = feature_maps(np.random.default_rng(2))
    boxes = np.array([[[0, 0, 0, 0], [1, 1, 1, 1]]], np.float32)
    pooled = align(boxes, maps)
    for pooled_box, corner in zip(pooled[0], (maps[0][0, 0, 0], maps[0][0, -1, -1]), strict=True):
        np.testing.assert_array_equal(pooled_box, np.broadcast_to(corner, (7, 7, 3)))


@pytest.mark.parametrize("box", [(np.nan, 0, 1, 1), (0, 0, np.inf, 1), (0.5, 0.1, 0.2, 0.9)])
def test_roi_align_survives_boxes_that_are_none(box):
    maps = feature_maps(np.random.default_rng(3))
    good = (0.1, 0.1, 0.5, 0.6)
    pooled = align(np.array([[box, good]], np.float32), maps)
    assert np.isfinite(pooled).all()
    np.testing.assert_array_equal(pooled[0, 1:], align(np.array([[good]], np.float32), maps)[0])


def test_roi_align_of_no_boxes():
    maps = feature_maps(np.random.default_rng(3))
    assert align(np.zeros((1, 0, 4), np.float32), maps).shape == (1, 0, 7, 7, 3)


def test_roi_align_takes_each_image_from_its_own_maps():
    rng = np.random.default_rng(4)
    maps, boxes = feature_maps(rng, batch=2), random_boxes(rng, 12).reshape(2, 6, 4)
    alone = [align(boxes[i : i + 1], [m[i : i + 1] for m in maps]) for i in range(2)]
    np.testing.assert_array_equal(align(boxes, maps), tf.concat(alone, axis=0))


def roi_align_gradient(boxes, maps, upstream):
    with tf.GradientTape() as tape:
        tape.watch([boxes, *maps])
        total = tf.reduce_sum(align(boxes, maps) * upstream)
    gradients = tape.gradient(total, [boxes, *maps])
    return gradients[0], gradients[1:]


def reference_gradient(boxes, maps, upstream):
    """Gradients with respect to the maps in float64, sample by sample."""
    gradients = [np.zeros(m.shape) for m in maps]
    levels = roi_levels(boxes, IMAGE_SHAPE).numpy()
    for (image, index), level in np.ndenumerate(levels):
        target = gradients[level][image]
        height, width = target.shape[:2]
        y1, x1, y2, x2 = boxes[image, index].numpy().astype(np.float64)
        y = (y1 + (y2 - y1) * np.arange(7) / 6)[:, None] * (height - 1)
        x = (x1 + (x2 - x1) * np.arange(7) / 6)[None, :] * (width - 1)
        top, left = np.floor(y).astype(int), np.floor(x).astype(int)
        for down, right in np.ndindex(2, 2):
            weight = abs(1 - down - (y - top)) * abs(1 - right - (x - left))
            values = upstream[image, index] * weight[:, :, None]
            np.add.at(target, (top + down, left + right), values)
    return gradients


def test_roi_align_gradient_on_crowded_boxes_is_exact_and_repeats():
    rng = np.random.default_rng(5)
    # A few places and many boxes, inside the maps: each cell sums up hundreds of samples.
    boxes = np.concatenate([random_boxes(rng, 200, 0.4, 0.6), random_boxes(rng, 100, 0.05, 0.95)])
    boxes = np.concatenate([boxes, boxes * 0.98])[rng.permutation(600)].reshape(2, 300, 4)
    boxes, maps = tf.constant(boxes), feature_maps(rng, batch=2, channels=8)
    upstream = rng.uniform(0.5, 1.5, (2, 300, 7, 7, 8)).astype(np.float32)
    run = tf.function(roi_align_gradient)
    with tf.device("CPU:0"):
        runs = [run(boxes, maps, tf.constant(upstream))[1] for _ in range(10)]
    for ours, reference in zip(runs[0], reference_gradient(boxes, maps, upstream), strict=True):
        assert np.abs(ours - reference).max() <= 1e-5 * np.abs(reference).max()
    assert np.abs(runs[0][0]).max() > 100
    for others in runs[1:]:
        for one, other in zip(runs[0], others, strict=True):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_roi_align_gives_boxes_no_gradient():
    rng = np.random.default_rng(6)
    boxes, maps = tf.constant(random_boxes(rng, 4)[None]), feature_maps(rng)
    to_boxes, to_maps = roi_align_gradient(boxes, maps, tf.ones((1, 4, 7, 7, 3)))
    assert to_boxes is None
    assert any(g.numpy().any() for g in to_maps)


def test_roi_align_keeps_bfloat16():
    rng = np.random.default_rng(7)
    boxes, maps = random_boxes(rng, 20)[None], feature_maps(rng)
    halves = [tf.cast(m, tf.bfloat16) for m in maps]
    with tf.GradientTape() as tape:
        tape.watch(halves)
        pooled = align(boxes, halves, dtype="mixed_bfloat16")
    assert pooled.dtype == tf.bfloat16
    # 8 bits of mantissa: of each map, each weight and each of three sums.
    np.testing.assert_allclose(tf.cast(pooled, tf.float32), align(boxes, maps), atol=0.06)
    assert {g.dtype for g in tape.gradient(pooled, halves)} == {tf.bfloat16}


def test_roi_align_in_a_graph_of_unknown_sizes():
    layer = PyramidROIAlign([7, 7])
    spec = [tf.TensorSpec([None, 5, 4]), tf.TensorSpec([None, 14])]
    spec += [tf.TensorSpec([None, None, None, 3])] * 4
    traced = tf.function(lambda *args: layer(list(args)), input_signature=spec)
    assert traced.get_concrete_function().structured_outputs.shape == (None, 5, 7, 7, 3)
    rng = np.random.default_rng(8)
    boxes, maps = random_boxes(rng, 10).reshape(2, 5, 4), feature_maps(rng, batch=2)
    np.testing.assert_allclose(traced(boxes, metas(2), *maps), align(boxes, maps), atol=1e-5)


def test_roi_align_config_round_trip():
    layer = PyramidROIAlign([7, 14], name="align", dtype="mixed_bfloat16")
    again = PyramidROIAlign.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.pool_shape, again.name, again.compute_dtype) == ((7, 14), "align", "bfloat16")


# --- DetectionTargetLayer ---------------------------------------------------------------------

# Two objects far apart and a place for more; a mask an image holds is one mini mask an object.
OBJECTS = np.array([[0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.9, 0.8], [0, 0, 0, 0]], np.float32)
BACKGROUND = np.array([0.35, 0.35, 0.5, 0.5], np.float32)


def target_inputs(proposals, class_ids=(3, 5, 0), boxes=OBJECTS, masks=None):
    """The layer's inputs for one image."""
    proposals = np.asarray(proposals, np.float32).reshape(-1, 4)
    if masks is None:
        masks = np.ones((28, 28, len(boxes)), bool)
    arrays = proposals, np.array(class_ids, np.int32), np.asarray(boxes, np.float32), masks
    return [tf.constant(x[None]) for x in arrays]


def choose(inputs, **options):
    """The four outputs of one image as arrays, and how many rows are real and positive."""
    outputs = [np.asarray(x)[0] for x in DetectionTargetLayer(**options)(inputs)]
    real = outputs[0].any(axis=1).sum()
    return outputs, int(real), int((outputs[1] > 0).sum())


def near(box, count, spread=0.005, seed=0):
    """Boxes around one, with an IoU far above 0.5."""
    return box + np.random.default_rng(seed).uniform(-spread, spread, (count, 4))


def test_golden_targets(golden):
    names = ("proposals", "gt_class_ids", "gt_boxes", "gt_masks")
    layer = DetectionTargetLayer(
        train_rois=200,
        positive_ratio=0.33,
        mask_shape=(28, 28),
        use_mini_mask=True,
        shuffle=False,
    )
    outputs = layer([tf.constant(golden[f"targets.{name}"]) for name in names])
    rois, class_ids, deltas, masks = (golden[f"targets.out_{name}"] for name in TARGETS)
    np.testing.assert_array_equal(outputs[0], rois)
    np.testing.assert_array_equal(outputs[1], class_ids)
    # Centres near 1 are subtracted (6e-8 of rounding each), then divided by sides from 0.09 on
    # and by a deviation of 0.1.
    np.testing.assert_allclose(outputs[2], deltas, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(outputs[3], masks)


def test_golden_number_of_negatives(golden):
    expected = golden["neg_count_float32"]
    proposals = np.tile(BACKGROUND, (len(expected), 300, 1))
    for count in range(len(expected)):
        proposals[count, :count] = OBJECTS[0]
    inputs = target_inputs(BACKGROUND)
    inputs = [tf.constant(proposals), *(tf.repeat(x, len(expected), axis=0) for x in inputs[1:])]
    rois, class_ids, _, _ = DetectionTargetLayer(train_rois=300, shuffle=False)(inputs)
    positive = (class_ids.numpy() > 0).sum(axis=1)
    np.testing.assert_array_equal(positive, np.arange(len(expected)))
    np.testing.assert_array_equal(rois.numpy().any(axis=2).sum(axis=1) - positive, expected)


@pytest.mark.parametrize("shuffle", [True, False])
def test_targets_keep_to_their_limits(shuffle):
    positive, negative = near(OBJECTS[0], 150), near(BACKGROUND, 400)
    mixed = np.random.default_rng(0).permutation(np.concatenate([positive, negative]))
    (rois, ids, deltas, masks), real, count = choose(target_inputs(mixed), shuffle=shuffle, seed=1)
    assert (real, count) == (200, 66)
    assert (ids[:66] == 3).all() and not ids[66:].any()
    assert (np.abs(rois[:66] - OBJECTS[0]) < 0.01).all()
    assert (np.abs(rois[66:] - BACKGROUND) < 0.01).all()
    assert deltas[:66].any(axis=1).all() and not deltas[66:].any()
    assert masks[:66].any(axis=(1, 2)).all() and not masks[66:].any()
    assert len(np.unique(rois, axis=0)) == 200


def test_targets_in_index_order():
    proposals = [[0] * 4, BACKGROUND, OBJECTS[1], BACKGROUND + 0.01, OBJECTS[0], BACKGROUND + 0.02]
    (rois, ids, _, _), real, _ = choose(target_inputs(proposals), train_rois=5, shuffle=False)
    # 5 * 0.33 allows one positive, and one positive asks for two negatives; padding is neither.
    assert real == 3
    np.testing.assert_array_equal(rois[:3], np.array(proposals, np.float32)[[2, 1, 3]])
    np.testing.assert_array_equal(ids, [5, 0, 0, 0, 0])


def test_shuffled_targets_differ_between_calls():
    inputs = target_inputs(np.concatenate([near(OBJECTS[0], 100), near(BACKGROUND, 300)]))
    layer = DetectionTargetLayer(train_rois=30, seed=3)
    first, second = (layer(inputs)[0].numpy()[0] for _ in range(2))
    chosen = [{tuple(box) for box in rois} for rois in (first, second)]
    # 9 positives, 18 negatives, and the padding
    assert len(chosen[0]) == len(chosen[1]) == 28
    assert chosen[0] != chosen[1]
    assert chosen[0] - {(0, 0, 0, 0)} <= {tuple(box) for box in inputs[0].numpy()[0]}


def test_targets_that_are_all_negative_are_empty():
    outputs, real, _ = choose(target_inputs(near(BACKGROUND, 50)), train_rois=20)
    assert real == 0
    assert not any(out.any() for out in outputs)


@pytest.mark.parametrize(
    ("class_ids", "boxes"),
    [((0, 0, 0), np.zeros((3, 4))), ((-1, -2, 0), OBJECTS)],
    ids=["no objects", "only crowds"],
)
def test_targets_without_objects_are_empty(class_ids, boxes):
    proposals = np.concatenate([near(OBJECTS[0], 10), near(BACKGROUND, 10), np.zeros((5, 4))])
    outputs, _, _ = choose(target_inputs(proposals, class_ids, boxes), train_rois=20)
    assert [out.shape for out in outputs] == [(20, 4), (20,), (20, 4), (20, 28, 28)]
    assert not any(out.any() for out in outputs)


def test_targets_without_proposals_are_empty():
    outputs, _, _ = choose(target_inputs(np.zeros((8, 4))), train_rois=20)
    assert not any(out.any() for out in outputs)


def test_rois_on_crowds_are_neither_positive_nor_negative():
    proposals = [OBJECTS[0], OBJECTS[1], OBJECTS[1] + 0.1, BACKGROUND]
    (rois, ids, _, _), real, _ = choose(target_inputs(proposals, (3, -5, 0)), shuffle=False)
    assert real == 2
    np.testing.assert_array_equal(rois[:2], [OBJECTS[0], BACKGROUND])
    np.testing.assert_array_equal(ids[:2], [3, 0])


def test_an_overlap_of_one_half_is_positive():
    half = np.array([[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.4375, 1.0]])
    inputs = target_inputs(half, (4,), [[0.0, 0.0, 1.0, 1.0]])
    (rois, ids, _, _), real, count = choose(inputs, shuffle=False)
    assert (real, count, ids[0]) == (2, 1, 4)
    np.testing.assert_array_equal(rois[:2], half)


def test_targets_match_the_best_object_and_measure_its_deltas():
    boxes = np.array([[0.0, 0.0, 0.5, 0.8], [0.0, 0.0, 0.5, 0.4]])
    roi = np.array([[0.0, 0.0, 0.5, 0.5]])
    options = {"bbox_std_dev": (0.5, 0.25, 0.5, 1.0), "shuffle": False}
    (_, ids, deltas, _), _, _ = choose(target_inputs(roi, (7, 9), boxes), **options)
    assert ids[0] == 9
    expected = [0, (0.2 - 0.25) / 0.5 / 0.25, 0, np.log(0.4 / 0.5)]
    np.testing.assert_allclose(deltas[0], expected, atol=1e-6)


@pytest.mark.parametrize("mini", [True, False])
def test_target_masks_are_cut_to_the_roi(mini):
    # The object covers the upper 8 of 16 rows of the image; of these, the lower
    # half's first 12 columns are set.
    box = np.array([[0.0, 0.0, 7 / 15, 1.0]])
    mask = np.zeros((16, 16, 1), bool)
    mask[8:, :12] = True
    if not mini:
        mask = np.concatenate([mask[::2], np.zeros((8, 16, 1), bool)])
    rois = np.array([[0.0, 0.0, 7 / 15, 1.0], [0.0, 0.0, 7 / 15, 0.7]])
    inputs = target_inputs(rois, (1,), box, mask)
    options = {"mask_shape": (4, 4), "use_mini_mask": mini, "shuffle": False}
    (_, _, _, masks), _, count = choose(inputs, **options)
    assert count == 2
    expected = np.zeros((2, 4, 4))
    expected[0, 2:, :3] = 1
    expected[1, 2:, :] = 1
    np.testing.assert_array_equal(masks[:2], expected)


@pytest.mark.parametrize("stop", [False, True])
def test_gradient_through_the_deltas(stop):
    proposals = np.concatenate([near(OBJECTS[0], 6), near(BACKGROUND, 6), np.zeros((4, 4))])
    inputs = target_inputs(proposals)
    layer = DetectionTargetLayer(train_rois=40, stop_gradient=stop, shuffle=False)
    with tf.GradientTape() as tape:
        tape.watch(inputs[0])
        loss = tf.reduce_sum(tf.square(layer(inputs)[2]))
    assert loss > 0
    gradient = tape.gradient(loss, inputs[0])
    if stop:
        assert gradient is None
        return
    assert np.isfinite(gradient).all()
    reached = gradient.numpy()[0].any(axis=1)
    np.testing.assert_array_equal(reached, np.arange(16) < 6)


def test_targets_of_a_batch_are_those_of_each_image(golden):
    names = ("proposals", "gt_class_ids", "gt_boxes", "gt_masks")
    inputs = [tf.constant(golden[f"targets.{name}"]) for name in names]
    inputs[3] = tf.stack([inputs[3][0], ~inputs[3][1]])
    layer = DetectionTargetLayer(train_rois=20, shuffle=False)
    alone = [layer([x[i : i + 1] for x in inputs]) for i in range(2)]
    for both, parts in zip(layer(inputs), zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(both, tf.concat(parts, axis=0))


def test_targets_in_a_graph_of_unknown_batch_size(golden):
    layer = DetectionTargetLayer(train_rois=20, shuffle=False)
    names = ("proposals", "gt_class_ids", "gt_boxes", "gt_masks")
    inputs = [tf.constant(golden[f"targets.{name}"]) for name in names]
    spec = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in inputs]
    traced = tf.function(lambda *args: layer(list(args)), input_signature=spec)
    shapes = [tuple(x.shape[1:]) for x in traced.get_concrete_function().structured_outputs]
    assert shapes == [(20, 4), (20,), (20, 4), (20, 28, 28)]
    for graph, eager in zip(traced(*inputs), layer(inputs), strict=True):
        np.testing.assert_allclose(graph, eager, atol=1e-5)
    specs = layer([keras.KerasTensor(x.shape, x.dtype.name) for x in inputs])
    assert [tuple(x.shape) for x in specs] == [(2, *shape) for shape in shapes]
    assert [x.dtype for x in specs] == ["float32", "int32", "float32", "float32"]


def test_detection_target_layer_takes_its_values_from_a_config():
    config = Config()
    config.TRAIN_ROIS_PER_IMAGE, config.ROI_POSITIVE_RATIO, config.USE_MINI_MASK = 50, 0.5, False
    config.MASK_SHAPE, config.STOP_TARGET_GRADIENT = [14, 16], True
    layer = DetectionTargetLayer(config)
    assert (layer.train_rois, layer.max_positive, layer.mask_shape) == (50, 25, (14, 16))
    assert (layer.use_mini_mask, layer.stop_gradient) == (False, True)


def test_detection_target_layer_config_round_trip():
    layer = DetectionTargetLayer(
        train_rois=7,
        positive_ratio=0.5,
        bbox_std_dev=(1, 2, 3, 4),
        mask_shape=(5, 6),
        use_mini_mask=False,
        stop_gradient=True,
        shuffle=False,
        seed=8,
        name="targets",
    )
    again = DetectionTargetLayer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    values = again.train_rois, again.positive_ratio, again.bbox_std_dev, again.mask_shape
    assert values == (7, 0.5, [1.0, 2.0, 3.0, 4.0], (5, 6))
    values = again.use_mini_mask, again.stop_gradient, again.shuffle, again.seed, again.name
    assert values == (False, True, False, 8, "targets")


@pytest.mark.parametrize(
    ("rois", "ratio", "expected"), [(200, 0.33, 66), (128, 0.33, 42), (5, 0.33, 1), (10, 1.0, 10)]
)
def test_max_positive_rois(rois, ratio, expected):
    assert max_positive_rois(rois, ratio) == expected

"""Training targets: the original's recorded numbers, hand-made values, the empty case."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn.config import Config
from mrcnn.core.boxes import backbone_shapes, compute_overlaps, config_anchors, pyramid_anchors
from mrcnn.data.targets import (
    AnchorIndex,
    _keep_at_most,
    _label_anchors,
    build_detection_targets,
    build_rpn_targets,
    generate_random_rois,
)
from tests.helpers import GOLDEN

NO_IDS, NO_BOXES = np.zeros(0, np.int32), np.zeros((0, 4), np.int32)


class SmallConfig(Config):
    NUM_CLASSES = 14
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 256
    RPN_ANCHOR_SCALES = (16, 32, 64, 128, 256)
    TRAIN_ROIS_PER_IMAGE = 60


CONFIG = SmallConfig()


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "pure.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def anchors():
    return config_anchors(CONFIG, CONFIG.IMAGE_SHAPE)


def config(**values):
    return type("OwnConfig", (SmallConfig,), values)()


# --- RPN --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "count"), [("plain", 256), ("crowd", 256), ("small", 32)])
def test_rpn_targets_are_the_originals(golden, anchors, case, count):
    np.random.seed(3)
    match, bbox = build_rpn_targets(
        CONFIG.IMAGE_SHAPE,
        anchors,
        golden[f"rpn_targets_{case}.class_ids"],
        golden["rpn_targets.gt_boxes"],
        config(RPN_TRAIN_ANCHORS_PER_IMAGE=count),
    )
    assert match.dtype == np.int32
    np.testing.assert_array_equal(
        np.flatnonzero(match == 1), golden[f"rpn_targets_{case}.match_pos"]
    )
    np.testing.assert_array_equal(
        np.flatnonzero(match == -1), golden[f"rpn_targets_{case}.match_neg"]
    )
    expected = golden[f"rpn_targets_{case}.bbox"]
    assert bbox.dtype == expected.dtype
    # The original computed these deltas, and only these, in float64.
    np.testing.assert_allclose(bbox, expected, rtol=1e-5, atol=1e-5)


def test_rpn_targets_by_hand():
    anchors = np.array(
        [
            [0, 0, 10, 10],  # the first object
            [0, 0, 10, 8],  # IoU 0.8 with it
            [0, 5, 10, 15],  # IoU 1/3: neither
            [20, 20, 30, 30],  # IoU 0.1 with the second object, but nothing fits that better
            [50, 50, 60, 60],  # background
        ],
        float,
    )
    boxes = np.array([[0, 0, 10, 10], [20, 20, 21, 30]], np.int32)
    match, bbox = build_rpn_targets(None, anchors, np.array([1, 2]), boxes, CONFIG)
    assert match.tolist() == [1, 1, 0, 1, -1]
    assert bbox.shape == (256, 4)
    wider, lower = np.log(10 / 8) / 0.2, np.log(1 / 10) / 0.2
    expected = [[0, 0, 0, 0], [0, 1 / 8 / 0.1, 0, wider], [-0.45 / 0.1, 0, lower, 0]]
    np.testing.assert_allclose(bbox[:3], expected, rtol=1e-5, atol=1e-6)
    assert not bbox[3:].any()


def test_anchors_on_crowds_are_neither():
    anchors = np.array([[0, 0, 10, 10], [0, 0, 1000, 1000], [0, 20, 10, 30]], float)
    boxes = np.array([[0, 0, 10, 9]], np.int32)
    match, bbox = build_rpn_targets(None, anchors, np.array([-1]), boxes, CONFIG)
    assert match.tolist() == [0, -1, -1]  # the second overlaps it by 0.00009 only
    assert not bbox.any()


def test_rpn_targets_without_objects(anchors):
    match, bbox = build_rpn_targets(CONFIG.IMAGE_SHAPE, anchors, NO_IDS, NO_BOXES, CONFIG)
    assert (match == 1).sum() == 0
    assert (match == -1).sum() == 256
    assert not bbox.any()


def test_a_box_that_no_anchor_touches_makes_none_positive(anchors):
    boxes = np.array([[5000, 5000, 5010, 5010], [10, 10, 10, 10]])
    match, _ = build_rpn_targets(None, anchors, np.array([1, 2]), boxes, CONFIG)
    assert not (match == 1).any()


def test_leaving_out_far_pairs_changes_nothing(anchors):
    rng = np.random.default_rng(0)
    unlimited = config(RPN_TRAIN_ANCHORS_PER_IMAGE=2 * len(anchors))
    for _ in range(10):
        corners = rng.integers(0, 250, (6, 2))
        boxes = np.concatenate([corners, corners + rng.integers(1, 200, (6, 2))], axis=1)
        overlaps = compute_overlaps(anchors, boxes)
        expected = np.where(overlaps.max(axis=1) < 0.3, -1, 0)
        expected[(overlaps == overlaps.max(axis=0)).any(axis=1)] = 1
        expected[overlaps.max(axis=1) >= 0.7] = 1
        match, _ = build_rpn_targets(None, anchors, np.arange(1, 7), boxes, unlimited)
        np.testing.assert_array_equal(match, expected)


def test_rpn_sub_sampling_with_an_own_generator(golden, anchors):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    boxes, class_ids = golden["rpn_targets.gt_boxes"], golden["rpn_targets_plain.class_ids"]
    few = config(RPN_TRAIN_ANCHORS_PER_IMAGE=8)
    runs = [
        build_rpn_targets(None, anchors, class_ids, boxes, few, rng=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    for match, _ in runs:
        assert (match == 1).sum() == 4
        assert (match == -1).sum() == 4
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert (runs[0][0] != runs[2][0]).any()
    np.testing.assert_array_equal(np.random.get_state()[1], before)


# --- Random RoIs ------------------------------------------------------------------------------


def test_random_rois_are_the_originals(golden):
    np.random.seed(5)
    rois = generate_random_rois((256, 256, 3), 100, np.arange(1, 7), golden["rpn_targets.gt_boxes"])
    assert rois.dtype == golden["random_rois.out"].dtype
    np.testing.assert_array_equal(rois, golden["random_rois.out"])


@pytest.mark.parametrize("boxes", [NO_BOXES, np.array([[0, 0, 1, 1], [30, 40, 50, 60]])])
def test_random_rois_lie_in_the_image(boxes):
    rois = generate_random_rois((50, 60), 41, None, boxes, rng=np.random.default_rng(0))
    assert rois.shape == (41, 4)
    assert (rois >= 0).all()
    assert (rois[:, 2:] <= (50, 60)).all()
    assert (rois[:, 2:] > rois[:, :2]).all()


def test_no_random_rois():
    assert generate_random_rois((50, 60), 0, None, NO_BOXES).shape == (0, 4)


# --- Targets of the heads ---------------------------------------------------------------------


def test_detection_targets_are_the_originals(golden):
    np.random.seed(6)
    rois, class_ids, bboxes, masks = build_detection_targets(
        golden["random_rois.out"],
        np.arange(1, 7, dtype=np.int32),
        golden["det_targets.gt_boxes"],
        golden["det_targets.gt_masks"],
        CONFIG,
    )
    np.testing.assert_array_equal(rois, golden["det_targets.rois"])
    np.testing.assert_array_equal(class_ids, golden["det_targets.class_ids"])
    assert [x.dtype for x in (rois, class_ids, bboxes, masks)] == [
        *(np.int32, np.int32, np.float32, np.float32)
    ]
    positive = golden["det_targets.pos"]
    own = bboxes[np.arange(60), class_ids]
    np.testing.assert_allclose(own, golden["det_targets.bboxes_nonzero"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        masks[positive, :, :, class_ids[positive]],
        golden["det_targets.masks_pos"],
        rtol=1e-5,
        atol=1e-6,
    )
    # Nothing but the object's own class has targets.
    assert np.count_nonzero(bboxes) == np.count_nonzero(own)
    assert np.argwhere(masks.any(axis=(1, 2))).tolist() == [[i, class_ids[i]] for i in positive]


def test_detection_targets_by_hand():
    full = config(USE_MINI_MASK=False, TRAIN_ROIS_PER_IMAGE=6, NUM_CLASSES=4)
    mask = np.zeros((256, 256, 3), bool)
    mask[10:50, 10:30, 0] = True  # the left half of the box
    boxes = np.array([[10, 10, 50, 50], [100, 100, 140, 140], [0, 0, 0, 0]], np.int32)
    class_ids = np.array([3, -2, 0], np.int32)  # object, crowd, padding
    rois = np.array([[10, 10, 50, 50], [100, 100, 140, 140], [200, 200, 210, 210]], np.int32)
    out = build_detection_targets(rois, class_ids, boxes, mask, full, rng=np.random.default_rng(0))
    rois_out, ids, bboxes, masks = out
    assert ids.tolist() == [3, 0, 0, 0, 0, 0]
    assert rois_out[:3].tolist() == rois.tolist()
    assert {tuple(roi) for roi in rois_out[3:].tolist()} <= {
        tuple(roi) for roi in rois[1:].tolist()
    }
    assert not bboxes.any()
    np.testing.assert_array_equal(masks[0, :, :, 3], np.arange(28)[None].repeat(28, 0) < 14)
    assert not masks[1:].any()
    assert not masks[0, :, :, :3].any()


@pytest.mark.parametrize("mini", [True, False])
def test_detection_targets_without_objects(mini):
    gt_masks = np.zeros((56, 56, 0) if mini else (256, 256, 0), bool)
    rois = np.array([[0, 0, 9, 9], [5, 5, 50, 50]], np.int32)
    plain = config(USE_MINI_MASK=mini)
    out = build_detection_targets(rois, NO_IDS, NO_BOXES, gt_masks, plain)
    assert [x.shape for x in out] == [(60, 4), (60,), (60, 14, 4), (60, 28, 28, 14)]
    assert not any(x.any() for x in out[1:])


def test_positive_rois_are_limited_and_repeats_keep_their_labels():
    boxes = np.array([[0, 0, 40, 40]], np.int32)
    masks = np.ones((56, 56, 1), bool)
    six = config(TRAIN_ROIS_PER_IMAGE=6)
    on_it, away = [[0, 0, 40, 40]], [[100, 100, 120, 120]]
    ids = [
        build_detection_targets(np.array(rois), np.array([5]), boxes, masks, six)[1].tolist()
        for rois in (on_it * 9 + away * 9, on_it)
    ]
    assert ids == [[5, 0, 0, 0, 0, 0], [5, 5, 5, 5, 5, 5]]


def test_no_rois_are_refused():
    with pytest.raises(ValueError, match="no RoIs"):
        build_detection_targets(NO_BOXES, NO_IDS, NO_BOXES, np.zeros((56, 56, 0), bool), CONFIG)


# --- AnchorIndex ------------------------------------------------------------------------------


def pyramid(side, stride=1, ratios=(0.5, 1, 2)):
    strides = [4, 8, 16]
    anchors = pyramid_anchors((side, side), (16, 32, 64), ratios, strides, stride)
    return anchors, AnchorIndex(anchors, backbone_shapes((side, side), strides), stride)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.integers(0, 90), st.integers(1, 60), st.integers(1, 60)),
        max_size=6,
    ),
    st.integers(0, 2),
    st.sampled_from([(64, 1, (0.5, 1, 2)), (100, 2, (1,)), (96, 1, (0.5, 2))]),
)
def test_an_index_labels_anchors_as_the_search_through_all_does(boxes, crowds, kind):
    anchors, index = pyramid(*kind)
    boxes = np.array([(y, x, y + h, x + w) for y, x, h, w in boxes], np.int32).reshape(-1, 4)
    gt, crowd = boxes[crowds:], boxes[:crowds]
    np.testing.assert_array_equal(
        _label_anchors(anchors, gt, crowd), _label_anchors(index, gt, crowd)
    )


def test_targets_of_an_index_are_those_of_its_anchors():
    config = type("C", (), {"RPN_TRAIN_ANCHORS_PER_IMAGE": 32, "RPN_BBOX_STD_DEV": np.ones(4)})
    anchors, index = pyramid(128)
    ids, boxes = (
        np.array([1, -2, 3]),
        np.array([[5, 5, 50, 60], [60, 60, 90, 90], [9, 70, 50, 110]]),
    )
    results = [
        build_rpn_targets(None, a, ids, boxes, config, rng=np.random.default_rng(0))
        for a in (anchors, index)
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (results[0][0] != 0).sum() == 32
    none = build_rpn_targets(None, index, ids[:0], boxes[:0], config, rng=np.random.default_rng(0))
    assert (none[0] == -1).sum() == 32 and not none[1].any()


def test_anchors_that_are_no_grid_are_refused():
    anchors, _ = pyramid(64)
    with pytest.raises(ValueError, match="anchors for"):
        AnchorIndex(anchors, [(3, 5)])
    with pytest.raises(ValueError, match="aren't a grid"):
        AnchorIndex(np.random.default_rng(0).permutation(anchors), [(16, 16), (8, 8), (4, 4)])


def test_the_entries_that_stay_are_drawn_evenly():
    counts = np.zeros(40)
    for seed in range(3000):
        match = np.repeat(np.array([-1, 0, 1, -1], np.int32), 10)
        _keep_at_most(match, -1, 5, np.random.default_rng(seed))
        assert (match == -1).sum() == 5 and (match == 1).sum() == 10
        counts += match == -1
    assert not counts[10:30].any()
    np.testing.assert_allclose(counts[[*range(10), *range(30, 40)]], 750, atol=110)
    few = np.array([-1, 0, 1, -1], np.int32)
    _keep_at_most(few, -1, 5, np.random.default_rng(0))
    assert few.tolist() == [-1, 0, 1, -1]
    _keep_at_most(few, -1, 0, np.random.default_rng(0))
    assert few.tolist() == [0, 0, 1, 0]

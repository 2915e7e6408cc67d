"""The second opinion on siblings: who may overrule whom, and when."""

import json

import numpy as np
import pytest

from mrcnn.core.classes import COCO, DEEPFASHION2
from mrcnn.siblings.head import (
    SiblingHead,
    groups_to_json,
    overrule,
    sibling_softmax,
    sibling_table,
    siblings_from_json,
    without_duplicates,
)

TABLE = sibling_table(DEEPFASHION2)
SHORT, LONG, VEST, TROUSERS, SKIRT = 1, 2, 5, 8, 9


def head(margin=0.5):
    """Two features: the first speaks for long sleeves and for skirts, the second for vests."""
    kernel = np.zeros((2, 14), np.float32)
    kernel[0, [LONG, SKIRT]], kernel[1, VEST] = 1, 1
    return SiblingHead(kernel, np.zeros(14, np.float32), TABLE, margin)


def detections(*rows, length=5):
    """[length, 6]: (x1, class id, score), boxes 0.5 wide and high, zero-padded."""
    found = np.zeros((length, 6), np.float32)
    for i, (x1, class_id, score) in enumerate(rows):
        found[i] = 0.2, x1, 0.7, x1 + 0.5, class_id, score
    return found


def masks(count):
    return np.arange(count, dtype=np.float32)[:, None, None] * np.ones((4, 4), np.float32)


def test_groups_of_deepfashion2():
    groups = {tuple(np.flatnonzero(row)) for row in TABLE}
    assert groups == {(), (1, 2, 5, 6), (3, 4), (7, 8, 9), (10, 11, 12, 13)}
    assert not TABLE[0].any()  # the background is nobody's sibling
    assert not sibling_table(COCO).any()


def test_softmax_is_over_siblings_only():
    logits = np.full((3, 14), 50.0, np.float32)
    logits[0, [3, 4]] = np.log([1, 3])
    result = sibling_softmax(logits, TABLE[[3, 10, 0]])
    np.testing.assert_allclose(result[0], [0, 0, 0, 0.25, 0.75, *[0] * 9], atol=1e-6)
    np.testing.assert_allclose(result[1], [*[0] * 10, 0.25, 0.25, 0.25, 0.25], atol=1e-6)
    assert not result[2].any()
    assert sibling_softmax(logits[:0], TABLE[:0]).shape == (0, 14)


def test_overrules_above_the_margin_only():
    probabilities = np.array([[0, 0.2, 0.8], [0, 0.2, 0.8], [0, 0.0, 1.0], [0, 0.0, 0.0]])
    ids = [1, 2, 1, 1]
    assert overrule(probabilities, ids, 0.5).tolist() == [2, 2, 2, 1]
    assert overrule(probabilities, ids, 0.6001).tolist() == [1, 2, 2, 1]
    assert overrule(probabilities, ids, 1.0).tolist() == [1, 2, 1, 1]
    assert overrule(np.zeros((0, 3)), [], 0.5).shape == (0,)


def test_stays_in_the_group_of_the_class_found():
    features = np.array([[9, 0], [9, 0], [0, 9], [9, 9], [0, 0]], np.float32)
    found = [SHORT, TROUSERS, TROUSERS, 4, SHORT]
    # The vest's feature says nothing about trousers, nor any about outwear.
    assert head().decide(features, found).tolist() == [LONG, SKIRT, TROUSERS, 4, SHORT]
    assert head().decide(features[:0], []).shape == (0,)


def test_refine_changes_the_class_alone():
    found = detections((0.0, SHORT, 0.9), (0.5, TROUSERS, 0.8))
    features = np.array([[9, 0], [0, 9]], np.float32)
    new, kept = head().refine(found, masks(2), features, 0.3)
    expected = found.copy()
    expected[0, 4] = LONG
    np.testing.assert_array_equal(new, expected)
    np.testing.assert_array_equal(kept, masks(2))
    assert found[0, 4] == SHORT  # the input stays


def test_refine_keeps_the_better_of_what_becomes_double():
    found = detections((0.0, SHORT, 0.9), (0.05, LONG, 0.6), (0.5, LONG, 0.5))
    features = np.array([[9, 0], [9, 0], [9, 0]], np.float32)
    new, kept = head().refine(found, masks(3), features, 0.3)
    assert new[:, 4].tolist() == [LONG, LONG, 0, 0, 0]
    np.testing.assert_allclose(new[:, 5], [0.9, 0.5, 0, 0, 0])
    # The masks go with their detections.
    assert kept[:, 0, 0].tolist() == [0, 2, 0]
    # Without a change nothing is suppressed, not even what overlaps.
    same = detections((0.0, LONG, 0.9), (0.0, LONG, 0.8))
    new, _ = head().refine(same, masks(2), features, 0.3)
    np.testing.assert_array_equal(new, same)


def test_refine_without_detections():
    nothing, one_mask = np.zeros((5, 6), np.float32), masks(1)
    new, kept = head().refine(nothing, one_mask, np.full((1, 2), 9, np.float32), 0.3)
    assert not new.any() and kept is one_mask


def test_duplicates_of_other_classes_stay():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [0, 0, 10, 8]], float)
    changed = np.array([False, False, True, False])
    assert without_duplicates(boxes, np.array([1, 1, 1, 2]), changed, 0.5) == [0, 1, 3]
    assert without_duplicates(boxes[:0], np.zeros(0, int), changed[:0], 0.5) == []


def test_groups_travel_as_names():
    text = groups_to_json(TABLE, DEEPFASHION2)
    assert ["short_sleeved_outwear", "long_sleeved_outwear"] in json.loads(text)
    np.testing.assert_array_equal(siblings_from_json(text, DEEPFASHION2), TABLE)
    # Another order of the same names gives another table, not other siblings.
    turned = (DEEPFASHION2[0], *DEEPFASHION2[:0:-1])
    np.testing.assert_array_equal(siblings_from_json(text, turned), sibling_table(turned))
    with pytest.raises(ValueError, match="name .*skirt.*, but the model's classes are person"):
        siblings_from_json(text, COCO)


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match=r"kernel \(2, 14\), bias \(13,\).*don't fit"):
        SiblingHead(np.zeros((2, 14)), np.zeros(13), TABLE, 0.5)
    with pytest.raises(ValueError, match="margin is 1.5; give 0 to 1"):
        head(1.5)

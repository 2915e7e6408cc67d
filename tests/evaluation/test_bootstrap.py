"""Resampled average precision, against scoring the resampled images for real."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn.evaluation import average_precision, bootstrap
from mrcnn.evaluation.bootstrap import ap_samples, draw_weights, headline_samples
from tests.helpers.coco_cases import accumulated, random_data


def ap_table(tables):
    """[A, K, T] of `PrecisionRecall`."""
    return tables.precision.mean(axis=1).transpose(2, 1, 0)


def test_weights_are_draws_with_replacement():
    weights = draw_weights(20, 50, seed=3)
    assert weights.shape == (20, 50) and (weights.sum(axis=0) == 20).all()
    assert weights.max() > 1 and weights.min() == 0
    assert np.array_equal(weights, draw_weights(20, 50, seed=3))
    assert not np.array_equal(weights, draw_weights(20, 50, seed=4))
    assert draw_weights(0, 5, 0).shape == (0, 5)


@given(st.integers(0, 2**32), st.integers(1, 15))
@settings(deadline=None, max_examples=15)
def test_each_image_once_is_the_score_itself(seed, images):
    matches, found = accumulated(*random_data(seed, images), "segm")
    samples = ap_samples(matches, np.ones((images, 1), np.int32))
    np.testing.assert_allclose(samples[..., 0], ap_table(found), atol=1e-12)


@pytest.mark.parametrize("chunk", [bootstrap.CHUNK, 100])
def test_a_resample_is_the_score_of_the_drawn_images(chunk, monkeypatch):
    """Images drawn twice are given to the scorer twice, under another id."""
    monkeypatch.setattr(bootstrap, "CHUNK", chunk)
    content, results = random_data(11, count=10)
    for row in results:  # no ties: among equal scores the order of images would matter
        row["score"] += np.random.default_rng(row["bbox"]).uniform(0, 0.05)
    weights = draw_weights(10, 4, seed=1)
    matches, _ = accumulated(content, results, "bbox")
    samples = ap_samples(matches, weights)
    for r in range(4):
        images, annotations, rows = [], [], []
        for i, image in enumerate(content["images"]):
            for copy in range(weights[i, r]):
                new = {"id": 1000 * copy + image["id"]}
                images.append(image | new)
                mine = {"image_id": new["id"]}
                annotations += [
                    a | mine | {"id": 1000 * copy + a["id"]}
                    for a in content["annotations"]
                    if a["image_id"] == image["id"]
                ]
                rows += [d | mine for d in results if d["image_id"] == image["id"]]
        drawn = content | {"images": images, "annotations": annotations}
        _, found = accumulated(drawn, rows, "bbox")
        np.testing.assert_allclose(samples[..., r], ap_table(found), atol=1e-9)


def test_headlines_are_means_over_the_classes_there_are():
    matches, found = accumulated(*random_data(2, count=10), "segm")
    one = headline_samples(matches, ap_samples(matches, np.ones((10, 1), np.int32)))
    expected = average_precision.summary(found)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        value = getattr(expected, name)
        value = np.nan if value is None else value
        assert one[name,][0] == pytest.approx(value, nan_ok=True)
    assert expected.APm > 0
    assert one["per_class", "class 2"][0] == pytest.approx(found.precision[:, :, 1, 0].mean())
    assert np.isnan(one["per_class", "class 4"][0])
    view = matches.views.index(("occlusion", "heavy"))
    assert one["subsets", "occlusion", "heavy"][0] == pytest.approx(
        average_precision.mean(found.precision[..., view])
    )


def test_interval():
    assert bootstrap.interval(np.arange(101.0)) == pytest.approx([2.5, 97.5])
    assert bootstrap.interval(np.array([np.nan, 3.0])) == (3, 3)
    assert bootstrap.interval(np.array([np.nan])) is None

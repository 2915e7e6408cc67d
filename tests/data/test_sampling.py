"""How often and in which order images are visited, by hand-made counts."""

import numpy as np
import pytest

from mrcnn.data.dataset import Dataset
from mrcnn.data.sampling import checked_factors, epoch_order, image_weights, parse_focus

NAMES = ["long_sleeved_shirt", "trousers", "sling"]


class Labels(Dataset):
    """Images given by the class ids of their objects."""

    def __init__(self, images):
        super().__init__()
        for i, name in enumerate(NAMES, 1):
            self.add_class("own", i, name)
        for i, class_ids in enumerate(images):
            self.add_image("own", i, f"{i}.jpg", class_ids=class_ids)
        self.prepare()

    def load_class_ids(self, image_id):
        return np.array(self.image_info[image_id]["class_ids"], np.int32)

    def load_mask(self, image_id):
        raise AssertionError("masks aren't needed")


def test_repeat_factors_are_those_of_lvis():
    # Of 8 images all have trousers, two a shirt, one a sling, and a crowd doesn't count.
    dataset = Labels([[2], [2, 1], [1, 2, 2], [3, 2], [2, -3], [2], [2], [2]])
    weights = image_weights(dataset, "repeat_factor", threshold=0.5)
    shirt, sling = np.sqrt(0.5 / 0.25), np.sqrt(0.5 / 0.125)
    np.testing.assert_allclose(weights, [1, shirt, shirt, sling, 1, 1, 1, 1])
    assert image_weights(dataset).tolist() == [1] * 8
    assert image_weights(dataset, "repeat_factor", threshold=0.1).tolist() == [1] * 8


def test_focus_multiplies_images_with_the_class():
    dataset = Labels([[1], [2], [1, 2], [3], []])
    focus = "long_sleeved_shirt:2,trousers:3"
    assert image_weights(dataset, focus=focus).tolist() == [2, 3, 3, 1, 1]
    assert image_weights(dataset, focus={"long sleeved shirt": 2}).tolist() == [2, 1, 2, 1, 1]
    both = image_weights(dataset, "repeat_factor", threshold=0.8, focus={"sling": 5})
    np.testing.assert_allclose(both, [2**0.5, 2**0.5, 2**0.5, 2 * 5, 1])


def test_class_presence_without_images_of_a_class():
    assert image_weights(Labels([[], []]), "repeat_factor").tolist() == [1, 1]


def test_focus_in_words():
    assert parse_focus("long_sleeved_shirt:2, trousers:1.5") == {
        "long_sleeved_shirt": 2.0,
        "trousers": 1.5,
    }
    for text in ("trousers", "trousers:x", ":2", "", "a:1,a:2", "a:nan"):
        with pytest.raises(ValueError, match="write it like"):
            parse_focus(text)


def test_what_does_not_fit_is_refused():
    dataset = Labels([[1]])
    with pytest.raises(ValueError, match="balance is 'all'; use one of none, repeat_factor"):
        image_weights(dataset, "all")
    with pytest.raises(ValueError, match="class 'hat'; the data set has long_sleeved_shirt, tr"):
        image_weights(dataset, focus={"hat": 2})
    with pytest.raises(ValueError, match="factor 0.5; pass 1 or more"):
        image_weights(dataset, focus={"sling": 0.5})
    with pytest.raises(ValueError, match="pass a dict"):
        image_weights(dataset, focus=["sling"])
    with pytest.raises(ValueError, match="threshold of repeat factors is 0"):
        image_weights(dataset, "repeat_factor", threshold=0)
    for factors in ([1, 1], [0.5], [np.nan]):
        with pytest.raises(ValueError, match="pass what image_weights"):
            checked_factors(factors, 1)
    assert checked_factors(None, 3) is None


def order(count, seed=0, **values):
    values = {"shuffle": True} | values
    return epoch_order(np.arange(5), count, np.random.default_rng(seed), **values).tolist()


def test_passes_follow_each_other():
    twelve = order(12)
    assert sorted(twelve[:5]) == sorted(twelve[5:10]) == [0, 1, 2, 3, 4]
    assert order(12) == twelve != order(12, seed=1)
    assert order(7, shuffle=False) == [0, 1, 2, 3, 4, 0, 1]
    assert order(0) == []


def test_repeats_are_rounded_by_chance():
    factors = np.array([1, 1, 1, 3, 2.25])
    assert order(8, shuffle=False, repeat_factors=factors)[:8] in (
        [0, 1, 2, 3, 3, 3, 4, 4],
        [0, 1, 2, 3, 3, 3, 4, 4, 4][:8],
    )
    many = order(8250, repeat_factors=factors)
    counts = np.bincount(many)
    np.testing.assert_allclose(counts / 1000, factors, atol=0.06)
    assert order(40, repeat_factors=factors) == order(40, repeat_factors=factors)

"""Run lengths that don't fill their images are found before pycocotools hangs on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle_tools

from mrcnn.coco import run_lengths
from mrcnn.coco.run_lengths import first_broken


def encoded(mask):
    return rle_tools.encode(np.asfortranarray(mask, np.uint8))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9)), max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_what_pycocotools_writes_is_sound(shapes, seed):
    rng = np.random.default_rng(seed)
    assert first_broken([encoded(rng.random((h, w)) < n / 9) for h, w, n in shapes]) is None


def test_long_runs_are_sound():
    mask = np.zeros((3000, 4000), bool)
    mask[:, 1000:1001] = mask[5:9, 3000] = True
    assert first_broken([encoded(mask), encoded(~mask)]) is None


def test_as_text_or_bytes():
    rle = encoded(np.eye(5))
    assert first_broken([rle | {"counts": rle["counts"].decode()}]) is None


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "abc###",  # digits that there are not
        "o",  # another digit should follow
        "9",  # 9 of 25 pixels
        "9@0",  # 9, then -16
        "ooooooooooo0",  # a number of 60 bits
        "\u4e2d",
        None,
        7,
    ],
)
def test_broken(counts):
    sound = encoded(np.eye(5))
    assert first_broken([sound, sound, {"size": [5, 5], "counts": counts}, sound]) == 2


def test_a_mask_twice_in_a_row_is_too_long():
    rle = encoded(np.eye(5))
    assert first_broken([rle | {"counts": rle["counts"] * 3}]) == 0


def test_a_mask_of_another_size():
    assert first_broken([encoded(np.eye(5)) | {"size": [5, 6]}]) == 0


def test_chunks(monkeypatch):
    monkeypatch.setattr(run_lengths, "CHUNK", 2)
    rles = [encoded(np.eye(5))] * 5
    assert first_broken(rles) is None
    assert first_broken([*rles, {"size": [5, 5], "counts": "9"}]) == 5

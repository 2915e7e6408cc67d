"""Masks that follow the edges of the image."""

import sys

import numpy as np
import pytest

from mrcnn.core.image import stretch_mask
from mrcnn.inference.refine import load_opencv, refine_mask


def test_a_coarse_mask_finds_the_edge():
    """A red disc on grey, and probabilities that miss its edge by several pixels."""
    rng = np.random.default_rng(0)
    grid = np.arange(120) - 59.5
    disc = np.hypot(grid[:, None], grid) < 40
    image = np.where(disc[..., None], (200, 30, 30), (120, 120, 120)) + rng.normal(
        0, 8, (120, 120, 3)
    )
    image = image.clip(0, 255).astype(np.uint8)
    cells = np.arange(28) - 13.5
    coarse = 1 / (1 + np.exp((np.hypot(cells[:, None] - 1, cells) - 9) * 0.7))
    values = stretch_mask(coarse, 120, 120)
    before, after = ((m != disc).sum() for m in (values >= 0.5, refine_mask(image, values)))
    assert before > 300 and after < 0.2 * before
    assert (refine_mask(image, values) == refine_mask(image, values)).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_fit_that_loses_the_garment_is_dropped(seed):
    """The network is sure of the frame only; inside, the image looks like the frame."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (60, 60, 3)).astype(np.uint8)
    values = np.full((60, 60), 0.1)
    values[20:40, 20:40] = 0.6
    image[20:40, 20:40] = image[0:20, 20:40]
    plain = values >= 0.5
    fitted = refine_mask(image, values)
    assert (fitted & plain).sum() >= 0.4 * (fitted | plain).sum() > 0


@pytest.mark.parametrize("share", [0.0, 0.39, 0.41, 2.4, 2.6])
def test_which_fits_are_dropped(monkeypatch, share):
    """A fit of fewer or more pixels than the plain mask's 100, by hand."""
    import cv2

    values = np.full((40, 20), 0.3)
    values[:10, :10] = 0.7
    flat = np.zeros(800, np.uint8)
    flat[: round(100 * share)] = 1
    order = np.argsort(values < 0.5, axis=None, kind="stable")  # the plain mask's pixels first

    def cut(image, guess, *_):
        guess.ravel()[order] = np.where(flat, cv2.GC_PR_FGD, cv2.GC_PR_BGD)

    monkeypatch.setattr(cv2, "grabCut", cut)
    area = refine_mask(np.zeros((40, 20, 3), np.uint8), values).sum()
    assert area == (round(100 * share) if 0.4 <= share <= 2.5 else 100)


@pytest.mark.parametrize("value", [0.1, 0.9])
def test_nothing_to_learn_from_leaves_the_mask(value):
    image = np.zeros((30, 30, 3), np.uint8)
    assert (refine_mask(image, np.full((30, 30), value)) == (value > 0.5)).all()


def test_tiny_boxes_are_left_alone():
    values = np.array([[0.2, 0.9], [0.7, 0.4]])
    assert (refine_mask(np.zeros((2, 2, 3), np.uint8), values) == (values >= 0.5)).all()


def test_large_boxes_are_cut_at_a_smaller_size(monkeypatch):
    monkeypatch.setattr("mrcnn.inference.refine.LARGEST", 40)
    image = np.zeros((100, 60, 3), np.uint8)
    image[:, :30] = 200
    values = np.tile(np.linspace(1, 0, 60), (100, 1))
    assert abs(refine_mask(image, values).sum() - 3000) < 300


def test_without_opencv_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        load_opencv()

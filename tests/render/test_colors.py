"""Colour names of garments."""

import numpy as np
import pytest

from mrcnn.render.colors import COLORS, color_name, to_lab


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((10, 10, 12), "black"), ((250, 250, 248), "white"), ((120, 122, 120), "grey"),
        ((200, 10, 20), "red"), ((20, 120, 50), "green"), ((30, 80, 190), "blue"),
        ((15, 25, 70), "navy"), ((240, 215, 30), "yellow"), ((250, 140, 20), "orange"),
        ((100, 60, 35), "brown"), ((215, 195, 160), "beige"), ((245, 140, 180), "pink"),
        ((110, 40, 140), "purple"), ((50, 185, 180), "turquoise"), ((100, 100, 45), "olive"),
    ],
)  # fmt: skip
def test_plain_colours(rgb, name):
    assert color_name(np.tile(np.array(rgb, np.uint8), (50, 1))) == name


def test_every_shade_has_its_own_name():
    for name, shades in COLORS.items():
        for shade in shades:
            assert color_name(np.array([shade], np.uint8)) == name


def test_most_pixels_win_not_the_mean():
    stripes = np.array([[200, 10, 20]] * 6 + [[250, 250, 250]] * 4, np.uint8)
    assert color_name(stripes) == "red"  # their mean would be pink


def test_no_pixels():
    assert color_name(np.zeros((0, 3), np.uint8)) == ""


def test_large_garments_are_sampled_evenly():
    pixels = np.zeros((100_001, 3), np.uint8)
    pixels[:40_000] = (200, 10, 20)
    assert color_name(pixels) == "black"


def test_cielab_is_that_of_scikit_image():
    from skimage.color import rgb2lab

    steps = np.arange(0, 256, 15, np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    np.testing.assert_allclose(to_lab(cube), rgb2lab(cube), atol=1e-3)
    assert to_lab(cube[:0]).shape == (0, 3)

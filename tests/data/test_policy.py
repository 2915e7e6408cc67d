"""What policies draw: by hand-made extremes and over many draws."""

import dataclasses

import numpy as np
import pytest

from mrcnn.core.image import plan_resize
from mrcnn.data.policy import DEFAULT, FLIP, PLAIN, ZOOM, Policy, Variation, total_matrix

SHAPE = (200, 100)
OFF = Policy(flip=0, move=0, colour=0, blur=0, occlusion=0)


def draws(policy, count=300, shape=SHAPE):
    rng = np.random.default_rng(0)
    return [policy.draw(rng, shape) for _ in range(count)]


def test_nothing_is_drawn_from_an_empty_policy():
    assert draws(OFF, 5) == [Variation(False, None, None, 0.0, [], False)] * 5


def test_shares_are_kept():
    many = draws(Policy(paste=0.3))
    assert 0.4 < np.mean([v.flip for v in many]) < 0.6
    assert 0.6 < np.mean([v.matrix is not None for v in many]) < 0.8
    assert 0.5 < np.mean([v.colours is not None for v in many]) < 0.7
    assert 0.08 < np.mean([v.blur > 0 for v in many]) < 0.22
    assert 0.12 < np.mean([bool(v.holes) for v in many]) < 0.28
    assert 0.2 < np.mean([v.paste for v in many]) < 0.4
    assert {v.matrix is None and v.colours is None for v in draws(FLIP)} == {True}


def test_moves_stay_in_their_ranges():
    middle = np.array([50, 100])
    for v in draws(dataclasses.replace(OFF, move=1)):
        turn, shift = v.matrix[:, :2], v.matrix[:, 2]
        scale = np.sqrt(np.linalg.det(turn))
        assert 0.8 <= scale <= 1.25
        assert abs(np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))) <= 8
        # The middle of the image moves by a tenth of its sides at most.
        assert (np.abs(turn @ middle + shift - middle) <= (10, 20)).all()
    scales = [
        np.sqrt(np.linalg.det(v.matrix[:, :2])) for v in draws(dataclasses.replace(OFF, zoom=1))
    ]
    assert 1.3 <= min(scales) < 1.4 and 2.5 < max(scales) <= 2.8
    assert ZOOM.zoom > DEFAULT.zoom > 0


def test_brightness_and_contrast_are_what_they_say():
    only = dataclasses.replace(OFF, colour=1, contrast=0, saturation=0, hue=0, tint=0)
    for v in draws(only, 20):
        gain = v.colours[0, 0]
        assert 0.75 <= gain <= 1.25
        np.testing.assert_allclose(v.colours, gain * np.eye(3, 4), atol=1e-12)
    only = dataclasses.replace(only, brightness=0, contrast=0.25)
    for v in draws(only, 20):
        grey = np.array([127.5, 127.5, 127.5, 1])
        np.testing.assert_allclose(v.colours @ grey, 127.5)  # contrast turns about middle grey


def test_hue_and_saturation_leave_grey_and_brightness():
    only = dataclasses.replace(OFF, colour=1, brightness=0, contrast=0, tint=0, hue=0)
    luma = np.array([0.299, 0.587, 0.114])
    for v in draws(only, 20):
        np.testing.assert_allclose(v.colours @ [80, 80, 80, 1], 80)
        assert luma @ v.colours @ [200, 50, 10, 1] == pytest.approx(luma @ [200, 50, 10])
    for v in draws(dataclasses.replace(only, saturation=0, hue=10), 20):
        np.testing.assert_allclose(v.colours @ [80, 80, 80, 1], 80)
        turned = v.colours @ [200, 50, 10, 1]
        assert turned.sum() == pytest.approx(260)


def test_dyes_take_any_hue():
    rng = np.random.default_rng(0)
    strongest = [(DEFAULT.draw_dye(rng) @ [200, 50, 10, 1]).argmax() for _ in range(60)]
    assert min(np.bincount(strongest, minlength=3)) > 10


def test_holes_lie_in_the_image():
    for v in draws(dataclasses.replace(OFF, occlusion=1)):
        assert 1 <= len(v.holes) <= 3
        for (y1, x1, y2, x2), colour, _ in v.holes:
            assert 0 <= y1 < y2 <= 200 and 0 <= x1 < x2 <= 100
            assert len(colour) == 3


def test_the_same_generator_gives_the_same_draws():
    for a, b in zip(draws(DEFAULT, 20), draws(DEFAULT, 20), strict=True):
        np.testing.assert_equal(a._asdict(), b._asdict())


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"flip is 2; pass a share"):
        Policy(flip=2)
    with pytest.raises(ValueError, match=r"scale is \(0, 1\); pass 0 < low"):
        Policy(scale=(0, 1))
    with pytest.raises(ValueError, match=r"contrast is 1.5"):
        Policy(contrast=1.5)
    with pytest.raises(ValueError, match=r"hole_side is \(0.5, 2\)"):
        Policy(hole_side=(0.5, 2))
    with pytest.raises(ValueError, match=r"angle is -3"):
        Policy(angle=-3)


def test_the_matrix_of_resizing():
    # 50 x 100 becomes 100 x 200, padded by 50 on either side.
    plan = plan_resize((100, 50), min_dim=100, max_dim=200)
    np.testing.assert_allclose(
        total_matrix(plan, (100, 50), (200, 200), PLAIN), [[2, 0, 50], [0, 2, 0]]
    )
    flipped = total_matrix(plan, (100, 50), (200, 200), Variation(flip=True))
    np.testing.assert_allclose(flipped, [[-2, 0, 150], [0, 2, 0]])
    moved = Variation(flip=True, matrix=np.array([[1.0, 0, 7], [0, 1, 9]]))
    np.testing.assert_allclose(
        total_matrix(plan, (100, 50), (200, 200), moved), [[-2, 0, 157], [0, 2, 9]]
    )
    crop = plan_resize((100, 50), min_dim=50, mode="crop", rng=np.random.default_rng(0))
    np.testing.assert_allclose(
        total_matrix(crop, (100, 50), (50, 50)), [[1, 0, 0], [0, 1, -crop.crop[0]]]
    )

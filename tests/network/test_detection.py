"""What programs pass as images: taken as it is, or refused with what to do."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.coco_files import config

pytestmark = pytest.mark.tf
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)
PIXELS[0, 0], PIXELS[0, 1] = 255, 0


def as_image(image, channels=3):
    from mrcnn.network.detection import as_image

    return as_image(image, channels)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "int64", "uint64"])
def test_integers_become_uint8(dtype):
    pixels = PIXELS // 2 if dtype == "int8" else PIXELS
    taken = as_image(pixels.astype(dtype))
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, pixels)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_stay_as_they_are(dtype):
    floats = (PIXELS - PIXELS % 2 * 0.5).astype(dtype)
    assert as_image(floats) is floats
    rounded = floats.copy()
    rounded[0, 0], rounded[0, 1] = 255.25, -0.25  # as resizing leaves it
    assert as_image(rounded) is rounded


def test_what_becomes_an_array_is_taken():
    assert as_image(PIXELS) is PIXELS
    for image in (PIXELS.tolist(), Image.fromarray(PIXELS), list(PIXELS)):
        np.testing.assert_array_equal(as_image(image), PIXELS)
    black = np.zeros((2, 3, 3), np.int64)
    np.testing.assert_array_equal(as_image(black), black)


def broken(value):
    image = PIXELS.astype(np.float32)
    image[3, 2, 1] = value
    return image


WANTED = r"give \[height, width, 3\] uint8 RGB"
REFUSED = {
    "0 to 1": (PIXELS / 255, r"float64 \(6, 5, 3\) with values from 0 to 1; .* 255 \* image"),
    "0 to 1, float32": ((PIXELS / 255).astype(np.float32), "such as 255"),
    "black floats": (np.zeros((4, 4, 3)), "with values from 0 to 0; give values from 0 to 255"),
    "-1 to 1": (PIXELS / 127.5 - 1, "from -1 to 1; give values from 0 to 255"),
    "mean subtracted": (PIXELS - np.array([123.7, 116.8, 103.9]), "from -123.7 to 151.1; give"),
    "16 bits": (PIXELS.astype(np.uint16) * 257, "uint16 .* from 0 to 65535; give values from 0"),
    "negative": (PIXELS.astype(int) - 1, "int64 .* from -1 to 254; give values"),
    "256": (PIXELS.astype(int) + 1, "from 1 to 256; give values"),
    "NaN": (broken(np.nan), "from nan to nan; give values from 0 to 255"),
    "inf": (broken(np.inf), "to inf; give values from 0 to 255"),
    "-inf": (broken(-np.inf), "from -inf to"),
    "NaN only": (np.full((2, 2, 3), np.nan), "from nan"),
    "bool": (PIXELS > 99, f"got an image of bool .*; {WANTED}"),
    "complex": (PIXELS.astype(complex), WANTED),
    "objects": (PIXELS.astype(object), rf"object \(6, 5, 3\); {WANTED}"),
    "texts": (PIXELS.astype(str), WANTED),
    "dates": (PIXELS.astype("datetime64[s]"), WANTED),
    "None": (None, WANTED),
    "a path": ("photo.jpg", WANTED),
    "grey": (PIXELS[..., 0], rf"shape \(6, 5\); {WANTED}"),
    "grey, 1 channel": (PIXELS[..., :1], rf"shape \(6, 5, 1\); {WANTED}"),
    "RGBA": (np.dstack([PIXELS, PIXELS[..., 0]]), rf"\(6, 5, 4\); {WANTED}"),
    "a batch": (PIXELS[None], rf"\(1, 6, 5, 3\); {WANTED}"),
    "channels first": (PIXELS.transpose(2, 0, 1), WANTED),
    "no rows": (PIXELS[:0], rf"\(0, 5, 3\); {WANTED}"),
    "no columns": (PIXELS[:, :0], rf"\(6, 0, 3\); {WANTED}"),
    "no pixels, floats": (np.zeros((0, 0, 3)), WANTED),
    "an empty list": ([], WANTED),
    "uneven lists": ([[[1, 2, 3]], [[1, 2, 3], [4, 5, 6]]], f"differ in length; {WANTED}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused(case):
    image, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        as_image(image)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_counts_of_channels(channels):
    pixels = RNG.integers(0, 256, (4, 5, channels)).astype(np.uint8)
    assert as_image(pixels, channels) is pixels
    wanted = rf"\(6, 5, 3\); give \[height, width, {channels}\] uint8$"
    with pytest.raises(ValueError, match=wanted):
        as_image(PIXELS, channels)


def test_floats_are_molded_as_the_original_does():
    """Not rounded after resizing, unlike integers."""
    from mrcnn.network.detection import mold

    small = config(IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64, IMAGE_RESIZE_MODE="square")
    molded = [mold([PIXELS.astype(t)], small)[0] for t in ("uint8", "int64", "float32", "float64")]
    np.testing.assert_array_equal(molded[0], molded[1])
    np.testing.assert_allclose(molded[2], molded[3], atol=1e-4)
    between = molded[3] - molded[0]
    assert (between > -1e-4).all() and (between < 1.001).all() and (between > 0.1).any()

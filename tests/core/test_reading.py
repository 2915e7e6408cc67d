"""Reading images: every format, every mode, and all that is no image."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image

from mrcnn.core import reading
from tests.helpers import GOLDEN


@pytest.fixture(scope="module")
def photos():
    with np.load(GOLDEN / "images.npz") as arrays:
        return dict(arrays)


CORNERS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [90, 90, 90], [255, 255, 255]]], np.uint8
)


def saved(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def check_read(path, expected):
    image = reading.read_image(path)
    assert image.dtype == np.uint8
    assert image.tolist() == np.asarray(expected).tolist()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.ppm"])
def test_read_formats(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    check_read(saved(tmp_path, Image.fromarray(CORNERS), name, **options), CORNERS)


def test_read_takes_str_and_gives_an_array_to_draw_on(tmp_path):
    image = reading.read_image(str(saved(tmp_path, Image.fromarray(CORNERS))))
    image[:] = 7


def test_read_palette_grey_and_bilevel(tmp_path):
    check_read(saved(tmp_path, Image.fromarray(CORNERS).quantize(6)), CORNERS)
    grey = np.array([[0, 100, 255]], np.uint8)
    check_read(saved(tmp_path, Image.fromarray(grey)), np.stack([grey] * 3, axis=-1))
    check_read(saved(tmp_path, Image.fromarray(grey > 99)), [[[0] * 3, [255] * 3, [255] * 3]])


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
def test_read_16_bit_scaled(tmp_path, name):
    deep = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    expected = [[[v] * 3 for v in (0, 1, 128, 255)]]
    check_read(saved(tmp_path, Image.fromarray(deep), name), expected)


def test_read_32_bit(tmp_path):
    whole = Image.fromarray(np.array([[0, 257, 65535, 70000]], np.int32))
    expected = [[[v] * 3 for v in (0, 1, 255, 255)]]
    check_read(saved(tmp_path, whole, "whole.tiff"), expected)
    share = Image.fromarray(np.array([[0, 1 / 255, 1]], np.float32))
    check_read(saved(tmp_path, share, "share.tiff"), [[[v] * 3 for v in (0, 1, 255)]])


def test_read_cmyk(tmp_path):
    ink = Image.new("CMYK", (2, 1), (0, 255, 255, 0))
    check_read(saved(tmp_path, ink, "ink.tiff"), [[[255, 0, 0]] * 2])


def test_read_puts_transparency_on_white(tmp_path):
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    check_read(saved(tmp_path, Image.fromarray(pixels)), expected)

    grey = Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8))
    check_read(saved(tmp_path, grey, "grey.png"), [[[9] * 3, [255] * 3]])

    palette = Image.fromarray(CORNERS).quantize(6)
    clear = palette.getpixel((0, 0))
    expected = CORNERS.copy()
    expected[0, 0] = 255
    check_read(saved(tmp_path, palette, "palette.gif", transparency=clear), expected)


def test_read_takes_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (3, 2), color) for color in ("red", "blue")]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    check_read(path, np.tile(np.array([255, 0, 0]), (2, 3, 1)))


@pytest.mark.parametrize("name", ["turned.png", "turned.tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_turns_upright(tmp_path, orientation, name):
    # Orientation: where the stored first row and first column belong in the upright image.
    stored = {
        1: CORNERS,
        2: CORNERS[:, ::-1],
        3: CORNERS[::-1, ::-1],
        4: CORNERS[::-1],
        5: CORNERS.swapaxes(0, 1),
        6: np.rot90(CORNERS),
        7: np.rot90(CORNERS, 2).swapaxes(0, 1),
        8: np.rot90(CORNERS, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    path = saved(tmp_path, image, name, exif=exif)
    check_read(path, CORNERS)
    if name.endswith("png"):  # Pillow turns TIFF files itself.
        assert np.array_equal(reading.read_image(path, apply_exif=False), stored)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_read_ignores_broken_exif(tmp_path):
    path = saved(tmp_path, Image.fromarray(CORNERS), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0")
    check_read(path, CORNERS)


def test_read_refuses_what_is_no_image(tmp_path, photos):
    with pytest.raises(reading.ImageError, match="is a directory; pass the path of an image"):
        reading.read_image(tmp_path)
    with pytest.raises(reading.ImageError, match=r"gone\.jpg does not exist"):
        reading.read_image(tmp_path / "gone.jpg")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(reading.ImageError, match=r"empty\.jpg cannot be read: the file is empty"):
        reading.read_image(empty)
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    with pytest.raises(
        reading.ImageError, match=r"text\.jpg cannot be read: it is not an image, or"
    ):
        reading.read_image(text)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.webp", "cut.gif", "cut.bmp"])
def test_read_refuses_truncated_images(tmp_path, photos, name):
    path = saved(tmp_path, Image.fromarray(photos["chelsea"]), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(reading.ImageError, match=r"cannot be read: .*; pass"):
        reading.read_image(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_read_jpeg_of_all_modes(tmp_path, mode, options):
    grey = Image.new("RGB", (16, 16), (90, 90, 90)).convert(mode)
    image = reading.read_image(saved(tmp_path, grey, "a.jpg", quality=95, **options))
    assert image.shape == (16, 16, 3) and np.abs(image.astype(int) - 90).max() <= 3


def test_read_avif_and_a_single_pixel(tmp_path):
    image = reading.read_image(saved(tmp_path, Image.new("RGB", (32, 16), (90, 20, 30)), "a.avif"))
    assert image.shape == (16, 32, 3) and abs(int(image[8, 8, 0]) - 90) < 8
    check_read(saved(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3))), [[[1, 2, 3]]])


def test_heic_is_read_or_says_what_it_needs(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    with pytest.raises(reading.ImageError, match="cannot be read: .*; pass a valid JPEG"):
        reading.read_image(tmp_path / "a.HEIC")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    path = saved(tmp_path, Image.new("L", (40, 30)))
    path.write_bytes(path.read_bytes()[:45])  # the header, and nothing to decode
    with pytest.raises(reading.ImageError, match="40 x 30 pixels, more than the 1,000 that"):
        reading.read_image(path, max_pixels=1000)
    with pytest.raises(reading.ImageError, match="truncated|broken"):
        reading.read_image(path, max_pixels=1200)
    bomb = bytearray(saved(tmp_path, Image.new("L", (1, 1)), "bomb.png").read_bytes())
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(reading.ImageError, match="cannot be read"):
        reading.read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%id)"),
        ("hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 600),
        ("mpeg", b"\0\0\1\xb3\x10\0\x10\0" + b"\0" * 60),
    ],
)
def test_what_pillow_hands_on_or_only_knows_by_name_is_no_image(tmp_path, name, content):
    path = tmp_path / f"{name}.jpg"
    path.write_bytes(content)
    assert not reading.is_image(path) and reading.count_pixels(path) == 0
    with pytest.raises(reading.ImageError, match="it is not an image, or of an unknown format"):
        reading.read_image(path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("image file is truncated (3 bytes not processed)"), "it is cut off (image file"),
        (AssertionError(), "its data are damaged (AssertionError)"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (ValueError("Decompressed data too large for MAX_TEXT_CHUNK"), "its metadata unpack"),
        (OSError("Unsupported BMP compression (7)"), "it is of a kind that can't be decoded (Uns"),
        (MemoryError(), "it doesn't fit into memory"),
    ],
)
def test_reasons_need_no_knowledge_of_pillow(tmp_path, error, reason):
    assert reading._reason(error, tmp_path / "a.jpg").startswith(reason)


def test_a_file_that_only_begins_as_an_image(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (32, 16)), "a.avif")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(reading.ImageError, match="begins as AVIF but is cut off or damaged"):
        reading.read_image(path)


def test_count_pixels(tmp_path):
    assert reading.count_pixels(saved(tmp_path, Image.new("L", (40, 30)))) == 1200
    assert reading.count_pixels(tmp_path) == reading.count_pixels(tmp_path / "gone.png") == 0


@pytest.mark.filterwarnings("error")
def test_not_a_number_is_black(tmp_path):
    odd = Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 0.5]], np.float32))
    assert reading.read_image(saved(tmp_path, odd, "odd.tiff"))[0, :3, 0].tolist() == [0, 255, 0]


def test_links_pipes_and_odd_names(tmp_path):
    os.symlink("nowhere.jpg", tmp_path / "link.jpg")
    with pytest.raises(reading.ImageError, match="is a link to a file that does not exist"):
        reading.read_image(tmp_path / "link.jpg")
    os.symlink("circle.jpg", tmp_path / "circle.jpg")
    with pytest.raises(reading.ImageError, match="is a link that leads in a circle"):
        reading.read_image(tmp_path / "circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(reading.ImageError, match="is no regular file"):  # and doesn't wait
        reading.read_image(tmp_path / "pipe.jpg")
    with pytest.raises(reading.ImageError, match="cannot be opened"):
        reading.read_image("a" * 5000)


def test_is_image_goes_by_content(tmp_path):
    path = saved(tmp_path, Image.new("L", (2, 2)))
    path.rename(tmp_path / "plain")
    (tmp_path / "text.jpg").write_text("text")
    assert reading.is_image(tmp_path / "plain")
    assert not reading.is_image(tmp_path / "text.jpg")
    assert not reading.is_image(tmp_path)


def test_quiet_pillow(recwarn, monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    path = saved(tmp_path, Image.new("L", (30, 30)))
    with reading.quiet_pillow():
        reading.read_image(path)
    assert not recwarn.list
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reading.read_image(path)
    assert caught[0].category is Image.DecompressionBombWarning

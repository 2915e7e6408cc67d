"""labelme's JSON against annotations made by hand."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from tests.helpers.importing import HEIGHT, SQUARE, WIDTH, convert, iou, save_image, save_json

CORNERS = [10, 5, 30, 5, 30, 25, 10, 25]


def shape(points=SQUARE, kind="polygon", label="cat", **more):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **more}


def content(*shapes, image="a.png", **more):
    return {
        "version": "5.5.0",
        "flags": {"blurred": True},
        "shapes": list(shapes),
        "imagePath": image,
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
        **more,
    }


def write(root, *shapes, name="a", **more):
    save_image(root / f"{name}.png")
    save_json(root / f"{name}.json", content(*shapes, image=f"{name}.png", **more))
    return root


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def disc(cx, cy, radius):
    """Pixels whose centre is in a circle."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return (columns - cx) ** 2 + (rows - cy) ** 2 <= radius**2


def test_shapes(tmp_path):
    mask = disc(20, 20, 12)[8:32, 8:32]
    turned = [40, 10, 60, 30, 50, 40, 30, 20]
    data = write(
        tmp_path / "data",
        shape(label="dog"),
        shape([[30, 25], [10, 5]], "rectangle"),
        shape([[40, 30], [40, 45]], "circle"),
        shape([[8, 8], [31, 31]], "mask", mask=png(mask)),
        shape([turned[i : i + 2] for i in range(0, 8, 2)], "oriented_rectangle"),
        shape(None, "polygon") | {"points": SQUARE, "shape_type": None},  # as version 3 wrote
        imageData="A" * 1000,
    )
    found = convert("labelme", data)
    assert found.names == ["cat", "dog"]
    assert found.images == {"train": {"a.png": (WIDTH, HEIGHT)}}
    polygon, rectangle, circle, masked, oriented, old = found.annotations["train"]
    assert polygon == ("a.png", "dog", [10, 5, 20, 20], 400, [CORNERS])
    assert (rectangle.box, rectangle.area) == ([10, 5, 20, 20], 400)
    assert (oriented.segmentation, old.segmentation) == ([turned], [CORNERS])
    assert iou(found.pixels(number=2), disc(40, 30, 15)) > 0.98
    assert circle.area == pytest.approx(math.pi * 15**2, rel=0.01)
    assert np.array_equal(found.pixels(number=3), disc(20, 20, 12))
    assert set(masked.segmentation) == {"size", "counts"}
    assert not found.problems


def test_parts_of_a_group_are_one_object(tmp_path):
    mask = png(np.ones((10, 10)))
    data = write(
        tmp_path / "data",
        shape(group_id=7),
        shape([[50, 5], [60, 5], [60, 15]], group_id=7),
        shape(label="dog", group_id=7),
        shape([[60, 40], [69, 49]], "mask", group_id=1, mask=mask),
        shape([[20, 40], [30, 50]], "rectangle", group_id=1),
        shape(),
    )
    found = convert("labelme", data)
    both, dog, mixed, alone = found.annotations["train"]
    assert both.segmentation == [CORNERS, [50, 5, 60, 5, 60, 15]]
    assert (dog.name, dog.segmentation) == ("dog", [CORNERS])
    assert (mixed.area, mixed.box) == (200, [20, 40, 50, 10])
    assert alone.segmentation == [CORNERS]


def test_folders_labels_and_paths(tmp_path):
    """Windows' paths, images beside or elsewhere, and labels.txt, which orders the classes."""
    data = tmp_path / "data"
    save_image(data / "images" / "a.png")
    save_image(data / "images" / "\u00e9.png")
    save_json(data / "labels" / "a.json", content(shape(), image="..\\images\\a.png"))
    save_json(data / "labels" / "e.json", content(image="../images/e\u0301.png"))
    (data / "labels.txt").write_text("__ignore__\n_background_\nzebra\ncat\n")
    found = convert("labelme", data)
    assert found.names == ["zebra", "cat"]
    assert list(found.images["train"]) == ["images/a.png", "images/\u00e9.png"]
    assert found.one().image == "images/a.png"
    elsewhere = convert("labelme", data / "labels", "--image_dir", data / "images", output=data)
    assert list(elsewhere.images["train"]) == ["a.png", "\u00e9.png"]


def test_folders_of_splits(tmp_path):
    data = tmp_path / "data"
    for folder in ("train", "val/deep", "other"):
        write(data / folder, shape())
    found = convert("labelme", data)
    assert {name: list(images) for name, images in found.images.items()} == {
        "train": ["train/a.png"],
        "validation": ["val/deep/a.png"],
    }
    assert found.problems == [("other/a.json", "", "other file")]


def test_one_file(tmp_path):
    data = write(tmp_path / "data", shape())
    write(data, shape(), name="b")
    assert convert("labelme", data / "b.json").one().image == "b.png"


def test_our_own_files_are_no_annotations(tmp_path):
    """So that a second run in the same folder finds what the first one found."""
    data = write(tmp_path / "data", shape())
    for _ in range(2):
        assert convert("labelme", data, output=data).problems == []


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (shape(kind="point", points=[[1, 2]]), "no area"),
        (shape(kind="line", points=[[1, 2], [3, 4]]), "no area"),
        (shape(kind="linestrip"), "no area"),
        (shape(kind="hexagon"), "bad shape"),
        (shape(kind="circle"), "bad shape"),
        (shape([[1, 2], [3, 4]]), "bad shape"),
        (shape([]), "bad shape"),
        (shape([[1, 2, 3]] * 3), "bad shape"),
        (shape([[1, None], [2, 3], [4, 5]]), "bad shape"),
        (shape([["1", "2"], [2, 3], [4, 5]]), "bad shape"),
        (shape([[1, math.nan], [2, 3], [4, 5]]), "bad shape"),
        (shape([[1, 1e18], [2, 3], [4, 5]]), "bad polygon"),
        (shape([[1, 10**400], [2, 3], [4, 5]]), "bad shape"),
        (shape([[200, 200], [210, 200], [210, 210]]), "empty item"),
        (shape([[0, 0], [1e18, 1e18]], "rectangle"), "bad polygon"),
        (shape([[0, 0], [1e300, 1e300]], "circle"), "bad polygon"),
        (shape(label=""), "no class"),
        (shape(label=3), "bad shape"),
        (shape(label="__ignore__"), "no class"),
        (shape(label="a\x1b[31m"), "bad class name"),
        (shape(group_id=[1]), "bad shape"),
        (shape([[0, 0], [3, 3]], "mask"), "bad mask"),
        (shape([[0, 0], [3, 3]], "mask", mask="~~~"), "bad mask"),
        (shape([[0, 0], [3, 3]], "mask", mask=png(np.ones((9, 9)))), "bad mask"),
        (shape([[78, 0], [81, 3]], "mask", mask=png(np.ones((4, 4)))), "bad mask"),
        (shape([[0, 0], [1e300, 3]], "mask", mask=png(np.ones((4, 4)))), "bad mask"),
        (shape([[0, 0], [3, 3]], "mask", mask=png(np.zeros((4, 4)))), "empty item"),
        (None, "bad shape"),
        (17, "bad shape"),
    ],
    ids=range(29),
)
def test_a_bad_shape_is_skipped(tmp_path, bad, kind):
    found = convert("labelme", write(tmp_path / "data", bad, shape(label="dog")))
    assert found.problems == [("a.json", "shape 1", kind)]
    assert found.one() == ("a.png", "dog", [10, 5, 20, 20], 400, [CORNERS])


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ("", "not labelme's JSON"),
        ("[]", "not labelme's JSON"),
        ('{"shapes": []', "not labelme's JSON"),
        ('{"imagePath": "a.png"}', "not labelme's JSON"),
        ({"images": [], "annotations": []}, "not labelme's JSON"),
        (content() | {"shapes": {}}, "not labelme's JSON"),
        ('{"shapes": ' + "[" * 200_000, "not labelme's JSON"),
        ('{"imagePath": "a.png", "shapes": [' + '"x",' * 9_000_000 + "0]}", "too many shapes"),
        (content(image=None), "not labelme's JSON"),
        (content(image=""), "bad file name"),
        (content(image="../"), "bad file name"),
        (content(image="none.png"), "missing picture"),
        (content(image="../secret.png"), "missing picture"),
        (content(image="/etc/passwd"), "missing picture"),
        (content(image="x" * 100_000), "missing picture"),
        (content(image="x/" * 100_000), "missing picture"),
        (content(image="a.png\0b"), "missing picture"),
        (content(image="line\nend.png"), "missing picture"),
        (content(imageWidth=800, imageHeight=600), "size mismatch"),
        (content(imageWidth=1e300), "size mismatch"),
        (content(imageWidth="80"), "not labelme's JSON"),
        (content(image="notes.txt"), "unreadable picture"),
        (content(image="huge.ppm"), "unreadable picture"),
    ],
    ids=range(23),
)
def test_a_file_that_is_no_use_costs_its_image(tmp_path, bad, kind):
    data = write(tmp_path / "data", shape(), name="good")
    save_image(tmp_path / "secret.png")
    save_image(data / "a.png")
    (data / "notes.txt").write_text("no image")
    (data / "huge.ppm").write_bytes(b"P6 99999999999 1 255\n")
    save_json(data / "bad.json", bad)
    found = convert("labelme", data)
    assert found.problems == [("bad.json", "", kind)]
    assert found.one().image == "good.png"


def test_nan_of_other_tools_and_byte_order_marks(tmp_path):
    data = write(tmp_path / "data", shape(), name="good")
    text = (data / "good.json").read_text()
    text = text.replace('"imageData": null', '"x": [NaN, -Infinity, "NaN \\" Infinity"]')
    (data / "good.json").write_text("\ufeff" + text, encoding="utf-8")
    assert not convert("labelme", data).problems


def test_an_image_annotated_twice_counts_once(tmp_path):
    data = write(tmp_path / "data", shape())
    save_json(data / "b.json", content(shape(), shape()))
    found = convert("labelme", data)
    assert found.problems == [("b.json", "", "image annotated twice")]
    assert found.one().area == 400


def test_a_folder_without_json(tmp_path):
    (tmp_path / "data").mkdir()
    assert "has no JSON files" in convert("labelme", tmp_path / "data", status=2).printed

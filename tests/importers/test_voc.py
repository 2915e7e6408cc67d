"""Pascal VOC's XML and masks against annotations made by hand."""

import numpy as np
import pytest
from PIL import Image

from mrcnn.importers.voc_masks import Legend, voc_colors
from tests.helpers.importing import HEIGHT, WIDTH, convert, save_image

BOX = (11, 6, 30, 25)  # the first and the last pixel, from 1: 20 x 20 at (10, 5)


def an_object(name="cat", box=BOX, more=""):
    sides = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox>{more}</object>"


def xml(*objects, size=(WIDTH, HEIGHT), filename="a.jpg"):
    return (
        f"<annotation><filename>{filename}</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def save_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def save_mask(path, values):
    """A PNG with VOC's palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8), "P")
    image.putpalette([code >> shift & 255 for code in voc_colors() for shift in (16, 8, 0)])
    image.save(path)


def painted(*rectangles):
    """[H, W] of 0 and, in each (value, x1, y1, x2, y2), its value."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, x1, y1, x2, y2 in rectangles:
        values[y1:y2, x1:x2] = value
    return values


def write(root, stem="a", annotation=None, objects=None, classes=None):
    """An image of VOC's layout."""
    save_image(root / "JPEGImages" / f"{stem}.jpg")
    if annotation is not None:
        save_text(root / "Annotations" / f"{stem}.xml", annotation)
    if objects is not None:
        save_mask(root / "SegmentationObject" / f"{stem}.png", objects)
    if classes is not None:
        save_mask(root / "SegmentationClass" / f"{stem}.png", classes)
    return root


def test_colours():
    """The first ones of VOC's table, and its last."""
    assert voc_colors()[:4] == [0x000000, 0x800000, 0x008000, 0x808000]
    assert (voc_colors()[15], voc_colors()[255]) == (0xC08080, 0xE0E0C0)


def test_objects_of_the_masks_are_those_of_the_xml(tmp_path):
    """In its order; with a hole, in two parts, and without the seam."""
    objects = painted(
        (255, 8, 3, 32, 27), (2, 10, 5, 30, 25), (0, 15, 10, 20, 15), (1, 40, 5, 50, 15),
        (1, 60, 5, 70, 15),
    )  # fmt: skip
    data = tmp_path / "VOCdevkit"
    text = xml(an_object("dog", (41, 6, 70, 15)), an_object("cat"))
    write(data / "VOC2012", annotation=text, objects=objects)
    found = convert("voc", data)
    assert found.names == ["cat", "dog"]
    assert found.images == {"train": {"JPEGImages/a.jpg": (WIDTH, HEIGHT)}}
    dog, cat = found.annotations["train"]
    assert (dog.name, dog.box, dog.area) == ("dog", [40, 5, 30, 10], 200)
    assert (cat.name, cat.box, cat.area) == ("cat", [10, 5, 20, 20], 375)
    assert np.array_equal(found.pixels(number=0), objects == 1)
    assert np.array_equal(found.pixels(number=1), objects == 2)
    assert not found.problems


def test_lists_of_images_are_the_splits(tmp_path):
    data = tmp_path / "data"
    for stem in "abcd":
        write(data, stem, xml(an_object()), painted((1, 10, 5, 30, 25)) if stem != "d" else None)
    sets = data / "ImageSets" / "Segmentation"
    save_text(sets / "train.txt", "a\nb\nnone\n../a\n\n")
    save_text(sets / "val.txt", "c\r\n")
    save_text(sets / "trainval.txt", "a\nb\nc\n")
    save_text(data / "ImageSets" / "Main" / "test.txt", "d\n")
    found = convert("voc", data)
    assert {name: list(images) for name, images in found.images.items()} == {
        "train": ["JPEGImages/a.jpg", "JPEGImages/b.jpg"],
        "validation": ["JPEGImages/c.jpg"],
    }
    assert found.problems == [
        ("../a", "", "missing annotation"),
        ("none", "", "missing annotation"),
    ]


def test_cvat_writes_colours_and_no_xml(tmp_path):
    data = tmp_path / "data"
    save_image(data / "JPEGImages" / "sub" / "a.png")
    colors = np.array([[c >> s & 255 for s in (16, 8, 0)] for c in voc_colors()], np.uint8)
    objects = painted((1, 10, 5, 30, 25), (2, 40, 5, 50, 15))
    kinds = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    kinds[objects == 1] = 250, 50, 83
    kinds[objects == 2] = 51, 221, 255
    for folder, pixels in ("SegmentationObject", colors[objects]), ("SegmentationClass", kinds):
        (data / folder / "sub").mkdir(parents=True)
        Image.fromarray(pixels).save(data / folder / "sub" / "a.png")
    labels = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nhat:51,221,255::\nbag:1,2,3::\nshoe:250,50,83::\n"
    save_text(data / "labelmap.txt", labels)
    save_text(data / "ImageSets" / "Segmentation" / "default.txt", "sub/a\n")
    found = convert("voc", data)
    assert found.names == ["hat", "bag", "shoe"]
    assert [(a.name, a.box, a.area) for a in found.annotations["train"]] == [
        ("shoe", [10, 5, 20, 20], 400),
        ("hat", [40, 5, 10, 10], 100),
    ]


def test_classes_by_value(tmp_path):
    """As labelme's tools write them; without a list of names they are VOC's."""
    objects, classes = painted((1, 10, 5, 30, 25)), painted((2, 10, 5, 30, 25))
    data = write(tmp_path / "data", objects=objects, classes=classes)
    assert convert("voc", data).one().name == "bicycle"
    save_text(data / "class_names.txt", "_background_\nhat\nshoe\n")
    assert convert("voc", data).one().name == "shoe"
    assert Legend(data).names == ["hat", "shoe"]


def test_two_sources_of_a_class_that_disagree(tmp_path):
    text = xml(an_object("hat"), an_object("shoe", (41, 6, 50, 15)))
    objects = painted((1, 10, 5, 30, 25), (2, 40, 5, 50, 15))
    classes = painted((2, 10, 5, 30, 25), (2, 40, 5, 50, 15))
    data = write(tmp_path / "data", annotation=text, objects=objects, classes=classes)
    save_text(data / "class_names.txt", "_background_\nhat\nshoe\n")
    found = convert("voc", data)
    assert found.problems == [("a", "object 1", "class mismatch")]
    assert found.one().name == "shoe"


def test_xml_beside_images(tmp_path):
    """Roboflow's layout: polygons, and boxes, in a folder for each split."""
    sides = "".join(
        f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>"
        for i, (x, y) in enumerate([(1, 2), (9, 2), (9.5, 8)], 1)
    )
    data = tmp_path / "data"
    for split, more in (("train", f"<polygon>{sides}</polygon>"), ("valid", "")):
        save_image(data / split / "a.jpg")
        save_text(data / split / "a.xml", xml(an_object(more=more)))
    found = convert("voc", data)
    assert found.annotations["train"][0].segmentation == [[1, 2, 9, 2, 9.5, 8]]
    assert found.annotations["validation"] == [
        ("valid/a.jpg", "cat", [10, 5, 20, 20], 400, []),
    ]


def test_images_elsewhere(tmp_path):
    data = tmp_path / "data"
    write(data, annotation=xml(an_object()))
    (data / "JPEGImages").rename(tmp_path / "photos")
    assert convert("voc", data, status=3).kinds == ["missing picture"]
    found = convert("voc", data, "--image_dir", tmp_path / "photos")
    assert found.one().image == "a.jpg"


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (an_object(name=""), "no class"),
        (an_object(name="x" * 200), "bad class name"),
        (an_object(box=("a", 1, 2, 3)), "bad number"),
        (an_object(box=("nan", 1, 2, 3)), "bad number"),
        (an_object(box=(1, 1, "1e999", 3)), "bad number"),
        (an_object(box=(30, 1, 10, 3)), "empty item"),
        (an_object(box=(200, 1, 300, 3)), "empty item"),
        ("<object><name>cat</name></object>", "bad number"),
        (an_object(more="<polygon><x1>1</x1><y1>2</y1></polygon>"), "bad polygon"),
        (an_object(more="<polygon><x1>1</x1><x2>2</x2></polygon>"), "bad number"),
        (an_object(more="<polygon/>"), "bad polygon"),
        (
            an_object(
                more="<polygon><x1>1</x1><y1>2</y1><x2>1e18</x2><y2>2</y2><x3>5</x3><y3>9</y3></polygon>"
            ),
            "bad polygon",
        ),
    ],
    ids=range(12),
)
def test_a_bad_object_is_skipped(tmp_path, item, kind):
    data = write(tmp_path / "data", annotation=xml(item, an_object("dog")))
    found = convert("voc", data)
    assert found.problems == [("a", "object 1", kind)]
    assert (found.one().name, found.one().box) == ("dog", [10, 5, 20, 20])


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "xxxxxxxxxx">'
    + "".join(f'<!ENTITY x{i} "{f"&x{i - 1 if i else str()};" * 10}">' for i in range(12))
    + "]><annotation>&x11;</annotation>"
)
STEALING = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + xml(an_object("&x;"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no xml",
        b"<annotation>",
        b"<annotation>\xff\x00</annotation>",
        b'<?xml version="1.0" encoding="no-such"?><annotation/>',
        BOMB.encode(),
        STEALING.encode(),
        b"<a>" * 400_000,
        b"<annotation>" + b"<object/>" * 2_000_000 + b"</annotation>",
    ],
    ids=["empty", "text", "cut", "binary", "encoding", "bomb", "stealing", "deep", "large"],
)
def test_a_file_that_is_no_use_costs_its_image(tmp_path, text):
    data = write(tmp_path / "data", annotation=text)
    write(data, "b", xml(an_object()))
    found = convert("voc", data)
    assert found.problems == [("a", "", "broken XML")]
    assert list(found.images["train"]) == ["JPEGImages/b.jpg"]


def test_deep_xml_that_is_closed(tmp_path):
    deep = b"<a>" * 400_000 + b"</a>" * 400_000
    data = write(tmp_path / "data", annotation=b"<annotation>" + deep + b"</annotation>")
    assert convert("voc", data, status=3).images == {"train": {"JPEGImages/a.jpg": (WIDTH, HEIGHT)}}


def a_photo(path):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def a_deep_photo(path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH)).astype(np.uint16)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda path: path.write_bytes(b""), "bad mask"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "bad mask"),
        (a_photo, "bad mask"),
        (lambda path: Image.new("RGBA", (3, 2)).save(path), "size mismatch"),
        (lambda path: Image.new("LA", (WIDTH, HEIGHT)).save(path), "bad mask"),
        (a_deep_photo, "bad mask"),
    ],
    ids=["empty", "cut", "photo", "size", "mode", "deep"],
)
def test_a_mask_that_is_no_use_costs_its_image(tmp_path, spoil, kind):
    data = tmp_path / "data"
    for stem in "ab":
        write(data, stem, xml(an_object()), painted((1, 10, 5, 30, 25)))
    spoil(data / "SegmentationObject" / "a.png")
    found = convert("voc", data)
    assert found.problems == [("a", "", kind)]
    assert found.one().image == "JPEGImages/b.jpg"


def test_an_object_without_pixels_is_a_box(tmp_path):
    text = xml(an_object("dog", (41, 6, 50, 15)), an_object())
    found = convert(
        "voc", write(tmp_path / "data", annotation=text, objects=painted((2, 10, 5, 30, 25)))
    )
    assert [(a.name, a.box, bool(a.segmentation)) for a in found.annotations["train"]] == [
        ("cat", [10, 5, 20, 20], True),
        ("dog", [40, 5, 10, 10], False),
    ]


def test_objects_that_no_file_names(tmp_path):
    data = write(
        tmp_path / "data",
        annotation=xml(an_object()),
        objects=painted((1, 0, 0, 9, 9), (2, 10, 5, 30, 25)),
    )
    found = convert("voc", data)
    assert found.problems == [("a", "object 2", "no class")]
    assert found.one().area == 81


@pytest.mark.parametrize("size", [(0, 0), ("", "x"), (WIDTH, HEIGHT)])
def test_sizes_that_are_taken(tmp_path, size):
    data = write(tmp_path / "data", annotation=xml(an_object(), size=size))
    assert not convert("voc", data).problems


def test_another_size_costs_the_image(tmp_path):
    data = write(tmp_path / "data", annotation=xml(an_object(), size=(800, 600)))
    assert convert("voc", data, status=3).kinds == ["size mismatch"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: data.mkdir(), "neither Annotations/ nor XML files"),
        (lambda data: save_text(data, "x"), "is no folder"),
        (
            lambda data: [write(data / name, annotation=xml()) for name in ("VOC2007", "VOC2012")],
            "has VOC2007, VOC2012; give one of them",
        ),
        (
            lambda data: [save_text(data / name / "a.xml", xml()) for name in ("val", "valid")],
            "val/ and valid/, both for validation",
        ),
    ],
    ids=range(4),
)
def test_a_folder_that_is_no_use(tmp_path, make, message):
    make(tmp_path / "data")
    assert message in convert("voc", tmp_path / "data", status=2).printed

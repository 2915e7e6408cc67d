"""JSON of the VGG Image Annotator against annotations made by hand."""

import json
import math

import numpy as np
import pytest

from tests.helpers.importing import HEIGHT, WIDTH, convert, iou, save_image, save_json

XS, YS = [10, 30, 30, 10], [5, 5, 25, 25]
CORNERS = [10, 5, 30, 5, 30, 25, 10, 25]
POLYGON = {"name": "polygon", "all_points_x": XS, "all_points_y": YS}


def region(shape=POLYGON, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(*regions, image="a.png", numbered=False):
    listed = {str(i): r for i, r in enumerate(regions)} if numbered else list(regions)
    return {"filename": image, "size": 1234, "regions": listed, "file_attributes": {}}


def export(*entries):
    return {f"{e['filename']}{e['size']}": e for e in entries}


def write(root, *regions, **options):
    save_image(root / "a.png")
    save_json(root / "via_region_data.json", export(entry(*regions, **options)))
    return root


def test_matterports_balloons(tmp_path):
    """VIA 1, two folders, and no attribute at all."""
    data = tmp_path / "balloon"
    for split, name in (("train", "1_b.jpg"), ("val", "2_c.jpg")):
        save_image(data / split / name)
        old = entry(region(), region(), image=name, numbered=True)
        old |= {"fileref": "", "base64_img_data": ""}
        save_json(data / split / "via_region_data.json", export(old))
    message = convert("via", data, status=2).printed
    assert "no region has an attribute; name the class of all with --class_name" in message
    found = convert("via", data, "--class_name", "balloon")
    assert found.names == ["balloon"]
    assert found.images == {
        "train": {"train/1_b.jpg": (WIDTH, HEIGHT)},
        "validation": {"val/2_c.jpg": (WIDTH, HEIGHT)},
    }
    assert (
        found.annotations["train"]
        == [("train/1_b.jpg", "balloon", [10, 5, 20, 20], 400, [CORNERS])] * 2
    )
    assert not found.problems


def test_shapes(tmp_path):
    line = {"name": "polyline", "all_points_x": [*XS, 10], "all_points_y": [*YS, 5]}
    ellipse = {"name": "ellipse", "cx": 40, "cy": 30, "rx": 25, "ry": 8, "theta": math.pi / 6}
    data = write(
        tmp_path / "data",
        region({"name": "rect", "x": 10, "y": 5, "width": 20, "height": 20}, kind="cat"),
        region({"name": "circle", "cx": 40, "cy": 30, "r": 15.5}, kind="dog"),
        region(ellipse, kind="dog"),
        region(line, kind="cat"),
    )
    found = convert("via", data)
    assert found.names == ["cat", "dog"]
    rectangle, circle, _, closed = found.annotations["train"]
    assert (rectangle.box, rectangle.area) == ([10, 5, 20, 20], 400)
    assert closed.area == 400
    assert circle.area == pytest.approx(math.pi * 15.5**2, rel=0.01)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    x, y, cos, sin = columns - 40, rows - 30, math.cos(math.pi / 6), math.sin(math.pi / 6)
    inside = ((x * cos + y * sin) / 25) ** 2 + ((y * cos - x * sin) / 8) ** 2 <= 1
    assert iou(found.pixels(number=2), inside) > 0.98


def test_a_project_gives_the_order_of_the_classes(tmp_path):
    data = tmp_path / "data"
    save_image(data / "photos" / "a.png")
    project = {
        "_via_settings": {"core": {"default_filepath": "photos/"}},
        "_via_img_metadata": export(
            entry(region(animal={"zebra": True, "ant": False}), image="photos/a.png")
        ),
        "_via_attributes": {
            "region": {
                "animal": {"type": "checkbox", "options": {"zebra": "", "cat": "", "ant": ""}}
            },
            "file": {},
        },
        "_via_data_format_version": "2.0.10",
    }
    save_json(data / "via_project_1.json", project)
    found = convert("via", data)
    assert found.names == ["zebra", "cat", "ant"]
    assert found.one() == ("photos/a.png", "zebra", [10, 5, 20, 20], 400, [CORNERS])


@pytest.mark.parametrize(
    ("attributes", "options", "name"),
    [
        ({"anything": "cat"}, (), "cat"),
        ({"Label": "cat", "quality": "dog"}, (), "cat"),
        ({"name": "dog", "class": "cat"}, (), "cat"),
        ({"name": "cat", "kind": "dog"}, ("--class_attribute", "kind"), "dog"),
        ({"name": "cat", "kind": "dog"}, ("--class_name", "thing"), "thing"),
        ({"a": 3}, (), "3"),
        ({"a": {"dog": False, "cat": True}}, (), "cat"),
    ],
)
def test_which_attribute_is_the_class(tmp_path, attributes, options, name):
    data = write(tmp_path / "data", region(**attributes))
    found = convert("via", data, *options)
    assert (found.names, found.one().name) == ([name], name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Regions have 'colour' (2), 'size' (1); choose one with --class_attribute"),
        (("--class_attribute", "shape"), "Regions have 'colour' (2), 'size' (1)"),
        (("--class_attribute", "size", "--class_name", "x"), "exclude each other"),
        (("--class_name", " "), "--class_name: no class"),
    ],
)
def test_questions_about_the_class(tmp_path, options, message):
    data = write(tmp_path / "data", region(colour="red", size="big"), region(colour="red"))
    assert message in convert("via", data, *options, status=2).printed


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (region({"name": "point", "cx": 3, "cy": 4}, name="x"), "no area"),
        (region(POLYGON | {"name": "polyline"}, name="x"), "no area"),
        (region(POLYGON | {"all_points_x": [1, 2]}, name="x"), "bad shape"),
        (region(POLYGON | {"all_points_y": [1, None, 2, 3]}, name="x"), "bad region"),
        (region(POLYGON | {"all_points_y": [1, math.nan, 2, 3]}, name="x"), "bad region"),
        (region(POLYGON | {"all_points_y": [1, 10**400, 2, 3]}, name="x"), "bad region"),
        (region(POLYGON | {"all_points_y": [1, -1e18, 2, 3]}, name="x"), "bad polygon"),
        (region({"name": "rect", "x": 1, "y": 1, "width": 5}, name="x"), "bad shape"),
        (region({"name": "circle", "cx": 1, "cy": 1, "r": 1e300}, name="x"), "bad polygon"),
        (region({"name": "star"}, name="x"), "bad shape"),
        (region({}, name="x"), "bad region"),
        (region(), "no class"),
        (region(name=""), "no class"),
        (region(name=None), "no class"),
        (region(name={"a": False}), "no class"),
        (region(name={"a": True, "b": True}), "several classes"),
        (region(name=["a"]), "bad class"),
        (region(name="\u202etxt"), "bad class name"),
        ({"shape_attributes": POLYGON}, "no class"),
        ({}, "bad region"),
        (None, "bad region"),
    ],
    ids=range(21),
)
def test_a_bad_region_is_skipped(tmp_path, bad, kind):
    found = convert("via", write(tmp_path / "data", bad, region(name="dog")))
    assert found.problems == [("a.png", "region 1", kind)]
    assert found.one() == ("a.png", "dog", [10, 5, 20, 20], 400, [CORNERS])


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (None, "bad entry"),
        ({"filename": "a.png"}, "bad entry"),
        ({"filename": 3, "regions": []}, "bad entry"),
        (entry() | {"regions": "x"}, "bad entry"),
        (entry(image="none.png"), "missing picture"),
        (entry(image="../../secret.png"), "missing picture"),
        (entry(image="https://example.org/secret.png"), "missing picture"),
        (entry(image=""), "bad file name"),
        (entry(image="good.png"), "image annotated twice"),
    ],
    ids=range(9),
)
def test_a_bad_entry_costs_its_image(tmp_path, bad, kind):
    data = tmp_path / "data"
    save_image(data / "good.png")
    save_image(tmp_path / "secret.png")
    good = entry(region(name="cat"), image="good.png")
    save_json(data / "via_region_data.json", {"0": good, "bad": bad})
    found = convert("via", data)
    assert found.kinds == [kind]
    assert found.one().image == "good.png"


@pytest.mark.parametrize(
    "text",
    [
        '{"filename": "regions"',
        '["filename", "regions"]',
        '{"filename": ' + "[" * 200_000 + '"regions"',
        json.dumps({"_via_img_metadata": ["filename", "regions"]}),
        json.dumps({"_via_attributes": 3, "_via_img_metadata": export(entry())}),
        '{"filename": "regions", "x": [' + "{}," * 5_000_001 + "0]}",
    ],
    ids=range(6),
)
def test_a_file_that_is_no_use(tmp_path, text):
    save_json(tmp_path / "data" / "via.json", text)
    printed = convert("via", tmp_path / "data", status=2).printed
    assert "via.json can't be used" in printed and "Traceback" not in printed


def test_which_file(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    save_json(data / "other.json", {"a": 1})
    assert "no JSON file of VIA" in convert("via", data, status=2).printed
    write(data, region(name="cat"))
    (data / "via_region_data.json").rename(data / "one.json")
    assert convert("via", data).names == ["cat"]
    save_json(data / "two.json", export(entry(region(name="dog"))))
    assert "one.json, two.json; give one" in convert("via", data, status=2).printed
    assert convert("via", data / "two.json").names == ["dog"]

"""The converter on files from strangers: what can't be used is listed, and the rest converted."""

import contextlib
import json
import math
import os
import shutil

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mrcnn.coco.ground_truth import read_ground_truth
from mrcnn.core.problems import MOST
from mrcnn.core.text import printable
from mrcnn.deepfashion2 import entries
from mrcnn.deepfashion2.converter import DEFAULT_FORM, convert_split
from mrcnn.deepfashion2.records import Form
from tests.helpers.deepfashion2_files import (
    HEIGHT,
    SQUARE,
    WIDTH,
    an_item,
    convert,
    write_image,
)
from tests.helpers.hostile_files import Hostile, encoded, photo

OFFICIAL = Form(official=True)
NUMBER = "8888888"  # stands for one that json.dumps can't write
DEEP = "[" * 100_000 + "]" * 100_000


def text_of(item, number=""):
    """An annotation file with one item, in which `NUMBER` is written as given."""
    data = {"source": "user", "pair_id": 7, "item1": item}
    return json.dumps(data).replace(NUMBER, number)


def with_annotation(folder, text):
    """A split of two images, of which the first one has this annotation."""
    write_image(folder, "000001", [])
    write_image(folder, "000002", [an_item(style=5)])
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "annos" / "000001.json").write_bytes(content)
    return folder


POINT = an_item(segmentation=[SQUARE, [1, 1, int(NUMBER), 5, 1, 5]])
BOX = an_item(bounding_box=[10, 5, int(NUMBER), 25])
NUMBERS = ["9" * 400, "-" + "9" * 400, "9" * 5000, "1e309", "1e308", "-1e308", "NaN", "-Infinity",
           str(2**63), str(-(2**63)), str(2**64), "1e10", "true", "null", '"5"', "[]", "{}"]  # fmt: skip


@pytest.mark.parametrize("form", [DEFAULT_FORM, OFFICIAL], ids=["ours", "official"])
@pytest.mark.parametrize("number", NUMBERS, ids=lambda text: text[:20])
@pytest.mark.parametrize("item", [POINT, BOX], ids=["polygon", "box"])
def test_numbers_that_are_none(tmp_path, item, number, form):
    coco, found = convert(with_annotation(tmp_path, text_of(item, number)), form=form)
    assert [i["id"] for i in coco["images"]] == [1, 2]
    assert set(found.kinds) <= {
        "non-finite number", "bad polygon", "bad box", "box beyond picture"
    }  # fmt: skip
    assert {row[:2] for row in found.rows} == {("000001.jpg", "item1")}
    # In our form the sound polygon is left, and the box around it, if it isn't clipped.
    kept = [a["id"] for a in coco["annotations"]]
    assert kept == [1, 2] if form is DEFAULT_FORM else kept[-1:] in ([1], [2])
    if form is DEFAULT_FORM:
        annotation = coco["annotations"][0]
        assert (annotation["area"], annotation["segmentation"]) == (400, [SQUARE])
        x, y, w, h = annotation["bbox"]
        assert 0 <= x < x + w <= WIDTH and 0 <= y < y + h <= HEIGHT


def test_a_box_of_two_to_the_63_in_the_official_form(tmp_path):
    folder = with_annotation(tmp_path, text_of(an_item(bounding_box=[0, 0, 2**63, 2**63])))
    coco, found = convert(folder, form=OFFICIAL)
    assert [a["style"] for a in coco["annotations"]] == [5]
    assert found.rows == [
        (
            "000001.jpg",
            "item1",
            f"bad box: [0, 0, {2**63}, {2**63}] reaches too far",
            "item skipped",
        )
    ]


BROKEN = {
    "empty": "",
    "blank": " \n",
    "half": text_of(an_item())[:-30],
    "list": "[]",
    "text": '"item1"',
    "null": "null",
    "deep": DEEP,
    "deep object": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "deep item": text_of(int(NUMBER), DEEP),
    "not UTF-8": b'{"item1": "\xff"}',
    "zeros": bytes(3000),
    "two": text_of(an_item()) * 2,
    "duplicates, 1,000 deep": '{"item1":' * 1000 + "1" + ',"item1":2}' * 1000,
    "duplicates of what is deep": f'{{"item1":{"[" * 1000}{"]" * 1000},"item1":1}}',
}


@pytest.mark.parametrize("name", BROKEN)
def test_annotations_that_are_no_annotation(tmp_path, name):
    coco, found = convert(with_annotation(tmp_path, BROKEN[name]))
    assert [i["id"] for i in coco["images"]] == [2]
    ((file, item, problem, action),) = found.rows
    assert (file, item, action) == ("000001.jpg", "", "picture skipped")
    assert problem.startswith("broken JSON: ") and len(problem) < 200


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_are_read(tmp_path, encoding):
    coco, found = convert(with_annotation(tmp_path, text_of(an_item()).encode(encoding)))
    assert [a["area"] for a in coco["annotations"]] == [400, 400]
    assert not found.rows


@pytest.mark.parametrize("value", [None, [], {}, "x" * 10**5, [0] * 10**5, -1, 1.0, True, 10**19])
@pytest.mark.parametrize("form", [DEFAULT_FORM, OFFICIAL], ids=["ours", "official"])
def test_values_of_another_type(tmp_path, value, form):
    write_image(tmp_path, "000001", {**dict.fromkeys(an_item(), value), "x" * 10**5: 1})
    fields = [an_item(**{name: value}) for name in an_item()]
    write_image(tmp_path, "000002", [*fields, value, dict.fromkeys(an_item(), value)])
    coco, found = convert(tmp_path, form=form)
    assert [i["id"] for i in coco["images"]] == [1, 2]
    for row in found.rows:
        assert len(row[2]) < 300
    # Attributes that are nothing become null, so these items stay.
    assert len(coco["annotations"]) >= 5


def test_a_value_1000_deep(tmp_path):
    deep = "[" * 1000 + "]" * 1000
    coco, found = convert(with_annotation(tmp_path, text_of(an_item(scale=int(NUMBER)), deep)))
    assert found.rows[0][2] == "bad attribute: scale is [[[[[[[...]]]]]]]"
    assert [a["scale"] for a in coco["annotations"]] == [None, 2]


def test_a_million_problems_are_not_all_listed(tmp_path):
    text = text_of(an_item(segmentation=[[1]] * 9000 + [SQUARE]))
    coco, found = convert(with_annotation(tmp_path, text))
    assert len(coco["annotations"]) == 2
    assert found.kinds == {"bad polygon": MOST, "more problems": 1}
    text = '{"source":"user","pair_id":1,' + ",".join(f'"item{i}":0' for i in range(9999)) + "}"
    _, found = convert(with_annotation(tmp_path, text))
    assert found.kinds == {"bad item": MOST, "more problems": 1}


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ([[1]] * 10_001, "bad segmentation: has 10,001 polygons"),
        ([[0, 0, WIDTH, HEIGHT] * 20_000], "no usable polygon: none of 1"),
    ],
)
def test_polygons_that_would_take_too_long(tmp_path, segmentation, problem):
    item = an_item(segmentation=segmentation)
    coco, found = convert(with_annotation(tmp_path, text_of(item)))
    assert len(coco["annotations"]) == 1
    assert found.rows[-1][1:] == ("item1", problem, "item skipped")


def test_a_hundred_thousand_points_are_a_polygon(tmp_path):
    edge = [v for i in range(100_000) for v in (10 + 20 * i / 100_000, 5)]
    item = an_item(segmentation=[[*edge, 30, 25, 10, 25]])
    coco, found = convert(with_annotation(tmp_path, text_of(item)))
    assert coco["annotations"][0]["area"] == 400
    assert not found.rows


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    folder = with_annotation(tmp_path, text_of(an_item()))
    with open(folder / "annos" / "000001.json", "ab") as file:
        file.truncate(10**9)  # a hole, which takes no room
    coco, found = convert(folder)
    assert [i["id"] for i in coco["images"]] == [2]
    assert "it has 1,000,000,000 bytes, more than the 16,000,000" in found.rows[0][2]
    monkeypatch.setattr(entries, "MOST_BYTES", 10)
    assert [kind for kind, _ in convert(folder)[1].kinds.items()] == ["unreadable annotation"]


@pytest.mark.parametrize("folder", ["image", "annos"])
def test_what_is_no_file(tmp_path, folder):
    write_image(tmp_path, "9", [an_item()])
    ending = {"image": "jpg", "annos": "json"}[folder]
    for number in range(1, 6):
        write_image(tmp_path, f"{number}", [an_item()])
        (tmp_path / folder / f"{number}.{ending}").unlink()
    place = tmp_path / folder
    (place / f"1.{ending}").mkdir()
    os.mkfifo(place / f"2.{ending}")
    os.symlink("nowhere", place / f"3.{ending}")
    os.symlink(f"4.{ending}", place / f"4.{ending}")
    os.symlink("/dev/zero", place / f"5.{ending}")
    coco, found = convert(tmp_path)
    assert [i["id"] for i in coco["images"]] == [9]
    assert [row[0] for row in found.rows] == [f"{n}.jpg" for n in range(1, 6)]
    assert {row[3] for row in found.rows} == {"picture skipped"}
    assert set(found.kinds) <= {
        "unreadable picture", "unreadable annotation", "missing annotation"
    }  # fmt: skip


@pytest.mark.parametrize(
    "start",
    [
        b"P6 99999999999 1 255",
        b"P6 0 0 255\n",
        b"P6 20000 20000 255\n",
        b"P5 -1 1 255\n",
        b"GIF89a\0\0\0\0",
        b"BM" + b"\xff" * 60,
        b"\xff\xd8\xff\xc0\0\x11\x08\0\0\0\0\3",
        b"II*\0\xff\xff\xff\xff",
        b"not an image",
        b"\0" * 5000,
        b"",
    ],
)
def test_images_that_are_none(tmp_path, start):
    folder = with_annotation(tmp_path, text_of(an_item()))
    (folder / "image" / "000001.jpg").write_bytes(start)
    coco, found = convert(folder)
    assert [i["id"] for i in coco["images"]] == [2]
    ((file, item, problem, action),) = found.rows
    assert (file, item, action) == ("000001.jpg", "", "picture skipped")
    assert problem.startswith("unreadable picture: ")


def test_images_of_all_sorts(tmp_path, recwarn):
    """The size is that of the pixels as stored; those that can't be opened are listed."""
    hostile = Hostile(tmp_path / "files")
    (tmp_path / "test" / "image").mkdir(parents=True)
    names = {}
    for number, name in enumerate(sorted({*hostile.sound, *hostile.broken, *hostile.either}), 1):
        names[f"{number}.jpg"] = name
        os.symlink(tmp_path / "files" / name, tmp_path / "test" / "image" / f"{number}.jpg")
    coco, found = convert(tmp_path / "test")
    sizes = {i["file_name"]: (i["width"], i["height"]) for i in coco["images"]}
    skipped = {row[0] for row in found.rows if row[3] == "picture skipped"}
    turned = {row[0] for row in found.rows} - skipped
    assert sizes.keys() | skipped == names.keys() and not sizes.keys() & skipped
    assert not recwarn.list
    for file, name in names.items():
        if name in hostile.sound and "heic" not in name:
            size = hostile.sound[name]
            assert sizes[file] in ((size, size[::-1]) if file in turned else (size,)), name
    assert {names[file].split("/")[0] for file in turned} == {"turned"}


def test_a_truncated_image_keeps_its_size(tmp_path):
    folder = with_annotation(tmp_path, text_of(an_item()))
    whole = encoded(photo(), "JPEG")
    (folder / "image" / "000001.jpg").write_bytes(whole[: len(whole) // 2])
    coco, _ = convert(folder)
    assert (coco["images"][0]["width"], coco["images"][0]["height"]) == photo().size


def test_names_of_files_are_safe_in_the_table(tmp_path):
    folder = with_annotation(tmp_path, text_of(an_item()))
    names = ["a\nb.jpg", "\x1b[31m.jpg", "=cmd().jpg", "@x.txt", "\u202egpj.jpg",
             os.fsdecode(b"\xff\xfe.jpg"), "٣.jpg", "1" * 16 + ".jpg"]  # fmt: skip
    for name in names:
        shutil.copy(folder / "image" / "000001.jpg", folder / "image" / name)
    coco, found = convert(folder)
    assert [i["id"] for i in coco["images"]] == [1, 2]
    assert len(found.rows) == len(names)
    for row in found.rows:
        assert not row[0].startswith(("=", "@"))
        assert printable(row[2]) == row[2]


# --- Files in the place of the results ------------------------------------------------------------


@pytest.mark.parametrize("name", ["train_coco.json", "train.problems.csv"])
@pytest.mark.parametrize("content", [b'{"info": {}, "images": []}', b"\x00", None])
def test_files_of_others_are_left_alone(tmp_path, name, content):
    write_image(tmp_path / "train", "000001", [an_item()])
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{name} is not a file that this command wrote"):
            convert_split(tmp_path / "train", path.parent)
    assert os.listdir(path.parent) == [name]
    assert content is None or path.read_bytes() == content


def test_our_own_and_empty_files_are_replaced(tmp_path):
    write_image(tmp_path / "train", "000001", [an_item()])
    (tmp_path / "train_coco.json").touch()
    for style in (3, 4):
        write_image(tmp_path / "train", "000001", [an_item(style=style, scale=0)])
        convert_split(tmp_path / "train", tmp_path)
        content = orjson.loads((tmp_path / "train_coco.json").read_bytes())
        assert [a["style"] for a in content["annotations"]] == [style]
    # The result of another split under this name is none of this split's.
    (tmp_path / "train_coco.json").rename(tmp_path / "validation_coco.json")
    (tmp_path / "train").rename(tmp_path / "validation")
    with pytest.raises(ValueError, match="validation_coco.json is not a file"):
        convert_split(tmp_path / "validation", tmp_path)


# --- By chance ------------------------------------------------------------------------------------

whole = st.integers(-3, 80) | st.sampled_from([2**31, 2**53, 2**63, 2**64, -(2**63), 10**30])
finite = st.floats(-100, 200, allow_nan=False) | st.sampled_from([1e9, -1e10, 1e308, 5e-324])
written = st.sampled_from(["NaN", "-Infinity", "1e400", "-1E-400", "9" * 400, "-0", "1.0"])


class Written(str):
    """A number as it stands in the file."""


numbers = whole | finite | st.builds(Written, written)
others = st.sampled_from([None, True, False, "", "5", [], {}, [[]], "\ud800", "\u202e", "item1"])
scalars = numbers | others


def mostly(sound, *odd):
    """`sound` in most cases."""
    return st.one_of(*[sound] * 9, *odd, others)


points = st.lists(mostly(st.integers(-5, 70) | st.floats(-5, 70), numbers), min_size=5, max_size=10)
outlines = mostly(points, st.lists(scalars, max_size=8), scalars)
items = mostly(
    st.fixed_dictionaries(
        {
            "category_id": mostly(st.just(8), scalars),
            "category_name": mostly(st.just("trousers"), st.just("vest"), scalars),
            "segmentation": mostly(st.lists(outlines, max_size=3), scalars),
        },
        optional={
            "bounding_box": mostly(
                st.lists(st.integers(-5, 70), min_size=4, max_size=4), st.lists(numbers), scalars
            ),
            "landmarks": mostly(st.just([1, 2, 1] * 14), st.lists(scalars, max_size=9), scalars),
            **dict.fromkeys(("style", "scale", "occlusion", "zoom_in", "viewpoint"), scalars),
        },
    ),
    scalars,
)
keys = st.sampled_from(
    ["item1", "item2", "item10", "item01", "itemx", "source", "pair_id", "", "x"]
)
files = st.lists(st.tuples(keys, items | mostly(st.just("user"), scalars)), max_size=4)


def write(value):
    """JSON, with numbers and duplicate keys that json.dumps doesn't write."""
    if isinstance(value, Written):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(write, value))}]"
    if isinstance(value, dict):
        return write_object(value.items())
    return json.dumps(value)


def write_object(pairs):
    return "{" + ",".join(f"{json.dumps(key)}:{write(value)}" for key, value in pairs) + "}"


def check(folder, content, form):
    """What is written can be read; our form has boxes within the image, and areas."""
    text = write_object(content)
    (folder / "annos" / "000001.json").write_text(text)
    coco, found = convert(folder, form=form)
    assert [i["id"] for i in coco["images"]] == [1, 2]
    truth = read_ground_truth(coco)
    skipped = sum(row[3] == "item skipped" for row in found.rows)
    last = {key for key, _ in content if entries.ITEM.fullmatch(key)}
    assert len(coco["annotations"]) - 1 == len(last) - skipped
    for annotation in coco["annotations"]:
        polygons = annotation["segmentation"]
        assert polygons and all(math.isfinite(v) for polygon in polygons for v in polygon)
        assert all(math.isfinite(v) for v in annotation["bbox"])
        if form is DEFAULT_FORM:
            x, y, w, h = annotation["bbox"]
            assert 0 <= x < x + w <= WIDTH + 1e-9 and 0 <= y < y + h <= HEIGHT + 1e-9
            assert 0 < annotation["area"] <= WIDTH * HEIGHT
    if form is DEFAULT_FORM:
        assert len(truth.rles) == len(coco["annotations"])


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return with_annotation(tmp_path_factory.mktemp("split"), "{}")


hostile = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(hostile, max_examples=60)
@given(content=files, official=st.booleans())
def test_any_annotation(split, content, official):
    check(split, content, OFFICIAL if official else DEFAULT_FORM)


@pytest.mark.slow
@settings(hostile, max_examples=2000)
@given(content=files, official=st.booleans())
def test_any_annotation_at_length(split, content, official):
    check(split, content, OFFICIAL if official else DEFAULT_FORM)


@settings(hostile, max_examples=60)
@given(data=st.data())
def test_any_change_of_bytes(split, data):
    """Of an annotation file and of an image."""
    text = bytearray(text_of(an_item(landmarks=[])).encode())
    image = bytearray(encoded(Image.new("RGB", (WIDTH, HEIGHT)), "JPEG"))
    for content in (text, image):
        for _ in range(data.draw(st.integers(0, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (split / "annos" / "000001.json").write_bytes(text)
    path = split / "image" / "000001.jpg"
    before = path.read_bytes()
    path.write_bytes(image)
    with contextlib.ExitStack() as stack:
        stack.callback(path.write_bytes, before)
        coco, _ = convert(split)
    assert [i["id"] for i in coco["images"]][-1] == 2

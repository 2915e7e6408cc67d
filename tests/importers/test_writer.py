"""What `convert --from` writes, whatever the format: files, ids, sizes of turned images, refusals."""

import contextlib
import io
import json
import math
import os
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from mrcnn.coco.reader import read_coco
from mrcnn.commands import convert as command
from tests.helpers.commands import run_command
from tests.helpers.importing import HEIGHT, SQUARE, WIDTH, convert, iou, save_image, save_json


def labelme(label="cat", points=SQUARE, image="a.png", **more):
    shape = {"label": label, "points": points, "shape_type": "polygon"}
    return {"shapes": [shape], "imagePath": image, "imageData": None, **more}


def write(root, name="a", suffix="png", **more):
    options = {key: more.pop(key) for key in ("size", "orientation") if key in more}
    save_image(root / f"{name}.{suffix}", **options)
    save_json(root / f"{name}.json", labelme(image=Path(name).name + f".{suffix}", **more))
    return root


def test_files(tmp_path):
    """Classes are the same in all splits, and ids count from 1 in each."""
    data = tmp_path / "data"
    for name, label in (("train/a", "dog"), ("train/b", "ant"), ("val/c", "cat"), ("val/d", "dog")):
        write(data, name, label=label)
    output = tmp_path / "deep" / "out"
    found = convert("labelme", data, output=output)
    assert sorted(path.name for path in output.iterdir()) == [
        "data.toml",
        "train.problems.csv",
        "train_coco.json",
        "validation.problems.csv",
        "validation_coco.json",
    ]
    assert found.files["train"]["categories"] == found.files["validation"]["categories"]
    assert found.names == ["ant", "cat", "dog"]
    assert [a["category_id"] for a in found.files["train"]["annotations"]] == [3, 1]
    assert found.files["validation"]["annotations"][1] == {
        "id": 2,
        "category_id": 3,
        "image_id": 2,
        "bbox": [10, 5, 20, 20],
        "area": 400,
        "iscrowd": 0,
        "segmentation": [[10, 5, 30, 5, 30, 25, 10, 25]],
    }
    assert "train: 2 images, 2 items\n  dog                                1" in found.printed
    for split in ("train", "validation"):
        path = output / f"{split}_coco.json"
        with contextlib.redirect_stdout(io.StringIO()):
            api = COCO(str(path))
        assert api.annToMask(api.anns[1]).sum() == 400
        table = read_coco(path)
        table.require("annotations", "categories", "file_name", "width", "height", "unique ids")
        assert len(table) == 2 and not +table.problems and table.masked.all()


def test_data_toml_and_the_next_command(tmp_path):
    data = write(tmp_path / "my data")
    write(data, "val/b")
    write(data, "train/c")
    printed = convert("labelme", data, output=data).printed
    assert tomllib.loads((data / "data.toml").read_text("utf-8")) == {
        "train": {"annotations": "train_coco.json", "images": "."},
        "validation": {"annotations": "validation_coco.json", "images": "."},
    }
    assert f"python model.py train --data {shlex.quote(str(data))}\n" in printed
    elsewhere = tmp_path / "out"
    printed = convert("labelme", data / "a.json", output=elsewhere).printed
    toml = tomllib.loads((elsewhere / "data.toml").read_text("utf-8"))
    assert toml == {"train": {"annotations": "train_coco.json", "images": str(data)}}
    assert f"train --data {elsewhere} --val_split 0.1\n" in printed


def test_names_that_toml_and_json_must_escape(tmp_path):
    folder = tmp_path / 'q"u\\o\n\x7f\u00e9\U0001f457'
    write(folder, "new\nline")
    found = convert("labelme", folder, output=tmp_path / "out")
    toml = tomllib.loads((tmp_path / "out" / "data.toml").read_text("utf-8"))
    assert toml["train"]["images"] == str(folder)
    assert list(found.images["train"]) == ["new\nline.png"]


def test_names_that_are_no_text(tmp_path):
    """JSON can't hold names that aren't UTF-8."""
    labels = tmp_path / "data" / "labels"
    labels.mkdir(parents=True)
    (tmp_path / "data" / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    try:
        save_image(tmp_path / "data" / "images" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system doesn't take such names")
    save_image(tmp_path / "data" / "images" / "a.png")
    (labels / "a.txt").write_text("0 .1 .1 .5 .1 .5 .5")
    found = convert("yolo", tmp_path / "data")
    assert found.kinds == ["bad file name"]
    assert list(found.images["train"]) == ["images/a.png"]


def test_limit_and_dry_run(tmp_path):
    data = tmp_path / "data"
    for name in "abc":
        write(data, name)
    assert list(convert("labelme", data, "--limit", 2).images["train"]) == ["a.png", "b.png"]
    output = tmp_path / "nothing"
    found = convert("labelme", data, "--dry_run", output=output)
    assert "train: 3 images, 3 items" in found.printed and "nothing written" in found.printed
    assert not output.exists()


def test_status(tmp_path):
    """3 if a split has nothing usable, or with --strict any problem; the files are written."""
    data = write(tmp_path / "data")
    save_json(data / "b.json", labelme(image="none.png"))
    assert convert("labelme", data).kinds == ["missing picture"]
    strict = convert("labelme", data, "--strict", status=3)
    assert "train has problems, and --strict was given" in strict.printed and strict.files
    (data / "a.json").unlink()
    empty = convert("labelme", data, status=3)
    assert "train has no usable item" in empty.printed and "Next" not in empty.printed
    assert (empty.images, empty.annotations) == ({"train": {}}, {"train": []})


@pytest.mark.parametrize("name", ["data.toml", "train_coco.json", "train.problems.csv"])
def test_files_of_others_are_left_alone(tmp_path, name):
    data = write(tmp_path / "data")
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_text("mine")
    printed = run_command(
        "convert", "--from", "labelme", "--data", data, "--output_dir", output, status=2
    )
    assert f"{name} is not a file that this command wrote" in printed
    assert (output / name).read_text() == "mine" and len(list(output.iterdir())) == 1


def test_our_files_are_replaced(tmp_path):
    data = write(tmp_path / "data")
    first = convert("labelme", data)
    write(data, "b", label="dog")
    second = convert("labelme", data)
    assert (len(first.images["train"]), len(second.images["train"])) == (1, 2)


@pytest.mark.parametrize(
    ("size", "orientation", "declared", "expected", "noted"),
    [
        ((80, 60), 6, None, (60, 80), False),
        ((80, 60), 6, (60, 80), (60, 80), False),
        ((80, 60), 6, (80, 60), (80, 60), False),
        ((80, 60), 3, None, (80, 60), True),
        ((60, 60), 8, (60, 60), (60, 60), True),
        ((80, 60), 1, None, (80, 60), False),
        ((80, 60), 99, None, (80, 60), False),
    ],
)
def test_turned_images(tmp_path, size, orientation, declared, expected, noted):
    """Tools show images upright; the size that an annotation gives counts before that."""
    known = {"imageWidth": declared[0], "imageHeight": declared[1]} if declared else {}
    data = write(tmp_path / "data", suffix="jpg", size=size, orientation=orientation, **known)
    found = convert("labelme", data)
    assert found.images["train"] == {"a.jpg": expected}
    assert found.kinds == ["turned picture"] * noted


def test_masks_are_what_was_drawn(tmp_path):
    """Against Pillow's own drawing of the same outline."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radii = 200 + 60 * np.cos(5 * angles)
    points = np.stack([320 + radii * np.cos(angles), 280 + radii * np.sin(angles)], axis=1)
    data = write(tmp_path / "data", size=(640, 560), points=points.tolist())
    drawn = Image.new("1", (640, 560))
    ImageDraw.Draw(drawn).polygon([tuple(point) for point in points], fill=1)
    assert iou(convert("labelme", data).pixels(), np.asarray(drawn)) > 0.98


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class_name", "x"], "--class_name goes with --from"),
        (["--from", "via", "--keypoints"], "--keypoints doesn't go with --from"),
        (["--from", "via", "--splits", "test"], "--splits doesn't go with --from"),
        (["--from", "via", "--make_demo", "x"], "--make_demo doesn't go with --from"),
        (["--from", "yolo", "--class_attribute", "x"], "--class_attribute is for --from via"),
        (["--from", "yolo"], "there is no data/deepfashion2"),
        (["--from", "yolo", "--data", ".", "--image_dir", "none"], "there is no none"),
        (["--from", "voc", "--data", "a\0b"], "there is no"),
    ],
)
def test_options_that_do_not_fit(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert command.main(options) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    data = write(tmp_path / "data")
    (tmp_path / "file").write_text("x")
    options = ["--from", "labelme", "--data", str(data), "--output_dir", str(tmp_path / "file/x")]
    assert command.main(options) == 2
    assert "Choose a folder with --output_dir" in capsys.readouterr().err


numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.floats(-100, 200), st.none(), st.text(max_size=3)
)
junk = st.recursive(
    numbers | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
kinds = st.sampled_from(["polygon", "rectangle", "circle", "mask", "line", "ellipse", "rect"])
shapes = st.fixed_dictionaries(
    {
        "label": st.text(max_size=3) | st.just("cat") | junk,
        "points": st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=6) | junk,
        "shape_type": kinds | junk,
        "group_id": st.integers(0, 2) | junk,
        "mask": st.text(max_size=5) | junk,
    }
)
coordinates = st.lists(numbers, max_size=5) | junk
regions = st.fixed_dictionaries(
    {
        "shape_attributes": st.fixed_dictionaries(
            {"name": kinds},
            optional={
                **dict.fromkeys(("all_points_x", "all_points_y"), coordinates),
                **dict.fromkeys(("x", "y", "width", "height", "cx", "cy", "r", "rx"), numbers),
            },
        )
        | junk,
        "region_attributes": st.fixed_dictionaries({"name": st.text(max_size=4) | junk}) | junk,
    }
)


def dumped(content):
    """JSON as careless tools write it: with NaN, and half of an emoji."""
    return json.dumps(content, ensure_ascii=True)


def convert_anything(source_format, data):
    """Whatever is in the data, it ends in one of the three statuses, and what is written is COCO."""
    output = data.parent / "out"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        options = ["--from", source_format, "--data", str(data), "--output_dir", str(output)]
        status = command.main(options)
    assert status in (0, 2, 3)
    if status != 2:
        table = read_coco(output / "train_coco.json")
        assert (status == 0) == bool(len(table))
        for area, box in zip(table.areas, table.boxes, strict=True):
            assert 0 < area <= WIDTH * HEIGHT and math.isfinite(box.sum())


fuzzing = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@fuzzing
@given(st.lists(shapes | junk, max_size=4) | junk, numbers, numbers)
def test_any_labelme_file(tmp_path_factory, content, width, height):
    data = tmp_path_factory.mktemp("fuzz") / "data"
    save_image(data / "a.png")
    size = {"imageWidth": width, "imageHeight": height} if height == width else {}
    save_json(data / "a.json", dumped({"shapes": content, "imagePath": "a.png", **size}))
    convert_anything("labelme", data)


@fuzzing
@given(st.lists(regions | junk, max_size=4) | junk)
def test_any_via_file(tmp_path_factory, content):
    data = tmp_path_factory.mktemp("fuzz") / "data"
    save_image(data / "a.png")
    save_json(data / "a.json", dumped({"a": {"filename": "a.png", "regions": content}}))
    convert_anything("via", data)


@fuzzing
@given(st.lists(st.lists(st.floats(-0.1, 1.1) | numbers, max_size=9), max_size=4), st.text())
def test_any_label_file(tmp_path_factory, lines, more):
    data = tmp_path_factory.mktemp("fuzz") / "data"
    save_image(data / "images" / "a.png")
    text = "".join(f"0 {' '.join(map(str, line))}\n" for line in lines) + more
    save_json(data / "data.yaml", "names: [cat]\ntrain: images\n")
    (data / "labels").mkdir()
    (data / "labels" / "a.txt").write_text(text, encoding="utf-8", errors="surrogatepass")
    convert_anything("yolo", data)


@fuzzing
@given(st.lists(st.tuples(st.text(max_size=4), numbers, numbers), max_size=4), st.text())
def test_any_xml_file(tmp_path_factory, objects, more):
    data = tmp_path_factory.mktemp("fuzz") / "data"
    save_image(data / "JPEGImages" / "a.png")
    items = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
        f"<xmax>{y}</xmax><ymax>{x}</ymax></bndbox></object>"
        for name, x, y in objects
    )
    (data / "Annotations").mkdir()
    text = f"<annotation>{items}</annotation>{more}"
    file = data / "Annotations" / "a.xml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    convert_anything("voc", data)


def test_pipes_are_not_waited_for(tmp_path):
    """Where a file is expected, whatever the format."""
    places = {
        "yolo": ("names: [cat]\ntrain: images\n", "labels/a.txt"),
        "voc": (None, "Annotations/a.xml"),
        "labelme": (None, "a.json"),
        "via": (None, "a.json"),
    }
    for source_format, (yaml, pipe) in places.items():
        data = tmp_path / source_format
        save_image(data / "images" / "a.png")
        save_image(data / "a.png")
        if yaml:
            save_json(data / "data.yaml", yaml)
        (data / pipe).parent.mkdir(exist_ok=True)
        os.mkfifo(data / pipe)
        status = 2 if source_format == "via" else 3
        convert(source_format, data, status=status, output=tmp_path / "out")

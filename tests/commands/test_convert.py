"""The converter against annotations made by hand."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from mrcnn.commands import convert as command
from mrcnn.commands.arguments import from_arguments
from mrcnn.core.classes import DEEPFASHION2, DEEPFASHION2_CATEGORY_IDS
from mrcnn.core.text import from_cell
from mrcnn.data.dataset import CocoDataset
from mrcnn.deepfashion2 import converter
from mrcnn.deepfashion2.converter import convert_split
from mrcnn.deepfashion2.records import Form
from tests.helpers import ROOT
from tests.helpers.deepfashion2_files import (
    HEIGHT,
    SQUARE,
    WIDTH,
    Found,
    an_item,
    convert,
    convert_one,
    write_image,
)

SHARED = ROOT.parent / "shared" / "data" / "street_fashion_mini"

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# How many each category has (the data set's README).
LANDMARKS = {1: 25, 2: 33, 3: 31, 4: 39, 5: 15, 6: 15, 7: 10, 8: 14, 9: 8, 10: 29, 11: 37}
LANDMARKS |= {12: 19, 13: 19}


def test_expected_values(tmp_path):
    write_image(tmp_path / "train", "000012", [an_item()], source="shop", pair_id=99)
    coco, problems = convert(tmp_path / "train")
    assert coco["images"] == [
        {
            "id": 12,
            "file_name": "000012.jpg",
            "width": WIDTH,
            "height": HEIGHT,
            "pair_id": 99,
            "source": "shop",
        }
    ]
    assert coco["annotations"] == [
        {
            "id": 1,
            "image_id": 12,
            "category_id": 8,
            "bbox": [10, 5, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "segmentation": [SQUARE],
            "scale": 2,
            "occlusion": 1,
            "zoom_in": 3,
            "viewpoint": 2,
            "style": 1,
        }
    ]
    assert problems.rows == []


@pytest.mark.parametrize(
    ("category_id", "category_name", "class_name"),
    [
        (1, "short sleeve top", "short_sleeved_shirt"),
        (2, "long sleeve top", "long_sleeved_shirt"),
        (3, "short sleeve outwear", "short_sleeved_outwear"),
        (4, "long sleeve outwear", "long_sleeved_outwear"),
        (5, "vest", "vest"),
        (6, "sling", "sling"),
        (7, "shorts", "shorts"),
        (8, "trousers", "trousers"),
        (9, "skirt", "skirt"),
        (10, "short sleeve dress", "short_sleeved_dress"),
        (11, "long sleeve dress", "long_sleeved_dress"),
        (12, "vest dress", "vest_dress"),
        (13, "sling dress", "sling_dress"),
    ],
)
def test_each_category_keeps_its_id_and_name(tmp_path, category_id, category_name, class_name):
    landmarks = [0] * (3 * LANDMARKS[category_id])
    item = an_item(category_id=category_id, category_name=category_name, landmarks=landmarks)
    write_image(tmp_path, "000001", [item])
    coco, problems = convert(tmp_path)
    names = {c["id"]: c["name"] for c in coco["categories"]}
    assert [a["category_id"] for a in coco["annotations"]] == [category_id]
    assert names[category_id] == class_name == DEEPFASHION2[category_id]
    assert list(names) == list(range(1, 14))
    assert not problems.rows


def test_annotation_ids_follow_image_id_then_item_number(tmp_path):
    many = [an_item(style=i) for i in range(1, 12)]
    write_image(tmp_path, "10", [an_item(style=50)])
    write_image(tmp_path, "9", many)
    coco, _ = convert(tmp_path)
    assert [i["id"] for i in coco["images"]] == [9, 10]
    assert [a["id"] for a in coco["annotations"]] == list(range(1, 13))
    # item10 and item11 come after item9, not after item1.
    assert [a["style"] for a in coco["annotations"]] == [*range(1, 12), 50]
    assert [a["image_id"] for a in coco["annotations"]] == [9] * 11 + [10]


def test_area_is_that_of_the_union(tmp_path):
    overlapping = [20, 5, 40, 5, 40, 25, 20, 25]
    images, annotations, _ = convert_one(tmp_path, an_item(segmentation=[SQUARE, overlapping]))
    assert annotations[0]["area"] == 30 * 20
    assert len(images) == 1


def test_image_without_items_stays(tmp_path):
    images, annotations, problems = convert_one(tmp_path)
    assert (len(images), annotations, problems.rows) == (1, [], [])


def test_rotated_image_is_trained_on_as_stored(tmp_path):
    """Size, polygons and the pixels that training sees share one frame: the stored one."""
    write_image(tmp_path / "train", "000001", [an_item()])
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers show it turned by 90 degrees
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[5:25, 10:30] = 255  # what SQUARE covers
    Image.fromarray(pixels).save(tmp_path / "train" / "image" / "000001.jpg", exif=exif, quality=95)
    summary = convert_split(tmp_path / "train", tmp_path)
    assert dict(summary.problems) == {"turned picture": 1}
    assert Found(tmp_path / "train.problems.csv").rows == [
        (
            "000001.jpg",
            "",
            "turned picture: its EXIF orientation is 6, so viewers show it turned",
            "width, height and pixels used as stored",
        )
    ]
    dataset = CocoDataset()
    dataset.load_coco(tmp_path / "train_coco.json", tmp_path / "train" / "image")
    dataset.prepare()
    assert (dataset.image_info[0]["width"], dataset.image_info[0]["height"]) == (WIDTH, HEIGHT)
    image, (mask, class_ids) = dataset.load_image(0), dataset.load_mask(0)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert class_ids.tolist() == [8]
    assert image[mask[..., 0]].mean() > 240
    assert image[~mask[..., 0]].mean() < 10


@pytest.mark.parametrize(
    ("changes", "problem", "bbox"),
    [
        ({"bounding_box": [-3, 5, 30, 45]}, "box beyond picture", [0, 5, 30, 35]),
        ({"bounding_box": [30, 5, 10, 25]}, "bad box", [10, 5, 20, 20]),
        ({"bounding_box": [10, 5, 10, 25]}, "bad box", [10, 5, 20, 20]),
        ({"bounding_box": [70, 5, 90, 25]}, "bad box", [10, 5, 20, 20]),
        ({"bounding_box": [10, 5, 30]}, "bad box", [10, 5, 20, 20]),
        ({"bounding_box": None}, "bad box", [10, 5, 20, 20]),
        ({"bounding_box": ["10", 5, 30, 25]}, "non-finite number", [10, 5, 20, 20]),
        ({"bounding_box": [10, 5, float("nan"), 25]}, "non-finite number", [10, 5, 20, 20]),
        ({"segmentation": [SQUARE, [1, 1, 5, 5]]}, "bad polygon", [10, 5, 20, 20]),
        ({"segmentation": [SQUARE, [1, 1, 5, 5, 1, 5, 3]]}, "bad polygon", [10, 5, 20, 20]),
        ({"segmentation": [SQUARE, [1, 1, 1, 1, 1, 1]]}, "empty polygon", [10, 5, 20, 20]),
        ({"segmentation": [SQUARE, [1, 1, 9, 9, 1e9, 1]]}, "bad polygon", [10, 5, 20, 20]),
        ({"segmentation": [SQUARE, 3]}, "bad polygon", [10, 5, 20, 20]),
        (
            {"segmentation": [SQUARE, [1, 1, float("inf"), 5, 1, 5]]},
            "non-finite number",
            [10, 5, 20, 20],
        ),
        ({"scale": 9}, "bad attribute", [10, 5, 20, 20]),
        ({"viewpoint": True}, "bad attribute", [10, 5, 20, 20]),
    ],
)
def test_repaired_problems(tmp_path, changes, problem, bbox):
    _, annotations, problems = convert_one(tmp_path, an_item(**changes))
    assert dict(problems.kinds) == {problem: 1}
    assert problems.rows[0][:2] == ("000001.jpg", "item1")
    assert [(a["bbox"], a["area"], a["segmentation"]) for a in annotations] == [
        (bbox, 400, [SQUARE])
    ]


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (an_item(category_id=7), "category mismatch"),
        (an_item(category_id=14), "unknown category"),
        (an_item(category_id=0), "unknown category"),
        (an_item(category_id="8"), "unknown category"),
        (an_item(category_name="pants"), "unknown category"),
        (an_item(category_name=["trousers"]), "unknown category"),
        (an_item(segmentation=[]), "no usable polygon"),
        (an_item(segmentation=None), "bad segmentation"),
        ([1, 2], "bad item"),
    ],
)
def test_items_that_are_skipped(tmp_path, item, problem):
    images, annotations, problems = convert_one(tmp_path, item, an_item(style=5))
    assert dict(problems.kinds) == {problem: 1}
    assert problems.rows[0][1] == "item1"
    assert problems.rows[0][3] == "item skipped"
    assert len(images) == 1
    assert [(a["id"], a["style"]) for a in annotations] == [(1, 5)]


def test_category_mismatch_names_both(tmp_path):
    _, _, problems = convert_one(tmp_path, an_item(category_id=7))
    assert problems.rows[0][2] == ("category mismatch: category_id is 7 but 'trousers' has id 8")


def test_images_that_are_skipped(tmp_path):
    for number in range(1, 8):
        write_image(tmp_path, f"{number:06}", [an_item()])
    (tmp_path / "image" / "000001.jpg").unlink()
    (tmp_path / "annos" / "000002.json").unlink()
    (tmp_path / "image" / "000003.jpg").write_bytes(b"no image")
    (tmp_path / "annos" / "000004.json").write_text('{"item1": {')
    (tmp_path / "annos" / "000005.json").write_text("[]")
    write_image(tmp_path, "6", [an_item()])
    write_image(tmp_path, "front", [an_item()])
    coco, problems = convert(tmp_path)
    assert [i["id"] for i in coco["images"]] == [6, 7]
    assert sorted((file, problem.split(":")[0]) for file, _, problem, _ in problems.rows) == [
        ("000001.jpg", "missing picture"),
        ("000002.jpg", "missing annotation"),
        ("000003.jpg", "unreadable picture"),
        ("000004.jpg", "broken JSON"),
        ("000005.jpg", "broken JSON"),
        ("6.jpg", "bad file name"),
        ("front.jpg", "bad file name"),
    ]
    assert {action for *_, action in problems.rows} == {"picture skipped"}


def test_names_that_spreadsheets_compute(tmp_path):
    names = ["=1+1.jpg", "-2.jpg", "@x.jpg", "+3.jpg", "\t=4.jpg"]
    for name in names:
        write_image(tmp_path, name.removesuffix(".jpg"), [an_item()])
    write_image(tmp_path, "7", [an_item()])
    _, problems = convert(tmp_path)
    assert [from_cell(file) for file, *_ in problems.rows] == sorted(names)
    assert {file[:1] for file, *_ in problems.rows} == {"'"}


def test_bad_source_and_pair_id_become_null(tmp_path):
    images, _, problems = convert_one(tmp_path, an_item(), source="web", pair_id="7")
    assert (images[0]["source"], images[0]["pair_id"]) == (None, None)
    assert dict(problems.kinds) == {"bad attribute": 2}


# A star-shaped polygon: angles in order, so that it never crosses itself.
radii = st.lists(st.floats(3, 19), min_size=3, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(radii=radii, cx=st.floats(19, 41), with_box=st.booleans())
def test_area_and_box_of_any_polygon(radii, cx, with_box):
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    xs, ys = cx + np.array(radii) * np.cos(angles), 20 + np.array(radii) * np.sin(angles)
    polygon = np.stack([xs, ys], axis=1).ravel().tolist()
    box = [min(xs), min(ys), max(xs), max(ys)] if with_box else None
    item = an_item(segmentation=[polygon], bounding_box=box)
    with tempfile.TemporaryDirectory() as name:
        _, (annotation,), _ = convert_one(Path(name), item)
    api = COCO()
    api.imgs = {1: {"id": 1, "height": HEIGHT, "width": WIDTH}}
    mask = api.annToMask({**annotation, "image_id": 1})
    assert annotation["area"] == mask.sum()
    # Shoelace: pixels at the border may count or not, half a pixel along the outline.
    exact = abs(np.dot(xs, np.roll(ys, 1)) - np.dot(ys, np.roll(xs, 1))) / 2
    outline = np.hypot(xs - np.roll(xs, 1), ys - np.roll(ys, 1)).sum()
    assert abs(annotation["area"] - exact) <= outline / 2 + 1
    x, y, w, h = annotation["bbox"]
    rows, columns = np.nonzero(mask)
    # A pixel whose centre is inside reaches at most one pixel beyond the polygon's box.
    assert x - 1 < columns.min() and columns.max() < x + w + 1
    assert y - 1 < rows.min() and rows.max() < y + h + 1
    assert x >= 0 and y >= 0 and x + w <= WIDTH + 1e-9 and y + h <= HEIGHT + 1e-9


def test_files_and_summary(tmp_path, capsys):
    write_image(tmp_path / "train", "000001", [an_item(), an_item(category_id=1)])
    output = tmp_path / "out" / "deep"
    status = command.main(["--data", str(tmp_path), "--output_dir", str(output)])
    text = capsys.readouterr().out
    assert status == 0
    assert sorted(p.name for p in output.iterdir()) == ["train.problems.csv", "train_coco.json"]
    assert "validation: skipped" in text
    assert "train: 1 images, 1 items" in text
    assert "8 trousers                        1\n" in text
    assert "1 problems\n  category mismatch                  1\n" in text
    with open(output / "train.problems.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {
            "file": "000001.jpg",
            "item": "item2",
            "problem": "category mismatch: category_id is 1 but 'trousers' has id 8",
            "action": "item skipped",
        }
    ]
    api = COCO(str(output / "train_coco.json"))
    assert api.annToMask(api.anns[1]).sum() == 400
    assert [c["name"] for c in api.loadCats(range(1, 14))] == list(DEEPFASHION2[1:])


def test_two_runs_write_the_same_bytes(tmp_path):
    write_image(tmp_path / "train", "000001", [an_item(), an_item(scale=0)])
    contents = []
    for _ in range(2):
        assert command.main(["--data", str(tmp_path)]) == 0
        contents.append((tmp_path / "train_coco.json").read_bytes())
    assert contents[0] == contents[1]


def test_split_without_usable_items_is_an_error(tmp_path, capsys):
    write_image(tmp_path / "train", "000001", [an_item(category_id=1)])
    assert command.main(["--data", str(tmp_path)]) == 3
    assert "train has no usable item" in capsys.readouterr().err


def test_split_with_a_path_is_refused(tmp_path, capsys):
    assert command.main(["--data", str(tmp_path), "--splits", "../train"]) == 2
    assert "give the names of folders in --data" in capsys.readouterr().err


def test_output_that_cannot_be_written(tmp_path, capsys):
    write_image(tmp_path / "train", "000001", [an_item()])
    (tmp_path / "taken").write_text("a file")
    arguments = ["--data", str(tmp_path), "--output_dir", str(tmp_path / "taken")]
    assert command.main(arguments) == 2
    assert "--output_dir" in capsys.readouterr().err


def test_command_line_without_the_data_set(tmp_path):
    line = [sys.executable, str(ROOT / "convert_to_coco.py")]
    result = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    for part in ("DeepFashion2", "form", "password", "train.zip", "annos", "data/deepfashion2"):
        assert part in result.stderr
    assert "https://github.com/switchablenorms/DeepFashion2" in result.stderr
    assert result.stderr.strip() == command.missing_data_message("data/deepfashion2")


def test_the_default_folder_is_converted(tmp_path, monkeypatch):
    data = tmp_path / "data" / "deepfashion2"
    write_image(data / "train", "000001", [an_item()])
    write_image(data / "validation", "000002", [])
    write_image(data / "validation", "000003", [an_item()])
    monkeypatch.chdir(tmp_path)
    assert command.main([]) == 0
    coco = orjson.loads((data / "validation_coco.json").read_bytes())
    assert [i["id"] for i in coco["images"]] == [2, 3]
    assert (data / "train_coco.json").exists()


def test_help_has_examples_and_defaults(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("python convert_to_coco.py --") == 2
    for part in ("(default: train validation)", "(default: 200)", "exit status: 0; 3 if"):
        assert part in text


def test_options_are_those_of_the_command_line():
    arguments = ["--splits", "a", "b", "--compat", "official", "--limit", "3", "--make_demo", "d"]
    options = from_arguments(command.ConvertOptions, command.build_parser().parse_args(arguments))
    assert options == command.ConvertOptions(
        splits=("a", "b"), compat="official", limit=3, make_demo=Path("d")
    )
    assert (
        from_arguments(command.ConvertOptions, command.build_parser().parse_args([]))
        == command.ConvertOptions()
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--make_demo", "new", "--images", "1"], 2, "images=1 for 2 splits"),
        (["--make_demo", "taken"], 2, "Choose a folder with --make_demo"),
        (["--make_demo", "new", "--images", "2"], 0, ""),
    ],
)
def test_demo_data(tmp_path, monkeypatch, capsys, arguments, status, message):
    (tmp_path / "taken" / "train" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == status
    out, err = capsys.readouterr()
    assert message in err
    assert ("python convert_to_coco.py --data new" in out) == (status == 0)


def ones(count):
    """Landmarks of a garment with `count` of them: x, y and visibility 1, 2, 0, 1, ..."""
    return [v for i in range(count) for v in (i + 1, i + 101, (1, 2, 0)[i % 3])]


FIRST = (0, 25, 58, 89, 128, 143, 158, 168, 182, 190, 219, 256, 275)
NAMES = {v: k for k, v in DEEPFASHION2_CATEGORY_IDS.items()}


@pytest.mark.parametrize("category_id", range(1, 14))
def test_keypoints_of_each_category(tmp_path, category_id):
    count, first = LANDMARKS[category_id], FIRST[category_id - 1]
    item = an_item(category_id=category_id, category_name=NAMES[category_id], landmarks=ones(count))
    write_image(tmp_path, "000001", [item])
    coco, problems = convert(tmp_path, form=Form(keypoints=True))
    assert not problems.rows
    (annotation,) = coco["annotations"]
    points = np.array(annotation["keypoints"]).reshape(294, 3)
    assert points[first : first + count].ravel().tolist() == ones(count)
    assert not np.delete(points, slice(first, first + count), axis=0).any()
    assert annotation["num_keypoints"] == sum(i % 3 != 2 for i in range(count))
    assert coco["categories"][0]["keypoints"] == [str(i) for i in range(1, 295)]
    assert annotation["area"] == 400


@pytest.mark.parametrize(
    ("landmarks", "kind"),
    [
        ([0] * 39, "bad landmarks"),
        (None, "bad landmarks"),
        ([1, 2, 3] * 14, "bad landmarks"),
        ([float("nan")] * 42, "non-finite number"),
    ],
)
def test_bad_landmarks(tmp_path, landmarks, kind):
    _, (annotation,), problems = convert_one(tmp_path, an_item(landmarks=landmarks))
    assert dict(problems.kinds) == {kind: 1}
    assert problems.rows[0][3] == "landmarks not used"
    assert "keypoints" not in annotation
    form = Form(keypoints=True)
    _, (annotation,), problems = convert_one(tmp_path, an_item(landmarks=landmarks), form=form)
    assert problems.rows[0][3] == "landmarks set to 0"
    assert annotation["keypoints"] == [0] * 882
    assert annotation["num_keypoints"] == 0


def test_data_without_landmarks_is_fine_unless_they_are_asked_for(tmp_path):
    item = an_item()
    del item["landmarks"]
    assert not convert_one(tmp_path, item)[2].rows
    assert convert_one(tmp_path, item, form=Form(keypoints=True))[2].kinds == {"bad landmarks": 1}


def test_official_form(tmp_path):
    """Field by field what the data set's own tool writes."""
    item = an_item(bounding_box=[-3, 5, 30, 45], landmarks=ones(14))
    sliver = [1, 1, 1, 1, 1, 1]
    item["segmentation"] = [SQUARE, sliver]
    write_image(tmp_path, "000012", [item], source="shop", pair_id=99)
    coco, problems = convert(tmp_path, form=Form(official=True))
    assert sorted(coco) == ["annotations", "categories", "images", "info", "licenses"]
    assert coco["images"] == [
        {
            "coco_url": "",
            "date_captured": "",
            "file_name": "000012.jpg",
            "flickr_url": "",
            "id": 12,
            "license": 0,
            "width": WIDTH,
            "height": HEIGHT,
        }
    ]
    (annotation,) = coco["annotations"]
    assert annotation.pop("keypoints")[3 * 168 : 3 * 182] == ones(14)
    assert annotation == {
        "area": 33 * 40,
        "bbox": [-3, 5, 33, 40],
        "category_id": 8,
        "id": 1,
        "pair_id": 99,
        "image_id": 12,
        "iscrowd": 0,
        "style": 1,
        "num_keypoints": 10,
        "segmentation": [SQUARE, sliver],
    }
    assert coco["categories"][7] == {
        "id": 8,
        "name": "trousers",
        "supercategory": "clothes",
        "keypoints": [str(i) for i in range(1, 295)],
        "skeleton": [],
    }
    assert dict(problems.kinds) == {"box beyond picture": 1, "empty polygon": 1}
    assert {row[3] for row in problems.rows} == {"kept as it is, for the official form"}


def test_official_form_goes_by_the_category_id(tmp_path):
    form = Form(official=True)
    _, (annotation,), problems = convert_one(
        tmp_path, an_item(category_id=7, landmarks=ones(10)), form=form
    )
    assert annotation["category_id"] == 7
    assert dict(problems.kinds) == {"category mismatch": 1}


@pytest.mark.parametrize(("second", "words"), [(3, "not all equal"), (1, "all equal")])
def test_duplicated_item_keys(tmp_path, second, words):
    write_image(tmp_path, "000001", [])
    items = ",".join(f'"item1": {json.dumps(an_item(scale=s))}' for s in (1, second))
    text = f'{{"source": "user", "pair_id": 7, {items}}}'
    (tmp_path / "annos" / "000001.json").write_text(text)
    coco, problems = convert(tmp_path)
    assert [a["scale"] for a in coco["annotations"]] == [second]
    assert problems.rows == [
        (
            "000001.jpg",
            "item1",
            f"duplicated key: 'item1' occurs 2 times, {words}",
            "the last one taken",
        )
    ]


def test_items_in_a_text_are_not_duplicates(tmp_path):
    _, annotations, problems = convert_one(tmp_path, an_item(note="item1"), source="user")
    assert len(annotations) == 1
    assert not problems.rows


def test_unknown_keys_are_listed(tmp_path):
    _, annotations, problems = convert_one(tmp_path, an_item(), Item2=an_item())
    assert len(annotations) == 1
    assert dict(problems.kinds) == {"unknown key": 1}


def test_other_files_and_second_images_are_listed(tmp_path):
    write_image(tmp_path, "000001", [an_item()])
    for name in ("000001.png", "000002.gif", ".DS_Store"):
        (tmp_path / "image" / name).write_bytes(b"x")
    (tmp_path / "annos" / "000001.txt").write_bytes(b"x")
    coco, problems = convert(tmp_path)
    assert [i["file_name"] for i in coco["images"]] == ["000001.jpg"]
    assert sorted(row[0] for row in problems.rows) == ["000001.png", "000001.txt", "000002.gif"]


def test_png_images(tmp_path):
    write_image(tmp_path, "000001", [an_item()])
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "image" / "000001.png")
    (tmp_path / "image" / "000001.jpg").unlink()
    coco, problems = convert(tmp_path)
    assert coco["images"][0]["file_name"] == "000001.png"
    assert not problems.rows


def test_limit_takes_the_first_by_id(tmp_path):
    for number in (30, 4, 100):
        write_image(tmp_path, f"{number}", [an_item()])
    coco, _ = convert(tmp_path, limit=2)
    assert [i["id"] for i in coco["images"]] == [4, 30]


def test_test_split_becomes_an_images_only_file(tmp_path, capsys):
    write_image(tmp_path / "test", "000003", [])
    (tmp_path / "test" / "annos" / "000003.json").unlink()
    (tmp_path / "test" / "annos").rmdir()
    assert command.main(["--data", str(tmp_path), "--splits", "test"]) == 0
    api = COCO(str(tmp_path / "test_coco.json"))
    assert api.loadImgs(3)[0]["file_name"] == "000003.jpg"
    assert (len(api.imgs), len(api.anns), len(api.cats)) == (1, 0, 13)
    capsys.readouterr()
    # train is of no use without them: a half-unzipped folder must not pass for a data set.
    (tmp_path / "test").rename(tmp_path / "train")
    assert command.main(["--data", str(tmp_path), "--splits", "train"]) == 2
    assert "train.zip" in capsys.readouterr().err


def test_dry_run_writes_nothing(tmp_path, capsys):
    write_image(tmp_path / "train", "000001", [an_item(), an_item(scale=0)])
    output = tmp_path / "out"
    arguments = ["--data", str(tmp_path), "--output_dir", str(output), "--dry_run"]
    assert command.main(arguments) == 0
    assert not output.exists()
    text = capsys.readouterr().out
    assert "train: 1 images, 2 items" in text and "bad attribute" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train"]


def test_strict_tells_by_its_exit_status(tmp_path):
    write_image(tmp_path / "train", "000001", [an_item()])
    assert command.main(["--data", str(tmp_path), "--strict"]) == 0
    write_image(tmp_path / "train", "000002", [an_item(scale=0)])
    assert command.main(["--data", str(tmp_path)]) == 0
    assert command.main(["--data", str(tmp_path), "--strict"]) == 3
    assert len(orjson.loads((tmp_path / "train_coco.json").read_bytes())["images"]) == 2


def many_images(folder, count):
    """A split of `count` images that are links to one, some of their annotations bad."""
    write_image(folder, "0", [an_item(), an_item(style=2)])
    bad = json.dumps({"source": "user", "pair_id": 1, "item1": an_item(scale=7), "item2": 3})
    for number in range(1, count):
        os.link(folder / "image" / "0.jpg", folder / "image" / f"{number}.jpg")
        path = folder / "annos" / f"{number}.json"
        if number % 10:
            os.link(folder / "annos" / "0.json", path)
        else:
            path.write_text(bad)


@pytest.mark.parametrize("flags", [[], ["--keypoints"]])
def test_workers_write_the_same_bytes(tmp_path, monkeypatch, flags):
    monkeypatch.setattr(converter, "CHUNK", 16)
    many_images(tmp_path / "data" / "train", 100)  # several portions for each worker
    for workers in ("1", "2"):
        arguments = [*flags, "--data", str(tmp_path / "data"), "--workers", workers]
        assert command.main([*arguments, "--output_dir", str(tmp_path / workers)]) == 0
    for name in ("train_coco.json", "train.problems.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    coco = orjson.loads((tmp_path / "2" / "train_coco.json").read_bytes())
    assert [a["id"] for a in coco["annotations"]] == list(range(1, 1 + 2 * 91 + 9))
    assert len(Found(tmp_path / "2" / "train.problems.csv").rows) == 2 * 9


OLDER = (
    b'{"info":{"description":"train split of a data set in DeepFashion2\'s layout"}, "older": 1}'
)


class Busy(NamedTuple):
    """A converter at work, whose two workers are held until `go_on`."""

    process: subprocess.Popen
    output: Path
    workers: list

    def go_on(self):
        for pid in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.fixture
def busy(tmp_path):
    many_images(tmp_path / "data" / "train", 300)
    output = tmp_path / "out"
    output.mkdir()
    (output / "train_coco.json").write_bytes(OLDER)
    command = [sys.executable, ROOT / "convert_to_coco.py", "--data", tmp_path / "data"]
    command += ["--output_dir", output, "--workers", "2"]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    found = Busy(process, output, [])
    deadline = time.monotonic() + 30
    # Held while they still import: that takes longer than their work.
    while len(found.workers) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
        for pid in children(process.pid):
            if pid not in found.workers and "spawn_main" in command_of(pid):
                os.kill(pid, signal.SIGSTOP)
                found.workers.append(pid)
    yield found
    found.go_on()
    process.kill()
    process.wait()


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def wait_until_gone(pids):
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_the_older_result(busy, number):
    if number == signal.SIGINT:
        os.killpg(busy.process.pid, number)  # as a terminal does
    else:
        busy.process.send_signal(number)
    busy.go_on()
    _, stderr = busy.process.communicate(timeout=30)
    assert busy.process.returncode == 130
    assert "Interrupted" in stderr and "Traceback" not in stderr
    assert [p.name for p in busy.output.iterdir()] == ["train_coco.json"]
    assert (busy.output / "train_coco.json").read_bytes() == OLDER
    wait_until_gone(busy.workers)


@linux
def test_kill_9_leaves_the_older_result_and_no_workers(busy):
    busy.process.kill()
    busy.process.wait()
    busy.go_on()
    assert (busy.output / "train_coco.json").read_bytes() == OLDER
    wait_until_gone(busy.workers)


@linux
def test_killed_worker_ends_the_run_with_a_message(busy):
    os.kill(busy.workers[0], signal.SIGKILL)
    busy.go_on()
    _, stderr = busy.process.communicate(timeout=30)
    assert busy.process.returncode == 2
    assert "--workers 1" in stderr and "Traceback" not in stderr
    assert [p.name for p in busy.output.iterdir()] == ["train_coco.json"]


def test_full_disk_leaves_no_half_file(tmp_path):
    """A limit on file sizes makes the writes fail as a full disk does."""
    many_images(tmp_path / "data" / "train", 300)
    code = (
        "import resource, signal, sys; from mrcnn.commands import convert\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "sys.exit(convert.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--data", tmp_path / "data", "--workers", "1"]
    command += ["--output_dir", tmp_path / "out"]
    result = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2, result.stderr
    assert "Cannot write" in result.stderr and "Traceback" not in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="street_fashion_mini is not beside the repository")
def test_real_photos(tmp_path):
    assert command.main(["--data", str(SHARED), "--output_dir", str(tmp_path)]) == 0
    expected = {
        "train": (12, [1, 2, 3, 3, 3, 3, 4, 2, 2, 1, 1, 2, 2]),
        "validation": (6, [0, 3, 1, 0, 1, 1, 1, 2, 1, 0, 1, 1, 1]),
    }
    for split, (images, items) in expected.items():
        api = COCO(str(tmp_path / f"{split}_coco.json"))
        assert len(api.imgs) == images
        assert [len(api.getAnnIds(catIds=[i])) for i in range(1, 14)] == items
        assert (tmp_path / f"{split}.problems.csv").read_text().splitlines() == [
            "file,item,problem,action"
        ]

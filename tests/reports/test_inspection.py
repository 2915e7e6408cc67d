"""`model.py inspect`: counts against hand-counted files, the images it draws, and its page."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn.coco.statistics import ATTRIBUTES, histogram, read_truth, round_edges, statistics
from mrcnn.render.drawing import color_for
from mrcnn.reports import inspection
from tests.helpers import ROOT
from tests.helpers.browser import needs_browser, open_page


def rectangle(x, y, w, h):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def garment(image_id, category_id, *boxes, **more):
    """An annotation of one rectangle a box; its own box is the first one."""
    x, y, w, h = boxes[0]
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
        "segmentation": [rectangle(*box) for box in boxes],
        **more,
    }


def attributes(scale, occlusion, zoom_in, viewpoint):
    return {"scale": scale, "occlusion": occlusion, "zoom_in": zoom_in, "viewpoint": viewpoint}


CATEGORIES = [
    {"id": 9, "name": "skirt"},
    {"id": 5, "name": "vest"},
    {"id": 7, "name": "shorts"},
]
# Two images with garments and one without, by id: b, c, a.
PICTURES = [
    {"id": 3, "file_name": "a.png", "width": 100, "height": 80, "pair_id": 7, "source": "user"},
    {"id": 1, "file_name": "b.png", "width": 100, "height": 80, "pair_id": 7, "source": "shop"},
    {"id": 2, "file_name": "c.png", "width": 60, "height": 120, "pair_id": 9, "source": "user"},
]
ANNOTATIONS = [
    garment(3, 5, (10, 10, 40, 20), id=1, **attributes(1, 1, 1, 2)),
    garment(3, 5, (0, 0, 100, 80), (2, 2, 9, 9), id=2, **attributes(3, 2, 2, 2)),
    garment(3, 9, (50, 20, 40, 40), id=3, **attributes(2, 3, 3, 3)),
    garment(1, 5, (20, 30, 30, 30), id=4, **attributes(None, 7, 1, 1)),
]


def content(annotations=ANNOTATIONS, pictures=PICTURES, categories=CATEGORIES):
    return {"images": pictures, "annotations": annotations, "categories": categories}


@pytest.fixture
def coco(tmp_path):
    """Writes a COCO file and its images, grey 200; returns the file's path."""

    def write(coco_content=None, folder=tmp_path, name="things.json"):
        coco_content = coco_content or content()
        folder.mkdir(parents=True, exist_ok=True)
        for entry in coco_content["images"]:
            picture = Image.new("RGB", (entry["width"], entry["height"]), (200,) * 3)
            picture.save(folder / entry["file_name"])
        (folder / name).write_text(json.dumps(coco_content), encoding="utf-8")
        return folder / name

    return write


def counted(path, limit=None):
    return statistics(read_truth(path, limit))


def used(bins):
    """The bins of a histogram that hold something: {lower edge: count}."""
    return {
        edge: n
        for edge, n in zip(bins["edges"], bins["counts"], strict=False)
        if n and n is not None
    }


# --- Counts -----------------------------------------------------------------------------------


def test_pictures_and_instances(coco):
    found = counted(coco())
    assert (found["pictures"], found["annotations"], found["instances"]) == (3, 4, 4)
    assert (found["crowds"], found["pairs"], found["pictures_without_instances"]) == (0, 2, 1)
    assert found["instances_per_picture"] == {"0": 1, "1": 1, "3": 1}
    assert found["instances_mean"] == pytest.approx(4 / 3)
    assert found["picture_sizes"] == {
        "distinct": 2,
        "width": {"min": 60, "median": 100, "max": 100},
        "height": {"min": 80, "median": 80, "max": 120},
        "most_common": [
            {"width": 100, "height": 80, "pictures": 2},
            {"width": 60, "height": 120, "pictures": 1},
        ],
    }
    assert found["problems"] == {}


def test_classes(coco):
    found = counted(coco())
    rows = [
        (c["id"], c["name"], c["instances"], c["share"], c["pictures"], c["crowds"])
        for c in found["classes"]
    ]
    assert rows == [
        (5, "vest", 3, 0.75, 2, 0),
        (7, "shorts", 0, 0.0, 0, 0),
        (9, "skirt", 1, 0.25, 1, 0),
    ]
    assert found["classes_without_instances"] == ["shorts"]
    assert found["imbalance"] == {"largest": "vest", "smallest": "skirt", "ratio": 3.0}


def test_attributes(coco):
    found = counted(coco())
    assert found["attributes"] == {
        "scale": {"small": 1, "moderate": 1, "large": 1, "other": 0, "missing": 1},
        "occlusion": {"slight": 1, "medium": 1, "heavy": 1, "other": 1, "missing": 0},
        "zoom_in": {"no": 2, "medium": 1, "large": 1, "other": 0, "missing": 0},
        "viewpoint": {"no wear": 1, "frontal": 2, "side or back": 1, "other": 0, "missing": 0},
        "source": {"user": 3, "shop": 1, "other": 0, "missing": 0},
    }
    assert found["pictures_by_source"] == {"user": 2, "shop": 1, "other": 0, "missing": 0}
    vest, shorts, skirt = (c["attributes"] for c in found["classes"])
    assert vest["scale"] == {"small": 1, "moderate": 0, "large": 1, "other": 0, "missing": 1}
    assert vest["source"] == {"user": 2, "shop": 1, "other": 0, "missing": 0}
    assert skirt["viewpoint"]["side or back"] == 1 and sum(skirt["viewpoint"].values()) == 1
    assert shorts == dict.fromkeys(ATTRIBUTES)


def test_attributes_of_foreign_types_are_other(coco):
    values = (0.5, "2", [1], {"a": 1}, True, 2.0)
    found = counted(coco(content([garment(1, 5, (0, 0, 9, 9), scale=v) for v in values])))
    assert found["attributes"]["scale"] == {
        "small": 0,
        "moderate": 1,
        "large": 0,
        "other": 5,
        "missing": 0,
    }


def test_boxes_and_areas(coco):
    found = counted(coco())
    boxes, areas = found["boxes"], found["areas"]
    assert boxes["width"]["edges"] == list(range(0, 101, 5))
    assert used(boxes["width"]) == {30: 1, 40: 2, 95: 1}  # 100 belongs to the last bin
    assert boxes["height"]["edges"] == list(range(0, 81, 5))
    assert used(boxes["height"]) == {20: 1, 30: 1, 40: 1, 75: 1}
    assert used(boxes["aspect"]) == {1: 2, 1.25: 1, 2: 1}
    # 800 and 900, 1600, 8000 square pixels
    assert used(areas["pixels"]) == {16**2: 2, 32**2: 1, 64**2: 1}
    assert areas["pixels"]["edges"][-2:] == [1024**2, None]
    assert used(areas["share_of_picture"]) == {0.1: 2, 0.2: 1, 0.95: 1}
    assert (areas["small"], areas["medium"], areas["large"]) == (2, 2, 0)
    assert found["polygons_per_instance"] == {"1": 3, "2": 1} and found["rle"] == 0


@pytest.mark.parametrize(
    ("area", "size"),
    [(1023, "small"), (1024, "medium"), (9215, "medium"), (9216, "large")],
)
def test_sizes_are_those_of_coco(coco, area, size):
    areas = counted(coco(content([garment(1, 5, (0, 0, 9, 9), area=area)])))["areas"]
    assert {k: areas[k] for k in ("small", "medium", "large")} == {
        k: int(k == size) for k in ("small", "medium", "large")
    }


def test_the_limit_keeps_the_first_pictures_by_id(coco):
    found = counted(coco(), limit=2)
    assert (found["pictures"], found["instances"], found["pairs"]) == (2, 1, 2)
    assert found["problems"] == {}  # what lies beyond the limit is none


def test_no_annotations(coco):
    found = counted(coco(content([])))
    assert (found["pictures"], found["instances"], found["imbalance"]) == (3, 0, None)
    assert found["pictures_without_instances"] == 3
    assert found["instances_per_picture"] == {"0": 3} and found["instances_mean"] == 0
    assert found["attributes"] == dict.fromkeys(ATTRIBUTES)
    assert found["classes_without_instances"] == ["vest", "shorts", "skirt"]
    assert [c["share"] for c in found["classes"]] == [0, 0, 0]
    assert found["boxes"]["width"] == {"edges": [0, 1], "counts": [0]}
    assert found["polygons_per_instance"] == {} and found["rle"] == 0


def test_pictures_only(tmp_path):
    """As for a split without annotations."""
    (tmp_path / "test.json").write_text(json.dumps({"images": PICTURES}))
    found = counted(tmp_path / "test.json")
    assert (found["pictures"], found["instances"], found["classes"]) == (3, 0, [])


def test_no_pictures(tmp_path):
    (tmp_path / "none.json").write_text(json.dumps(content([], [], [])))
    found = counted(tmp_path / "none.json")
    assert (found["pictures"], found["instances_mean"], found["pairs"]) == (0, None, None)
    assert found["picture_sizes"] == {
        "distinct": 0,
        "width": None,
        "height": None,
        "most_common": [],
    }
    assert found["pictures_by_source"] is None


def encoded(x, y, w, h, compressed, size=(80, 100)):
    """The RLE of a rectangle in an image of `size` (height, width)."""
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    if compressed:
        rle = coco_mask.encode(mask)
        return {"size": list(size), "counts": rle["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(flat, prepend=0))  # the first run is one of zeros
    return {"size": list(size), "counts": np.diff([0, *changes, flat.size]).tolist()}


FOREIGN_CATEGORIES = [
    {"id": 90, "name": "tooth <brush>", "supercategory": "indoor"},
    {"id": 0, "name": "人"},
]
FOREIGN_PICTURES = [
    {"id": 11, "file_name": "x 1.png", "width": 100.0, "height": 80, "license": 3},
    {"id": 12, "file_name": "x 2.png", "width": 100, "height": 80},
]


def foreign():
    """Another data set's file: RLE, crowds, fields of its own, boxes and areas missing."""
    annotations = [
        garment(11, 90, (5, 5, 30, 20), attributes={"colour": [1, 2]}),
        {"image_id": 11, "category_id": 0, "segmentation": encoded(10, 20, 30, 40, True)},
        {"image_id": 12, "category_id": 0, "segmentation": encoded(0, 0, 100, 8, False)},
        {
            "image_id": 12,
            "category_id": 90,
            "bbox": [1, 1, 50, 50],
            "area": 2500.0,
            "iscrowd": 1,
            "segmentation": encoded(1, 1, 50, 50, False),
        },
    ]
    return content(annotations, FOREIGN_PICTURES, FOREIGN_CATEGORIES)


def write_foreign(folder):
    """The foreign file as COCO lays it out: annotations/ beside the folder of the images."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    for entry in FOREIGN_PICTURES:
        picture = Image.new("RGB", (100, 80), (90, 120, 150))
        picture.save(folder / "val2017" / entry["file_name"])
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(foreign()), encoding="utf-8")
    return path


def test_a_foreign_file(tmp_path):
    found = counted(write_foreign(tmp_path))
    assert (found["annotations"], found["instances"], found["crowds"]) == (4, 3, 1)
    assert [(c["id"], c["instances"], c["pictures"], c["crowds"]) for c in found["classes"]] == [
        (0, 2, 2, 0),
        (90, 1, 1, 1),
    ]
    assert found["rle"] == 2 and found["polygons_per_instance"] == {"1": 1}
    # Areas of 600, 1200 and 800; boxes of 30 x 20, 30 x 40 and 100 x 8.
    assert used(found["areas"]["pixels"]) == {16**2: 2, 32**2: 1}
    assert used(found["boxes"]["width"]) == {30: 2, 95: 1}
    assert used(found["boxes"]["aspect"]) == {0.67: 1, 1.5: 1, 10: 1}
    assert found["attributes"] == dict.fromkeys(ATTRIBUTES)
    assert (found["pairs"], found["pictures_by_source"]) == (None, None)
    assert found["problems"] == {"without_a_box_or_an_area": 2}


def test_problems_are_counted(coco):
    found = counted(
        coco(
            content(
                [
                    garment(1, 5, (0, 0, 9, 9), id=1),
                    garment(1, 5, (0, 0, 9, 9), id=1),
                    garment(77, 5, (0, 0, 9, 9)),
                    garment(1, 77, (0, 0, 9, 9)),
                    garment(1, 5, (5, 5, 0, 9)),
                    garment(1, 5, (95, 5, 6, 9)),
                    garment(1, 5, (-0.4, 0, 100.4, 80.4)),  # rounding, no problem
                    garment(1, 5, (1, 1, 4, 5), segmentation=None),
                    {"image_id": 1, "category_id": 5, "segmentation": [[1, 2, 3, 4]]},
                ],
                [*PICTURES, PICTURES[1] | {"file_name": "second.png"}],
                [*CATEGORIES, {"id": 5, "name": "again"}],
            )
        )
    )
    assert found["problems"] == {
        "pictures_with_a_used_id": 1,
        "categories_with_a_used_id": 1,
        "annotations_of_unknown_pictures": 1,
        "annotations_of_unknown_categories": 1,
        "annotations_with_a_used_id": 1,
        "without_a_mask": 1,
        "without_a_box_or_an_area": 1,
        "unreadable_masks": 1,
        "empty_boxes": 2,  # that of the unreadable mask too
        "boxes_beyond_the_picture": 1,
    }
    assert found["instances"] == 7
    assert [c["name"] for c in found["classes"]] == ["vest", "shorts", "skirt"]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 9, 1]],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[None] * 6],
        [1, 2, 3, 4, 5, 6],
        {"size": [80, 101], "counts": [8080]},
        {"size": [80, 100], "counts": [7999]},
        {"size": [80, 100], "counts": ""},
        {"size": [80, 100]},
    ],
)
def test_a_mask_that_is_none_is_no_crash(coco, segmentation):
    annotation = {"image_id": 1, "category_id": 5, "segmentation": segmentation}
    found = counted(coco(content([annotation])))
    assert found["problems"]["unreadable_masks"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"annotations": []}', "missing required field `images`"),
        ('{"images": [{"id": 1, "file_name": "a.png", "width": "9"}]}', "images.0..width"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=f"x.json is no COCO instances file.*{message}"):
        read_truth(tmp_path / "x.json")


numbers = st.lists(st.floats(0, 1e7), max_size=30)


@given(numbers)
def test_round_edges_hold_all_values(values):
    edges = round_edges(np.array(values))
    steps = np.diff(edges)
    assert edges[0] == 0 and edges[-1] >= max([1, *values])
    assert 1 <= len(steps) <= 20
    assert np.allclose(steps, steps[0]) and steps[0] >= 1
    assert f"{steps[0]:.0e}"[0] in "125"


@given(numbers, st.booleans())
def test_histogram_counts_each_value_once(values, open_end):
    edges = [0, 1, 10, 1000]
    bins = histogram(np.array(values), edges, open_end)
    bounds = [*edges[1:3], 1000 if open_end else np.inf, *([np.inf] if open_end else [])]
    below = [sum(v < bound for v in values) for bound in bounds]
    assert bins["counts"] == np.diff([0, *below]).tolist()
    assert bins["edges"] == [*edges, *([None] if open_end else [])]


# --- The contact sheet ------------------------------------------------------------------------


@pytest.fixture
def many(coco, tmp_path):
    """40 images with a vest, one of them with a skirt too, one with shorts too."""
    pictures = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(1, 41)]
    annotations = [garment(i, 5, (2, 2, 20, 20)) for i in range(1, 41)]
    annotations += [garment(17, 9, (5, 5, 9, 9)), garment(18, 7, (5, 5, 9, 9))]
    return read_truth(coco(content(annotations, pictures)))


def names_on(sheet, truth):
    return [truth.pictures[i].file_name for i, _ in sheet.tiles]


def test_rare_classes_appear(many, tmp_path):
    for seed in range(5):
        sheet = inspection.contact_sheet(many, tmp_path, 3, seed)
        assert {"17.png", "18.png"} < set(names_on(sheet, many))
        assert sheet.classes == {0, 1, 2} and not sheet.failed


def test_the_seed_chooses(many, tmp_path):
    sheets = [names_on(inspection.contact_sheet(many, tmp_path, 10, s), many) for s in (1, 1, 2)]
    assert sheets[0] == sheets[1] != sheets[2]
    assert len(set(sheets[0])) == 10


def test_more_than_there_are(many, tmp_path):
    sheet = inspection.contact_sheet(many, tmp_path, 100)
    assert sorted(names_on(sheet, many)) == sorted(f"{i}.png" for i in range(1, 41))


def test_what_is_drawn(coco, tmp_path):
    truth = read_truth(coco(content([garment(1, 5, (20, 30, 30, 30))])))
    sheet = inspection.contact_sheet(truth, tmp_path, 1)
    ((picture, tile),) = sheet.tiles
    assert truth.pictures[picture].file_name == "b.png" and tile.shape == (80, 100, 3)
    assert tuple(tile[59, 40]) == color_for(1)  # the outline's lowest row
    assert tuple(tile[70, 80]) == (200,) * 3
    inside = 200 + 0.35 * (np.array(color_for(1)) - 200)
    np.testing.assert_allclose(tile[45, 35], inside, atol=2)


def test_large_pictures_shrink_with_their_boxes(coco, tmp_path):
    pictures = [{"id": 1, "file_name": "big.png", "width": 640, "height": 320}]
    truth = read_truth(coco(content([garment(1, 5, (200, 100, 200, 200))], pictures)))
    ((_, tile),) = inspection.contact_sheet(truth, tmp_path, 1).tiles
    assert tile.shape == (160, 320, 3)
    assert tuple(tile[149, 150]) == color_for(1)  # 300 / 2, exclusive
    assert tuple(tile[151, 150]) == (200,) * 3


def test_stored_pixels_count(coco, tmp_path):
    """Annotations are for the file as stored, whatever its EXIF orientation says."""
    pictures = [{"id": 1, "file_name": "turned.jpg", "width": 60, "height": 40}]
    path = coco(content([garment(1, 5, (5, 5, 20, 20))], pictures))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    sheet = inspection.contact_sheet(read_truth(path), tmp_path, 1)
    assert not sheet.failed and sheet.tiles[0][1].shape == (40, 60, 3)


def test_missing_and_resized_pictures_are_listed(many, tmp_path):
    (tmp_path / "17.png").unlink()
    Image.new("RGB", (41, 30)).save(tmp_path / "18.png")
    (tmp_path / "5.png").write_bytes(b"no image")
    sheet = inspection.contact_sheet(many, tmp_path, 100)
    failed = dict(sheet.failed)
    assert set(failed) == {"17.png", "18.png", "5.png"} and len(sheet.tiles) == 37
    assert "17.png does not exist" in failed["17.png"]
    assert "18.png is 41 x 30 but annotated as 40 x 30" in failed["18.png"]


def test_it_gives_up_when_nearly_all_are_missing(many, tmp_path):
    for i in range(2, 41):
        (tmp_path / f"{i}.png").unlink()
    sheet = inspection.contact_sheet(many, tmp_path, 30)
    assert len(sheet.failed) == inspection.MOST_FAILURES


def test_a_picture_without_instances(coco, tmp_path):
    truth = read_truth(coco(content([])))
    sheet = inspection.contact_sheet(truth, tmp_path, 5)
    assert len(sheet.tiles) == 3 and not sheet.classes
    assert (sheet.tiles[0][1] == 200).all()


def test_crowds_are_drawn_but_cover_no_class(tmp_path):
    truth = read_truth(write_foreign(tmp_path))
    sheet = inspection.contact_sheet(truth, tmp_path / "val2017", 1)
    assert names_on(sheet, truth) == ["x 1.png"]  # the other has its brushes in a crowd only
    sheet = inspection.contact_sheet(truth, tmp_path / "val2017", 2)
    tile = dict(sheet.tiles)[1]
    assert tuple(tile[50, 30]) == color_for(2)  # the crowd's lowest row


def test_montage():
    tiles = [np.full((20, 30, 3), 10 * i, np.uint8) for i in range(1, 9)]
    sheet = np.asarray(inspection.montage(tiles, ["very long name of a picture.jpg"] * 8))
    assert sheet.shape == (2 * (20 + 18 + 10) + 10, 6 * 40 + 10, 3)
    assert (sheet[10:30, 10:40] == 10).all()
    assert (sheet[58:78, 50:80] == 80).all()
    assert (sheet[:, 40:50] == 255).all()  # no name reaches into the next column


# --- Where the images are -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "picture"),
    [
        ("d/train_coco.json", "d/train/image/1.jpg"),
        ("d/instances_val2017.json", "d/val2017/1.jpg"),
        ("d/annotations/instances_val2017.json", "d/val2017/1.jpg"),
        ("d/annotations/instances_val2017.json", "d/images/val2017/1.jpg"),
        ("d/annotations/train.json", "d/images/1.jpg"),
        ("d/train/_annotations.coco.json", "d/train/1.jpg"),
        ("elsewhere/train_coco.json", "data/train/image/1.jpg"),
    ],
)
def test_pictures_are_found_near_the_file(tmp_path, monkeypatch, file, picture):
    monkeypatch.chdir(tmp_path)
    folder = Path(picture).parent
    folder.mkdir(parents=True)
    name = inspection.split_name(Path(file))
    found = inspection.likely_folders(Path(file), name, Path("data"))
    assert folder.absolute() in [f.absolute() for f in found]


# --- The command ------------------------------------------------------------------------------


def run(*options, cwd=ROOT, status=0):
    result = subprocess.run(
        [sys.executable, str(ROOT / "model.py"), "inspect", *map(str, options)],
        cwd=cwd,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture
def data(coco, tmp_path):
    """A data set in DeepFashion2's layout, converted."""
    folder = tmp_path / "data" / "deepfashion2"
    coco(folder=folder / "train" / "image")
    (folder / "train" / "image" / "things.json").rename(folder / "train_coco.json")
    return folder


def test_command(data, tmp_path):
    printed = run(cwd=tmp_path)  # all defaults
    out = tmp_path / "output_folder" / "inspect_train"
    assert "3 images, 1 of them without an instance; 4 instances" in printed
    assert "5  vest                             3   75.0%         2" in printed
    assert "imbalance 3:1, vest to skirt" in printed
    assert "scale: small 1, moderate 1, large 1, missing 1" in printed
    assert "problem" not in printed and "written: output_folder/inspect_train/index.html" in printed
    found = json.loads((out / "statistics.json").read_text())
    assert {key: found[key] for key in counted(data / "train_coco.json")} == counted(
        data / "train_coco.json"
    )
    assert found["picture_folder"] == "data/deepfashion2/train/image"
    assert sorted(found["sheet"]["pictures"]) == ["a.png", "b.png", "c.png"]
    assert found["sheet"]["failed"] == [] and found["sheet"]["classes_not_shown"] == []
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.size == (10 + 3 * 110, 10 + 120 + 18 + 10)


def test_limit_pictures_and_seed(data, tmp_path):
    options = ["--data", data, "--limit", 2, "--pictures", 1, "--seed", 3]
    printed = run(*options, "--output_folder", tmp_path / "out")
    assert "2 images, 1 of them without an instance; 1 instances" in printed
    found = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert (found["limit"], found["sheet"]["seed"]) == (2, 3)
    assert found["sheet"]["pictures"] == ["b.png"]


def test_any_coco_file(tmp_path):
    path = write_foreign(tmp_path)
    printed = run("--annotations", path, cwd=tmp_path)
    assert "2 images, 0 of them without an instance; 3 instances, 1 crowds" in printed
    assert "occlusion: n/a" in printed and "人" in printed
    assert "2 annotations without a box or an area" in printed
    out = tmp_path / "output_folder" / "inspect_val2017"
    found = json.loads((out / "statistics.json").read_text())
    assert found["picture_folder"] == str(tmp_path / "val2017")
    assert len(found["sheet"]["pictures"]) == 2


def test_missing_pictures_are_no_end(data, tmp_path):
    (data / "train" / "image" / "a.png").unlink()
    out = tmp_path / "out"
    printed = run("--data", data, "--output_folder", out)
    assert "1 images could not be drawn:" in printed and "a.png does not exist" in printed
    assert (out / "contact_sheet.png").exists()
    found = json.loads((out / "statistics.json").read_text())
    assert found["sheet"]["classes_not_shown"] == ["skirt"]
    # None left: the sheet of the earlier run goes, as it shows what is not there.
    (data / "train").rename(tmp_path / "away")
    printed = run("--data", data, "--output_folder", out)
    assert "no images found; give their folder with --images" in printed
    assert not (out / "contact_sheet.png").exists()
    printed = run("--data", data, "--output_folder", out, "--images", tmp_path / "away" / "image")
    assert "contact_sheet.png (2 images)" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "https://github.com/switchablenorms/DeepFashion2"),
        (["--split", "validation", "--data", "data/deepfashion2"], "DeepFashion2"),
        (["--annotations", "no.json"], "no file no.json"),
        (["--annotations", "data"], "python convert_to_coco.py --data data/deepfashion2"),
        (["--images", "nowhere"], "no folder nowhere"),
        (["--annotations", "bad.json"], "bad.json is no COCO instances file"),
        (["--pictures", "0"], "give 1 or more"),
        (["--seed", "-1"], "give 0 or more"),
    ],
)
def test_errors_say_what_to_do(data, tmp_path, options, message):
    (tmp_path / "bad.json").write_text("[]")
    assert message in run(*options, cwd=tmp_path, status=2)
    assert not (tmp_path / "output_folder").exists()


# --- The page ---------------------------------------------------------------------------------


def page_of(path, folder, out, **options):
    inspection.inspect_coco(path, [folder], out, "train", **options)
    return out / "index.html"


@needs_browser
def test_the_page_in_a_browser(data, tmp_path):
    page = page_of(data / "train_coco.json", data / "train" / "image", tmp_path / "out")
    (tmp_path / "out" / "contact_sheet.png").unlink()  # the page needs no other file
    with open_page(page) as driver:
        text = driver.execute_script("return document.body.innerText")
        widths = driver.execute_script(
            "return [...document.querySelectorAll('figure img')].map(i => i.naturalWidth)"
        )
        rows = driver.execute_script(
            "return [...document.querySelectorAll('.classes tbody tr')].map(r => r.innerText)"
        )
        all_row = driver.execute_script(
            "return [...document.querySelector('.cross tbody tr').cells].map(c => c.innerText)"
        )
        bars = driver.execute_script(
            "return [...document.querySelectorAll('.chart')].map(c => [c.ariaLabel,"
            " [...c.querySelectorAll('.bar')].filter(b => b.getBBox().height > 0).length])"
        )
    assert "train: 4 instances in 3 images" in text
    assert "3 : 1\nimbalance\nvest to skirt" in text and "Without an instance: shorts." in text
    assert rows[0].split() == ["vest", "5", "3", "75.0", "%", "2"]
    # scale with "missing", occlusion with "other", zoom_in, viewpoint, source
    assert all_row == ["all", *"1111", *"1111", *"211", *"121", *"31"]
    assert sorted(widths) == [60, 100, 100]
    assert dict(bars)["Instances per image"] == 3 and dict(bars)["Box width"] == 3


@needs_browser
def test_the_page_on_a_narrow_screen(data, tmp_path):
    page = page_of(data / "train_coco.json", data / "train" / "image", tmp_path / "out")
    with open_page(page) as driver:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False},
        )
        width = driver.execute_script("return document.documentElement.scrollWidth")
    assert width <= 400  # nothing but the tables scrolls sideways


@needs_browser
def test_names_are_text_on_the_page(tmp_path):
    path = write_foreign(tmp_path)
    with open_page(page_of(path, tmp_path / "val2017", tmp_path / "out")) as driver:
        text = driver.execute_script("return document.body.innerText")
        marked = driver.execute_script("return document.querySelectorAll('brush').length")
    assert "tooth <brush> (crowd)" in text and not marked
    assert "n/a, as no instance has it: scale, occlusion, zoom_in, viewpoint, source." in text
    assert "2 instances are run-length encoded" in text
    assert "annotations without a box or an area" in text


@needs_browser
@pytest.mark.parametrize("coco_content", [content([], [], []), content([])])
def test_the_page_of_nothing(tmp_path, coco_content):
    (tmp_path / "x.json").write_text(json.dumps(coco_content))
    with open_page(page_of(tmp_path / "x.json", tmp_path / "none", tmp_path / "out")) as driver:
        text = driver.execute_script("return document.body.innerText")
    assert f"0 instances in {len(coco_content['images'])} images" in text
    assert "No images were found" in text

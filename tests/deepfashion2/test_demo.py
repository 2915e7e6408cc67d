"""Made-up data: what the annotations say is there, in range, and what was drawn."""

import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import orjson
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_utils

from mrcnn.coco.reader import read_coco
from mrcnn.core.classes import DEEPFASHION2_CATEGORY_IDS, DEEPFASHION2_LANDMARK_OFFSETS
from mrcnn.deepfashion2.converter import convert_split
from mrcnn.deepfashion2.demo.garments import Place, draw_cut, draw_figure, lay_out, make_pattern
from mrcnn.deepfashion2.demo.painting import draw, draw_cloth
from mrcnn.deepfashion2.demo.scenes import (
    body,
    demo_annotation,
    demo_image,
    make_demo,
    make_scene,
    pieces,
    split_counts,
)
from tests.helpers import ROOT

BOTTOMS = (7, 8, 9)


def items(annotation):
    return [value for key, value in annotation.items() if key.startswith("item")]


def mask_of(item, size):
    """[H, W] bool: the pixels of an item's polygons."""
    width, height = size
    rles = mask_utils.frPyObjects(item["segmentation"], height, width)
    return mask_utils.decode(mask_utils.merge(rles)).astype(bool)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 images, 32 of them for training."""
    path = tmp_path_factory.mktemp("demo") / "data"
    assert make_demo(path, 40, progress=False) == {"train": 32, "validation": 8}
    return path


# Files


def test_layout_of_the_files(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["train", "validation"]
    for split, count in (("train", 32), ("validation", 8)):
        stems = [f"{i:06d}" for i in range(1, count + 1)]
        assert sorted(p.name for p in (folder / split / "image").iterdir()) == [
            f"{s}.jpg" for s in stems
        ]
        assert sorted(p.name for p in (folder / split / "annos").iterdir()) == [
            f"{s}.json" for s in stems
        ]


def test_files_hold_what_the_functions_give(folder):
    annotation, size = demo_annotation(5, split="validation")
    assert json.loads((folder / "validation/annos/000005.json").read_text()) == annotation
    with Image.open(folder / "validation/image/000005.jpg") as image:
        assert (image.size, image.mode) == (size, "RGB")
        stored = np.array(image, int)
    drawn = np.array(demo_image(5, split="validation")[1], int)
    assert abs(stored - drawn).mean() < 6  # JPEG's loss


def test_a_seed_gives_the_same_bytes_however_many_images(folder, tmp_path):
    make_demo(tmp_path, 10, progress=False)
    for path in (tmp_path / "train").rglob("*.*"):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()


def test_seeds_splits_and_numbers_differ():
    shown = [demo_image(*key) for key in ((9,), (10,), (9, 1), (9, 0, "validation"))]
    assert len({orjson.dumps(annotation) for annotation, _ in shown}) == 4
    assert len({image.tobytes() for _, image in shown}) == 4


def test_every_class_is_in_either_split_of_40(folder):
    for split in ("train", "validation"):
        found = set()
        for path in (folder / split / "annos").iterdir():
            found |= {item["category_id"] for item in items(json.loads(path.read_text()))}
        assert found == set(range(1, 14))


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_among_26_images(seed):
    counts = split_counts(26, (("train", 0.8), ("validation", 0.2)))
    numbers = [(split, i) for split, count in counts.items() for i in range(1, count + 1)]
    found = {i["category_id"] for s, n in numbers for i in items(demo_annotation(n, seed, s)[0])}
    assert found == set(range(1, 14))


def test_the_converter_finds_nothing_wrong(folder, tmp_path):
    for split in ("train", "validation"):
        assert not convert_split(folder / split, tmp_path).problems
        coco = json.loads((tmp_path / f"{split}_coco.json").read_text())
        paths = (folder / split / "annos").iterdir()
        assert len(coco["annotations"]) == sum(len(items(json.loads(p.read_text()))) for p in paths)


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "validation").mkdir()
    mine = tmp_path / "validation" / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match="validation exists .* pass another folder"):
        make_demo(tmp_path, 4, progress=False)
    assert [p.name for p in tmp_path.rglob("*")] == ["validation", "mine.txt"]
    mine.unlink()
    assert make_demo(tmp_path, 4, progress=False) == {"train": 3, "validation": 1}
    with pytest.raises(FileExistsError):
        make_demo(tmp_path, 4, progress=False)


def test_a_file_in_a_splits_place_is_refused(tmp_path):
    (tmp_path / "train").write_text("mine")
    with pytest.raises(FileExistsError, match="train exists"):
        make_demo(tmp_path, 4, progress=False)


def test_an_interrupted_run_leaves_nothing(tmp_path):
    code = (
        f"from mrcnn.deepfashion2.demo.scenes import make_demo; make_demo({str(tmp_path)!r}, 5000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    limit = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.jpg"))) < 3 and time.monotonic() < limit:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    assert not (tmp_path / "train").exists()
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert not list(tmp_path.iterdir())


# Arguments


@pytest.mark.parametrize(
    ("images", "splits", "expected"),
    [
        (200, (("train", 0.8), ("validation", 0.2)), {"train": 160, "validation": 40}),
        (26, (("train", 0.8), ("validation", 0.2)), {"train": 21, "validation": 5}),
        (2, (("train", 0.99), ("validation", 0.01)), {"train": 1, "validation": 1}),
        (7, (("only", 3),), {"only": 7}),
        (10, (("a", 1), ("b", 1), ("c", 2)), {"a": 2, "b": 3, "c": 5}),
    ],
)
def test_split_counts(images, splits, expected):
    assert split_counts(images, splits) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 1}, "images=1 for 2 splits"),
        ({"images": 2.5}, "images=2.5"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "a"}, "seed='a'"),
        ({"splits": ()}, r"splits \[\]"),
        ({"splits": (("a", 1), ("a", 1))}, "each once"),
        ({"splits": (("../a", 1),)}, "folder names"),
        ({"splits": (("a", 1), ("b", 0))}, r"shares \[1, 0\]"),
    ],
)
def test_arguments_of_no_use_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_demo(tmp_path / "new", **{"images": 4, "progress": False, **changes})
    assert not (tmp_path / "new").exists()


def test_images_count_from_1():
    with pytest.raises(ValueError, match="count from 1"):
        demo_annotation(0)


# Annotations


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 10**9), st.sampled_from(["train", "validation", "x"]))
def test_annotations_are_valid(number, seed, split):
    annotation, size = demo_annotation(number, seed, split)
    assert annotation["source"] in ("user", "shop")
    assert annotation["pair_id"] == (number + 1) // 2
    found = items(annotation)
    assert 1 <= len(found) <= 3
    assert list(annotation)[2:] == [f"item{i}" for i in range(1, len(found) + 1)]
    for item in found:
        check_item(item, *size)
    assert orjson.loads(orjson.dumps(annotation)) == annotation


def check_item(item, width, height):
    category_id = DEEPFASHION2_CATEGORY_IDS[item["category_name"]]
    assert item["category_id"] == category_id
    assert all(item[name] in (1, 2, 3) for name in ("scale", "occlusion", "zoom_in", "viewpoint"))
    assert item["style"] in range(4)
    polygons = item["segmentation"]
    assert polygons and all(len(p) >= 6 and len(p) % 2 == 0 for p in polygons)
    xs, ys = ([v for p in polygons for v in p[i::2]] for i in (0, 1))
    assert min(xs) >= 0 and min(ys) >= 0 and max(xs) <= width and max(ys) <= height
    assert item["bounding_box"] == [
        math.floor(min(xs)),
        math.floor(min(ys)),
        math.ceil(max(xs)),
        math.ceil(max(ys)),
    ]
    for polygon in polygons:
        assert mask_utils.area(mask_utils.frPyObjects([polygon], height, width)[0]) > 0
    marks = item["landmarks"]
    low, high = DEEPFASHION2_LANDMARK_OFFSETS[category_id - 1 : category_id + 1]
    assert len(marks) == 3 * (high - low)
    for x, y, v in zip(marks[0::3], marks[1::3], marks[2::3], strict=True):
        assert (x, y, v) == (0, 0, 0) or (0 <= x < width and 0 <= y < height and v in (1, 2))


@pytest.fixture(scope="module")
def thousand():
    return [demo_annotation(number, seed=3) for number in range(1, 1001)]


def test_classes_are_as_unequal_as_in_the_data_set(thousand):
    counts = Counter(item["category_id"] for a, _ in thousand for item in items(a))
    # The released train split has tops 1 and trousers 8 most often, short outwear 3 least.
    assert {i for i, _ in counts.most_common(2)} == {1, 8}
    assert min(counts, key=counts.get) in (3, 6)
    assert counts[3] >= 10 and counts[1] > 10 * counts[3]


def test_every_value_of_every_attribute_occurs(thousand):
    for name in ("scale", "occlusion", "zoom_in", "viewpoint"):
        assert {item[name] for a, _ in thousand for item in items(a)} == {1, 2, 3}
    assert {len(items(a)) for a, _ in thousand} == {1, 2, 3}
    assert max(len(item["segmentation"]) for a, _ in thousand for item in items(a)) > 2


def test_attributes_follow_from_landmarks_and_box(thousand):
    for annotation, (width, height) in thousand:
        for item in items(annotation):
            seen = item["landmarks"][2::3]
            outside = seen.count(0) / len(seen)
            assert item["zoom_in"] == (1 if outside == 0 else 2 if outside <= 0.3 else 3)
            x1, y1, x2, y2 = item["bounding_box"]
            share = (x2 - x1) * (y2 - y1) / (width * height)
            assert item["scale"] == (1 if share <= 0.1 else 2 if share <= 0.4 else 3)
            if item["occlusion"] > 1:
                assert seen.count(1) / len(seen) > (0.2, 0.5)[item["occlusion"] - 2]


def test_user_and_shop_pairs_show_the_same_clothes(thousand):
    pairs = list(zip(thousand[0::2], thousand[1::2], strict=True))
    paired = 0
    for (user, _), (shop, _) in pairs:
        assert (user["source"], shop["source"]) == ("user", "shop")
        assert user["pair_id"] == shop["pair_id"]
        styles = [{i["style"]: i["category_id"] for i in items(a)} for a in (user, shop)]
        common = (styles[0].keys() & styles[1].keys()) - {0}
        assert all(styles[0][style] == styles[1][style] for style in common)
        paired += bool(common)
    assert 100 < paired < 180  # every third of 500


def test_landmarks_are_visible_where_the_garment_is_seen(thousand):
    for annotation, _ in thousand[:200]:
        for item in items(annotation):
            rings = [shapely.Polygon(np.reshape(p, (-1, 2))) for p in item["segmentation"]]
            marks = np.reshape(item["landmarks"], (-1, 3))
            dots = shapely.points(marks[:, :2] + 0.5)
            distance = np.min([shapely.distance(ring, dots) for ring in rings], axis=0)
            # 2 pixels, and what whole numbers lose.
            assert (distance[marks[:, 2] == 2] < 2.72).all()
            front = (marks[:, 2] == 1)[0 if item["category_id"] in BOTTOMS else 6 :]
            assert (distance[-len(front) :][front] > 1.28).all()


def test_the_other_side_of_the_neck_is_hidden(thousand):
    for annotation, _ in thousand:
        for item in items(annotation):
            if item["category_id"] not in BOTTOMS and item["viewpoint"] == 2:
                assert item["landmarks"][2] < 2


# Shapes


@pytest.mark.parametrize("category_id", range(1, 14))
@pytest.mark.parametrize("closed", [False, True])
def test_patterns_have_the_data_sets_landmarks(category_id, closed):
    rng = np.random.default_rng(category_id)
    figure = draw_figure(rng, worn=not closed)
    pattern = make_pattern(category_id, draw_cut(category_id, rng), figure, closed)
    low, high = DEEPFASHION2_LANDMARK_OFFSETS[category_id - 1 : category_id + 1]
    assert len(pattern.landmarks) == high - low
    points, shape = lay_out(pattern, Place(1.0, 100.0, 400 + 200j))
    assert len(points) == high - low
    assert shape.is_valid and shape.area > 100**2


# Pairs of the numbers of landmarks that mirror each other, as the figure in the data set's
# repository has them; the first and the last of a sleeve, flank or leg.
MIRRORED = {
    1: [(2, 6), (3, 5), (7, 25), (12, 20), (15, 17)],
    2: [(2, 6), (7, 33), (11, 29), (16, 24), (19, 21)],
    3: [(2, 6), (3, 5), (4, 26), (7, 25), (15, 17), (16, 29), (27, 30), (28, 31)],
    4: [(4, 34), (7, 33), (19, 21), (20, 37), (35, 38), (36, 39)],
    5: [(2, 6), (7, 15), (8, 14), (10, 12)],
    6: [(2, 6), (3, 5), (7, 15), (8, 14), (10, 12)],
    7: [(1, 3), (4, 10), (5, 9), (6, 8)],
    8: [(1, 3), (4, 14), (6, 12), (8, 10)],
    9: [(1, 3), (4, 8), (5, 7)],
    10: [(2, 6), (7, 29), (12, 24), (17, 19)],
    11: [(2, 6), (7, 37), (16, 28), (21, 23)],
    12: [(2, 6), (7, 19), (8, 18), (12, 14)],
    13: [(3, 5), (7, 19), (8, 18), (12, 14)],
}


@pytest.mark.parametrize("category_id", MIRRORED)
def test_landmarks_mirror_each_other(category_id):
    rng = np.random.default_rng(0)
    cut, figure = draw_cut(category_id, rng), draw_figure(rng, worn=False)
    arms = (figure.arms[0], tuple(-p.conjugate() for p in figure.arms[0]))
    points = make_pattern(category_id, cut, figure._replace(arms=arms), False).landmarks
    for left, right in MIRRORED[category_id]:
        assert abs(points[left - 1].real) > 0.01
        assert points[left - 1] == pytest.approx(-points[right - 1].conjugate())


def test_pieces_have_no_holes_and_no_slivers():
    square = shapely.box(0, 0, 100, 100)
    ring = square - shapely.box(40, 40, 60, 60)
    found = pieces(ring)
    assert len(found) == 2 and not any(p.interiors for p in found)
    assert sum(p.area for p in found) == 100**2 - 20**2
    assert pieces(shapely.box(0, 0, 300, 0.9)) == []
    assert pieces(shapely.box(0, 0, 4, 4)) == []
    assert pieces(shapely.Polygon()) == []
    both = shapely.MultiPolygon([square, shapely.box(200, 0, 210, 10)])
    assert [p.area for p in pieces(both)] == [100**2, 100]


# Images


def plain_cloths(category_id):
    """Seeds of a nearly black and a nearly white cloth without a print."""
    dark = light = None
    for seed in range(1, 5000):
        cloth = draw_cloth(category_id, np.random.default_rng((seed,)))
        if cloth.print == "plain" and max(cloth.color) < 0.16:
            dark = dark or (seed,)
        if cloth.print == "plain" and min(cloth.color) > 0.85:
            light = light or (seed,)
        if dark and light:
            return dark, light
    raise AssertionError("no plain cloths found")


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 29, 36])
def test_what_changes_with_the_cloth_is_the_items_mask(number):
    scene, (annotation, size) = make_scene(number, 0, "train"), demo_annotation(number)
    by_category = {item["category_id"]: item for item in items(annotation)}
    for place, garment in enumerate(scene.garments):
        category_id = garment.clothing.category_id
        images = []
        for cloth in plain_cloths(category_id):
            dressed = garment._replace(clothing=garment.clothing._replace(cloth=cloth))
            # All garments plain, so that both images take the same random numbers.
            others = [
                g._replace(clothing=g.clothing._replace(cloth=plain_cloths(8)[0]))
                for g in scene.garments
            ]
            others[place] = dressed
            images.append(drawn(scene._replace(garments=others)))
        changed = abs(images[0] - images[1]).max(axis=2) > 40
        mask = mask_of(by_category[category_id], size)
        assert (changed & mask).sum() / (changed | mask).sum() > 0.85


def drawn(scene):
    return np.array(draw(scene, *body(scene), np.random.default_rng(1)), int)


def test_plain_garments_have_their_cloths_colour():
    checked, unlike = 0, 0
    for number in range(1, 31):
        scene = make_scene(number, 0, "train")
        annotation, image = demo_image(number)
        pixels = np.array(image, float)
        by_category = {item["category_id"]: item for item in items(annotation)}
        everything = np.any([mask_of(i, image.size) for i in items(annotation)], axis=0)
        for garment in scene.garments:
            category_id, seed = garment.clothing.category_id, garment.clothing.cloth
            cloth = draw_cloth(category_id, np.random.default_rng(seed))
            if cloth.print == "plain" and category_id in by_category:
                inside = np.median(pixels[mask_of(by_category[category_id], image.size)], axis=0)
                assert abs(inside - 255 * np.array(cloth.color)).max() < 50
                around = np.median(pixels[~everything], axis=0)
                checked += 1
                unlike += abs(inside - around).max() > 25
    assert checked > 10 and unlike > 0.8 * checked


def test_a_data_set_of_other_classes(tmp_path):
    assert make_demo(tmp_path, 10, layout="coco", progress=False) == {"train": 8, "val": 2}
    for split, count in (("train", 8), ("val", 2)):
        table = read_coco(tmp_path / "annotations" / f"instances_{split}.json")
        table.require("annotations", "categories", "file_name", "width", "height", "unique ids")
        assert [(c.id, c.name) for c in table.categories] == [
            *((7, "top"), (20, "bottom"), (55, "dress")),
        ]
        assert len(table.images) == count == len(list((tmp_path / split).iterdir()))
        for i, entry in enumerate(table.images):
            annotation, image = demo_image(i + 1, 0, split)
            with Image.open(tmp_path / split / entry.file_name) as stored:
                assert stored.size == image.size == (entry.width, entry.height)
            items = [annotation[key] for key in sorted(annotation) if key.startswith("item")]
            rows = range(*table.offsets[i : i + 2])
            assert [table.segmentation(row) for row in rows] == [x["segmentation"] for x in items]
            kinds = [table.categories[table.classes[row]].name for row in rows]
            assert kinds == [
                "bottom"
                if x["category_id"] in (7, 8, 9)
                else "dress"
                if x["category_id"] > 9
                else "top"
                for x in items
            ]
            for row in rows:
                mask = mask_utils.merge(mask_utils.frPyObjects(table.segmentation(row), 700, 700))
                assert table.areas[row] == pytest.approx(mask_utils.area(mask), rel=0.05)
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        make_demo(tmp_path, 10, layout="coco", progress=False)
    with pytest.raises(ValueError, match="pass one of deepfashion2, coco"):
        make_demo(tmp_path, 10, layout="voc", progress=False)

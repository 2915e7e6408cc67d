"""YOLO's labels against annotations made by hand."""

import pytest

from tests.helpers.importing import HEIGHT, WIDTH, convert, save_image

# SQUARE of 20 x 20 at (10, 5) in 80 x 60, as fractions.
SQUARE = "0.125 0.0833333333 0.375 0.0833333333 0.375 0.4166666667 0.125 0.4166666667"
CORNERS = [10, 5, 30, 5, 30, 25, 10, 25]


def write(root, labels, yaml="names: [cat, dog]\ntrain: images/train\n", image=None):
    """A data set in which each label text belongs to an image; a label of None has no file."""
    (root / "data.yaml").parent.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text(yaml, encoding="utf-8")
    for name, text in labels.items():
        save_image(root / "images" / f"{name}.png", image or (WIDTH, HEIGHT))
        if text is not None:
            file = root / "labels" / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return root


def test_outlines_boxes_and_images_without_objects(tmp_path):
    labels = {
        "train/a": f"1 {SQUARE}\n0 0.5 0.5 0.25 0.5\n",
        "train/b": "",
        "train/c": None,
        "val/d": f"0 {SQUARE}\n",
    }
    yaml = (
        "path: .\ntrain: images/train\nval: images/val\ntest:\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
    )
    data = write(tmp_path / "data", labels, yaml)
    found = convert("yolo", data)
    assert found.names == ["cat", "dog"]
    assert found.images == {
        "train": {f"images/train/{n}.png": (WIDTH, HEIGHT) for n in "abc"},
        "validation": {"images/val/d.png": (WIDTH, HEIGHT)},
    }
    assert found.annotations["train"] == [
        ("images/train/a.png", "dog", [10, 5, 20, 20], 400, [CORNERS]),
        ("images/train/a.png", "cat", [30, 15, 20, 30], 600, []),
    ]
    assert found.annotations["validation"][0].segmentation == [CORNERS]
    assert found.problems == [("images/train/c.png", "", "no label file")]
    assert "1 of them are boxes without a mask" in found.printed
    assert found.printed.endswith("/out\n")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("2 " + SQUARE, "unknown class"),
        ("-1 " + SQUARE, "unknown class"),
        ("0.5 " + SQUARE, "unknown class"),
        ("cat " + SQUARE, "unknown class"),
        ("nan " + SQUARE, "unknown class"),
        ("1e999 " + SQUARE, "unknown class"),
        ("9" * 5000 + " " + SQUARE, "unknown class"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.2", "bad line"),
        ("0", "bad line"),
        ("0 0.1 0.1", "bad line"),
        ("0 10 5 30 5 30 25 10 25", "bad value"),
        ("0 0.1 0.1 0.5 0.1 0.5 1.02", "bad value"),
        ("0 0.1 nan 0.5 0.1 0.5 0.5", "bad value"),
        ("0 0.1 1e18 0.5 0.1 0.5 0.5", "bad value"),
        ("0 0.1 x 0.5 0.1 0.5 0.5", "bad value"),
        ("0 0.1 0.1 0.1 0.1 0.1 0.1", "empty item"),
        ("0 0.5 0.5 0 0.2", "empty item"),
        ("\x00\x1b[31m", "unknown class"),
    ],
)
def test_a_bad_line_is_skipped(tmp_path, line, kind):
    data = write(tmp_path / "data", {"train/a": f"{line}\n\n1.0 {SQUARE}\n"})
    found = convert("yolo", data)
    assert found.problems == [("images/train/a.png", "line 1", kind)]
    assert found.one() == ("images/train/a.png", "dog", [10, 5, 20, 20], 400, [CORNERS])


def test_what_is_a_little_outside_is_cut_off(tmp_path):
    label = "0 -0.005 -0.005 1.005 -0.005 1.005 1.005 -0.005 1.005\n0 0.1 0.5 0.4 0.5\n"
    found = convert("yolo", write(tmp_path / "data", {"train/a": label}))
    whole, box = found.annotations["train"]
    assert (whole.box, whole.area) == ([0, 0, WIDTH, HEIGHT], WIDTH * HEIGHT)
    assert (box.box, box.segmentation) == ([0, 15, 24, 30], [])
    assert not found.problems


def test_a_score_and_keypoints_after_a_box_are_passed_over(tmp_path):
    yaml = "names: [cat]\ntrain: images\nkpt_shape: [2, 3]\n"
    label = "0 0.5 0.5 0.25 0.5 0.9\n0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.2 0.2 1\n"
    found = convert("yolo", write(tmp_path / "data", {"a": label}, yaml))
    assert [a.box for a in found.annotations["train"]] == [[30, 15, 20, 30]] * 2


@pytest.mark.parametrize(
    "yaml",
    [
        "path: DATA\ntrain: images/train\nnames: [cat, dog]\n",
        "path: /content/other/machine\ntrain: images/train\nnames: [cat, dog]\n",
        "path: ../datasets/mine\ntrain: images/train\nnames: [cat, dog]\n",
        "train: ../images/train\nval: \nnames: [cat, dog]\n",
        "train: [images/train]\nnames: {0: cat, 1: dog}\n",
        "train: lists/train.txt\nval: null\nnames: ['cat', \"dog\"]\n",
    ],
)
def test_paths_of_data_yaml(tmp_path, yaml):
    data = tmp_path / "data"
    write(data, {"train/sub/a": f"1 {SQUARE}\n"}, yaml.replace("DATA", str(data)))
    (data / "lists").mkdir()
    lines = "./images/train/sub/a.png\ndata/images/train/sub/a.png\n\nimages/train/none.png\n"
    (data / "lists" / "train.txt").write_text(lines)
    found = convert("yolo", data)
    assert found.one() == ("images/train/sub/a.png", "dog", [10, 5, 20, 20], 400, [CORNERS])
    missing = [("lists/train.txt", "", "missing picture")] if "lists" in yaml else []
    assert found.problems == missing


def test_names_are_text(tmp_path):
    yaml = "train: images\nnames: [no, 1, 2020-01-01, null, 'a  b']\n"
    found = convert("yolo", write(tmp_path / "data", {"a": f"3 {SQUARE}\n"}, yaml))
    assert found.names == ["no", "1", "2020-01-01", "null", "a b"]
    assert found.one().name == "null"


def test_label_studio_writes_no_yaml(tmp_path):
    data = write(tmp_path / "data", {"a": f"1 {SQUARE}\n", "b": f"0 {SQUARE}\n"})
    (data / "data.yaml").unlink()
    (data / "classes.txt").write_text("dog\ncat\n")
    found = convert("yolo", data)
    assert found.names == ["dog", "cat"]
    assert [a.name for a in found.annotations["train"]] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat]\n", "names no folder of images"),
        ("train: images\n", "no names of classes"),
        ("train: images\nnames: []\n", "no names of classes"),
        ("train: images\nnames: [cat, cat]\n", "two classes 'cat'"),
        ("train: images\nnames: [cat, [dog]]\n", "no class"),
        ("train: images\nnames: {0: cat, 2: dog}\n", "numbered 0 to 1"),
        ("train: nothing\nnames: [cat]\n", "train is 'nothing', which isn't in"),
        ("train: ../../../etc\nnames: [cat]\n", "which isn't in"),
        ("train: /etc\nnames: [cat]\n", "which isn't in"),
        ('train: "a\\0b"\nnames: [cat]\n', "which isn't in"),
        ("train: {a: b}\nnames: [cat]\n", "train must be a folder"),
        ("train: &a [*a]\nnames: [cat]\n", "recursive"),
        ("names: &a [*a]\ntrain: images\n", "recursive"),
        ("- a\n", "has no names and train"),
        ("", "has no names and train"),
        ("a: [", "can't be read"),
        ("\x01", "can't be read"),
        ("[" * 100_000, "can't be read"),
        ("x" * 2_000_000, "more than the 1,048,576"),
    ],
    ids=range(19),
)
def test_a_data_yaml_that_is_no_use(tmp_path, yaml, message):
    data = write(tmp_path / "data", {"train/a": ""}, yaml)
    found = convert("yolo", data, status=2)
    assert message in found.printed and "Traceback" not in found.printed
    assert not found.files


def test_other_files_for_labels(tmp_path):
    """Nothing but a regular file is read."""
    data = write(tmp_path / "data", {"train/a": None, "train/b": f"0 {SQUARE}\n"})
    (data / "labels" / "train" / "a.txt").mkdir()
    found = convert("yolo", data)
    assert found.problems == [("images/train/a.png", "", "unreadable labels")]
    assert found.one().image == "images/train/b.png"


def test_a_million_bad_lines_are_not_all_listed(tmp_path):
    data = write(tmp_path / "data", {"train/a": "x\n" * 20_000 + f"0 {SQUARE}\n"})
    found = convert("yolo", data)
    assert len(found.problems) == 1001 and found.kinds[0] == "more problems"
    assert found.one().area == 400

"""Which file and which images a split has, in folders as the tools make them. No TensorFlow."""

import zipfile
from pathlib import Path

import pytest

from mrcnn.coco.layouts import LayoutError, open_data, role_of, split_name
from tests.helpers.layout_files import COCO, LAYOUTS, UNDIVIDED, lay_out


def chosen(root, split, **options):
    """(COCO file, folder of the images) of a split, relative to the data set."""
    source = open_data(root, **options).part(split).source
    names = ["a.jpg"]
    return tuple(str(path.relative_to(root)) for path in (source.file, source.image_folder(names)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_are_found_with_their_images(layout, tmp_path):
    root = lay_out(tmp_path / "data", LAYOUTS[layout])
    files = [path for path in LAYOUTS[layout] if path.endswith("a.jpg")]
    train, validation = (str(Path(path).parent) for path in files[:2])
    assert chosen(root, "train")[1] == train
    # Every spelling is the same split.
    found = {chosen(root, split) for split in ("validation", "val", "valid")}
    assert {folder for _, folder in found} == {validation} and len(found) == 1
    assert chosen(root, "train")[0] != next(iter(found))[0]
    with pytest.raises(LayoutError, match="has no split extra; it has"):
        open_data(root).part("extra")


@pytest.mark.parametrize("layout", UNDIVIDED)
def test_files_without_splits_are_any_split(layout, tmp_path):
    root = lay_out(tmp_path / "data", UNDIVIDED[layout])
    data_set = open_data(root)
    for split in ("train", "validation", "test"):
        part = data_set.part(split)
        assert part.share == 0 and part.source.role == ""
    names = [name for name in UNDIVIDED[layout] if name.endswith("a.jpg")]
    written = {"Label Studio": "images/a.jpg", "Label Studio, Windows": "images\\a.jpg"}
    written["Label Studio, addresses"] = "/data/upload/3/a.jpg"
    name = written.get(layout, "a.jpg")
    folder = part.source.image_folder([name])
    inner = "images/a.jpg" if layout in ("Label Studio", "Label Studio, Windows") else "a.jpg"
    assert folder / inner == root / names[0]


def test_a_test_split_is_found(tmp_path):
    root = lay_out(tmp_path, LAYOUTS["Roboflow"])
    assert chosen(root, "test") == ("test/_annotations.coco.json", "test")


def test_a_file_with_its_images(tmp_path):
    root = lay_out(tmp_path, {"labels/val.json": COCO, "pictures/a.jpg": None})
    file, pictures = root / "labels" / "val.json", root / "pictures"
    for options in ({"path": file}, {"path": Path("nowhere"), "annotations": file}):
        source = open_data(**options, images=pictures).part("train").source
        assert (source.file, source.image_folder(["a.jpg"])) == (file, pictures)
        with pytest.raises(LayoutError, match="give theirs with --images"):
            open_data(**options).part("train").source.image_folder(["a.jpg"])


def test_annotations_may_lie_elsewhere(tmp_path):
    images = {"one/train/image/a.jpg": None, "one/train/image/b.jpg": None}
    root = lay_out(tmp_path, images | {"two/train_coco.json": COCO, "two/train/image/a.jpg": None})
    source = open_data(root / "one", annotations=root / "two").part("train").source
    assert source.file == root / "two" / "train_coco.json"
    assert source.image_folder(["a.jpg"]) == root / "one" / "train" / "image"


def test_the_folder_with_most_of_the_images_is_theirs(tmp_path):
    files = {"train.json": COCO, "train/a.jpg": None}
    root = lay_out(tmp_path, files | {f"images/{name}.jpg": None for name in "abc"})
    source = open_data(root).part("train").source
    assert source.image_folder(["a.jpg"]) == root / "train"
    assert source.image_folder(["a.jpg", "b.jpg", "c.jpg"]) == root / "images"
    with pytest.raises(LayoutError, match="such as d.jpg, are in none of these folders"):
        source.image_folder(["d.jpg"])
    # Names that lead out of a folder are not looked for.
    with pytest.raises(LayoutError):
        source.image_folder(["../images/a.jpg", "/" + str(root / "a.jpg"), "x" * 5000])


def test_symbolic_links(tmp_path):
    root = lay_out(tmp_path / "real", LAYOUTS["Roboflow"])
    (tmp_path / "link").symlink_to(root)
    assert open_data(tmp_path / "link").part("train").source.file.is_file()
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    with pytest.raises(LayoutError, match="there is no file or folder"):
        open_data(tmp_path / "dangling")


def test_what_the_converter_wrote_counts_first(tmp_path):
    root = lay_out(tmp_path, LAYOUTS["converted"] | {"annotations/instances_train.json": COCO})
    assert chosen(root, "train")[0] == "train_coco.json"


# --- A share held out -------------------------------------------------------------------------


def test_a_share_takes_the_place_of_a_validation_split(tmp_path):
    root = lay_out(tmp_path, UNDIVIDED["CVAT"])
    data_set = open_data(root)
    train, validation = (data_set.part(split, 0.25) for split in ("train", "valid"))
    assert (train.share, train.is_held_out) == (0.25, False)
    assert (validation.share, validation.is_held_out) == (0.25, True)
    assert train.source == validation.source
    assert data_set.part("test", 0.25).share == 0


def test_a_train_split_is_not_validated_on_unasked(tmp_path):
    root = lay_out(tmp_path, {"annotations/instances_train.json": COCO, "train/a.jpg": None})
    data_set = open_data(root)
    with pytest.raises(LayoutError, match="has no split validation; it has\n  train: "):
        data_set.part("validation")
    assert data_set.part("validation", 0.1).is_held_out


def test_a_share_beside_a_validation_split_is_refused(tmp_path):
    data_set = open_data(lay_out(tmp_path, LAYOUTS["COCO"]))
    for split in ("train", "validation"):
        with pytest.raises(LayoutError, match="instances_val2017.json; leave out --val_split"):
            data_set.part(split, 0.1)


# --- Mistakes ---------------------------------------------------------------------------------


def test_two_files_of_a_split(tmp_path):
    years = [f"annotations/instances_train{year}.json" for year in (2014, 2017)]
    data_set = open_data(lay_out(tmp_path, dict.fromkeys(years, COCO)))
    with pytest.raises(LayoutError, match="2 files of the split train") as error:
        data_set.part("train")
    assert all(name in str(error.value) for name in years)
    assert data_set.part("train2014").source.file == tmp_path / years[0]


def test_two_files_without_a_split(tmp_path):
    data_set = open_data(lay_out(tmp_path, {"a.json": COCO, "b.json": COCO}))
    with pytest.raises(LayoutError, match=r"it has\n  a: .*a.json\n  b: .*b.json"):
        data_set.part("train")


def test_two_data_sets_in_a_folder(tmp_path):
    for name in ("one", "two"):
        lay_out(tmp_path / name, LAYOUTS["Roboflow"])
    with pytest.raises(LayoutError, match="holds several data sets; give one of them:"):
        open_data(tmp_path)


def test_a_folder_of_images_that_is_not_there(tmp_path):
    lay_out(tmp_path, LAYOUTS["COCO"])
    with pytest.raises(LayoutError, match="there is no folder nowhere"):
        open_data(tmp_path, images=Path("nowhere"))


def test_a_packed_data_set(tmp_path):
    packed = tmp_path / "data.zip"
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("train/_annotations.coco.json", "{}")
    for path in (packed, tmp_path):
        with pytest.raises(LayoutError, match="data.zip is packed; unpack it"):
            open_data(path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no COCO file (nothing)"),
        ({"a.jpg": None, "b/c.jpg": None}, "holds no COCO file (a.jpg, b/)"),
        ({"data.yaml": "nc: 1", "labels/a.txt": ""}, "must be converted to COCO first"),
        ({"Annotations/a.xml": ""}, "must be converted to COCO first"),
        ({f"{i}.json": COCO for i in range(60)}, "must be converted to COCO first"),
        ({"a.json": "[]"}, "Known layouts"),
        ({"a.json": ""}, "Known layouts"),
        ({"a.json": {"images": []}}, "train/_annotations.coco.json"),
    ],
)
def test_folders_without_a_data_set(files, words, tmp_path):
    with pytest.raises(LayoutError) as error:
        open_data(lay_out(tmp_path, files))
    assert words in str(error.value) and "DeepFashion2" not in str(error.value)
    assert len(str(error.value).splitlines()) < 12


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train = 3", "Expected `object | array`, got `int` - at `$[...]`"),
        ("[train]\nimages = 'x'", "missing required field `annotations`"),
        ("[train]\nannotations = 'a.json'\nimage = 'x'", "unknown field `image`"),
        ("[train]\nannotations = 'no.json'", "there is no file"),
        (
            "[names]\nannotations = 'a.json'\n[train]\nannotations = 'a.json'",
            "names is of the wrong",
        ),
        ("train = ['a.json']", "train is of the wrong kind"),
        ("names = ['shoe']", "names no split"),
        ("[train", "Expected ']'"),
    ],
)
def test_a_wrong_data_toml(text, words, tmp_path):
    lay_out(tmp_path, {"data.toml": text, "a.json": COCO})
    with pytest.raises(LayoutError) as error:
        open_data(tmp_path)
    assert words in str(error.value) and "data.toml" in str(error.value)


def test_classes_of_a_data_toml(tmp_path):
    text = "names = ['hat']\n[train]\nannotations = 'a.json'"
    root = lay_out(tmp_path, {"data.toml": text, "a.json": COCO, "a.jpg": None})
    for path in (root, root / "data.toml"):
        assert open_data(path).part("train").source.classes == ("hat",)


@pytest.mark.parametrize("name", ["a.txt", "a.yaml"])
def test_other_files(name, tmp_path):
    lay_out(tmp_path, {name: "x"})
    with pytest.raises(LayoutError, match="neither a folder, a COCO file"):
        open_data(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train", "train"),
        ("Train2017", "train"),
        ("instances_val2014", "validation"),
        ("valid", "validation"),
        ("my-test-set", "test"),
        ("train_val", ""),
        ("trainval", ""),
        ("default", ""),
        ("", ""),
    ],
)
def test_roles(name, role):
    assert role_of(name) == role


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("train_coco.json", "train"),
        ("annotations/instances_val2017.json", "val2017"),
        ("d/valid/_annotations.coco.json", "valid"),
        ("result.json", "result"),
    ],
)
def test_names_of_splits(file, name):
    assert split_name(Path(file)) == name


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    (tmp_path / "all.json").write_text("\ufeff" + '{"images": [], "annotations": []}', "utf-8")
    assert open_data(tmp_path).part("train").source.file.name == "all.json"

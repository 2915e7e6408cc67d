"""What `train` reads, and what `evaluate` scores of it, for data of other people. No TensorFlow."""

import json
import shutil

import pytest

from mrcnn.commands.arguments import UsageError, from_arguments
from mrcnn.commands.data_sets import DataPaths, find_part, load_split, read_parts
from mrcnn.commands.evaluate import EvaluateOptions, _match_classes, _split_to_score
from mrcnn.commands.main import build_parser, main
from mrcnn.commands.train import TrainOptions
from mrcnn.commands.training_data import held_out_share, load_paste_data, load_training_data
from mrcnn.core.classes import DEEPFASHION2
from tests.helpers.layout_files import COCO, LAYOUTS, UNDIVIDED, content, lay_out

NAMES = [f"{i}.jpg" for i in range(20)]


def options_of(*arguments):
    arguments = build_parser().parse_args(["train", *map(str, arguments)])
    return from_arguments(TrainOptions, arguments)


def load(*arguments, earlier=None):
    return load_training_data(options_of(*arguments), earlier)


def whole(root, *categories, names=NAMES):
    """A data set without splits."""
    files = {"annotations.json": content(names, categories or ((7, "shoe"), (20, "hat")))}
    return lay_out(root, files | {f"images/{name}": None for name in names})


def files_of(dataset):
    return [info["path"].split("/")[-1] for info in dataset.image_info]


def classes_of(dataset):
    return [(entry["id"], entry["name"]) for entry in dataset.class_info[1:]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains(layout, tmp_path):
    data = load("--data", lay_out(tmp_path, LAYOUTS[layout]))
    assert classes_of(data.train) == [(1, "shoe"), (2, "hat")]
    assert data.counts == [1] and data.validation.num_images == 1 and data.val_split is None
    paths = [dataset.image_info[0]["path"] for dataset in (data.train, data.validation)]
    assert paths[0] != paths[1] and data.notes == []
    assert "2 classes (shoe, hat); 1 images of" in data.summary


@pytest.mark.parametrize("ids", [(7, 20, 55), (0, 1, 2)])
def test_any_ids(ids, tmp_path):
    root = whole(tmp_path, *zip(ids, ("shoe", "hat", "bag"), strict=True))
    data = load("--data", root)
    assert data.train.class_names == ["BG", "shoe", "hat", "bag"]
    assert [entry[0] for entry in classes_of(data.train)] == list(ids)
    assert set(data.train.load_class_ids(0)) <= {1, 2, 3}


# --- Images for validation ----------------------------------------------------------------------


def test_images_are_held_out_where_there_is_no_validation_split(tmp_path):
    root = whole(tmp_path)
    data = load("--data", root)
    train, validation = files_of(data.train), files_of(data.validation)
    assert len(validation) == 2 and sorted(train + validation) == sorted(NAMES)
    assert data.val_split == 0.1 and data.fact["share"] == 0.1
    (note,) = data.notes
    assert "2 of the 20 images" in note and "no validation split" in note
    # The seed of a training has no say in it, so that `evaluate` finds the same images.
    again = load("--data", root, "--seed", 7)
    assert files_of(again.validation) == validation
    more = load("--data", root, "--val_split", 0.3)
    assert set(files_of(more.validation)) > set(validation) and "as asked" in more.notes[0]


def test_training_without_validation(tmp_path):
    data = load("--data", whole(tmp_path), "--val_split", 0)
    assert data.validation is None and data.counts == [20] and data.fact is None
    assert data.notes == ["training without validation (--val_split 0)"]


def test_other_data_for_validation(tmp_path):
    root = whole(tmp_path / "a")
    other = whole(tmp_path / "b", (1, "hat"), (2, "shoe"), (3, "belt"), names=NAMES[:3])
    for given in (other, other / "annotations.json"):
        data = load("--data", root, "--val_data", given)
        assert (data.train.num_images, data.validation.num_images) == (20, 3)
        assert classes_of(data.validation) == [(7, "shoe"), (20, "hat")] == classes_of(data.train)
        # Of 3 images: shoe, belt, hat.
        found = [data.validation.load_class_ids(i).tolist() for i in range(3)]
        assert found == [[1], [], [2]]
        assert "left out belt, which aren't trained" in data.notes[0]


def test_files_with_their_images(tmp_path):
    root = lay_out(tmp_path, {"l/train.json": COCO, "l/val.json": COCO, "pictures/a.jpg": None})
    files = ["--data", root / "l" / "train.json", "--val_data", root / "l" / "val.json"]
    data = load(*files, "--images", root / "pictures")
    assert data.fact == {"file": str(root / "l" / "val.json"), "share": 0.0}
    assert data.train.image_info[0]["path"] == str(root / "pictures" / "a.jpg")


def test_the_converter_is_named_for_a_split_without_annotations(tmp_path):
    root = lay_out(tmp_path, {"train_coco.json": COCO, "train/image/a.jpg": None})
    (root / "validation" / "image").mkdir(parents=True)
    with pytest.raises(UsageError, match="no COCO annotations at .*validation_coco.json"):
        load("--data", root)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--val_split", "1"], "got 1.0; give 0 or more, below 1"),
        (["--val_split", "-0.1"], "give 0 or more, below 1"),
        (["--val_split", "0.1", "--val_data", "x"], "leave out --val_split"),
        (["--val_split", "0", "--best_by", "mask_ap"], "needs images for validation"),
        (["--data", "a", "b", "--images", "c"], "2 folders but --images 1"),
        (["--size", "300x"], "give pixels, such as 512 or 384x640"),
    ],
)
def test_options_that_contradict(arguments, words, capsys):
    try:
        status = main(["train", *arguments])
    except SystemExit as end:  # argparse
        status = end.code
    assert status == 2 and words in capsys.readouterr().err


def test_a_share_beside_a_validation_split_is_refused(tmp_path):
    for layout in ("converted", "COCO"):
        root = lay_out(tmp_path / layout, LAYOUTS[layout])
        with pytest.raises(UsageError, match="leave out --val_split"):
            load("--data", root, "--val_split", 0.1)
    assert load("--data", root, "--val_split", 0).validation is None


# --- A run that goes on -------------------------------------------------------------------------


def run_folder(folder, fact):
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"validation": fact, "seed": 0}))
    return folder


def test_a_run_keeps_its_images_for_validation(tmp_path):
    root = whole(tmp_path / "data")
    first = load("--data", root, "--val_split", 0.3)
    share = held_out_share(run_folder(tmp_path / "run", first.fact))
    again = load("--data", root, earlier=share)
    assert files_of(again.validation) == files_of(first.validation) and again.val_split == 0.3
    assert "as in the run to continue" in again.notes[0]
    with pytest.raises(UsageError, match="has --val_split 0.3, not 0.1; leave the option out"):
        load("--data", root, "--val_split", 0.1, earlier=share)
    assert held_out_share(run_folder(tmp_path / "run", None)) == 0
    split = load("--data", lay_out(tmp_path / "coco", LAYOUTS["COCO"]))
    assert held_out_share(run_folder(tmp_path / "run", split.fact)) is None
    for text in ("{}", "[", '{"validation": 3}'):
        (tmp_path / "run" / "run.json").write_text(text)
        assert held_out_share(tmp_path / "run") is None
    assert held_out_share(None) is None and held_out_share(tmp_path / "none") is None


def scored(root, *arguments, **options):
    options = EvaluateOptions(data=root, **options)
    return _split_to_score(options, DataPaths(root))


def test_evaluate_scores_what_the_run_held_out(tmp_path):
    root = whole(tmp_path / "data")
    data = load("--data", root)
    run = run_folder(tmp_path / "run", data.fact)
    for weights in (run, run / "mask_rcnn_0001.h5"):
        split = scored(root, weights=str(weights))
        assert [e.file_name for e in split.table.images] == files_of(data.validation)
        assert "held out by --val_split 0.1, as in the run of these weights" in split.notes[0]
        rest = scored(root, weights=str(weights), split="train")
        assert len(rest.table.images) == 18
    # Other weights may know all images or none: all are scored, and it is said.
    split = scored(root, weights=str(tmp_path / "other.h5"))
    assert len(split.table.images) == 20 and split.notes[0].startswith("scored: all 20 images")
    asked = scored(root, weights=str(tmp_path / "other.h5"), val_split=0.1)
    assert [e.file_name for e in asked.table.images] == files_of(data.validation)
    # Other data aren't cut.
    other = whole(tmp_path / "other")
    assert len(scored(other, weights=str(run)).table.images) == 20


# --- Classes ------------------------------------------------------------------------------------


def test_classes_of_several_data_sets_are_joined_by_name(tmp_path):
    a = whole(tmp_path / "a", (7, "shoe"), (20, "hat"), names=NAMES[:4])
    b = whole(tmp_path / "b", (7, "hat"), (8, "bag"), names=NAMES[:3])
    data = load("--data", a, b, "--val_split", 0)
    assert classes_of(data.train) == [(7, "shoe"), (8, "bag"), (20, "hat")]
    found = [data.train.load_class_ids(i).tolist() for i in range(7)]
    # The n-th image has the class n % 2: hat and shoe in turn; bag and hat.
    assert found == [[3], [1], [3], [1], [2], [3], [2]]
    assert "joined by name to shoe, bag, hat" in data.notes[0]


def garments(*names, first=1):
    return content([f"{i}.jpg" for i in range(26)], list(enumerate(names, first)))


def test_garments_keep_their_ids(tmp_path):
    images = {
        f"{split}/image/{i}.jpg": None for split in ("train", "validation") for i in range(26)
    }
    root = lay_out(tmp_path, images)
    for split in ("train", "validation"):
        lay_out(root, {f"{split}_coco.json": garments(*DEEPFASHION2[1:])})
    data = load("--data", root)
    assert classes_of(data.train) == list(enumerate(DEEPFASHION2))[1:]
    assert data.train.sources == ["deepfashion2"]
    # All 13 under other ids: which of both is wrong can't be known.
    lay_out(root, {"train_coco.json": garments(*DEEPFASHION2[1:], first=0)})
    with pytest.raises(ValueError, match="has the id 0 but DeepFashion2 gives it 1"):
        load("--data", root)
    # Some of them are somebody's own classes.
    for split in ("train", "validation"):
        lay_out(root, {f"{split}_coco.json": garments("vest", "skirt", first=0)})
    assert classes_of(load("--data", root).train) == [(0, "vest"), (1, "skirt")]


def test_pasted_objects_are_of_the_trained_classes(tmp_path):
    data = load("--data", whole(tmp_path / "a"), "--val_split", 0)
    other = whole(tmp_path / "b", (1, "belt"), (2, "hat"), names=NAMES[:4])
    pasted = load_paste_data(options_of("--paste", 0.5, "--paste_data", other), data.train)
    assert classes_of(pasted) == classes_of(data.train)
    assert [pasted.load_class_ids(i).tolist() for i in range(4)] == [[2], [], [2], []]


def test_classes_of_a_data_toml(tmp_path):
    root = whole(tmp_path)
    lay_out(root, {"data.toml": "names = ['hat']\n[all]\nannotations = 'annotations.json'"})
    data = load("--data", root)
    assert classes_of(data.train) == [(20, "hat")] and data.train.num_images == 18


def test_the_project_of_roboflow_is_told(tmp_path):
    root = whole(tmp_path)
    file = json.loads((root / "annotations.json").read_text())
    groups = [{"id": 0, "name": "things", "supercategory": "none"}]
    file["categories"] = groups + [c | {"supercategory": "things"} for c in file["categories"]]
    lay_out(root, {"annotations.json": file})
    data = load("--data", root)
    assert classes_of(data.train) == [(7, "shoe"), (20, "hat")]
    assert "'things' is no class, but Roboflow's project" in data.notes[0]


def test_a_file_without_categories(tmp_path):
    root = whole(tmp_path)
    lay_out(root, {"annotations.json": content(NAMES) | {"categories": []}})
    with pytest.raises(UsageError, match="has no categories"):
        load("--data", root)


def split_of(root):
    (split,) = read_parts([find_part(DataPaths(root), "validation")])
    return split


@pytest.mark.parametrize(
    ("names", "ids", "classes", "notes"),
    [
        (["BG", "shoe", "hat"], [None, 7, 20], ["shoe", "hat"], []),
        (["BG", "Hat", "shoe"], [None, 20, 7], ["shoe", "hat"], []),
        (
            ["background", "bag", "hat", "shoe", "tie"],
            [None, None, 20, 7, None],
            ["shoe", "hat"],
            ["not scored, as the annotations don't have them: bag, tie"],
        ),
        (["BG", "hat"], [None, 20], ["hat"], ["not scored, as the model doesn't know them: shoe"]),
    ],
)
def test_evaluate_matches_classes_by_name(names, ids, classes, notes, tmp_path):
    split, found = _match_classes(names, split_of(whole(tmp_path)))
    assert found == ids and list(split.notes) == notes
    assert [entry.name for entry in split.table.categories] == classes
    assert len(split.table) == 10 * len(classes)


def test_evaluate_needs_a_class_in_common(tmp_path):
    """Also where the numbers of classes agree: trousers would be scored as another's hats."""
    with pytest.raises(UsageError, match="none in common; give weights of a model of these"):
        _match_classes(["BG", "skirt", "trousers"], split_of(whole(tmp_path)))


def test_a_file_is_read_once(tmp_path, monkeypatch):
    from mrcnn.coco import reader

    root = whole(tmp_path)
    read, paths = reader.read_coco, []
    monkeypatch.setattr(reader, "read_coco", lambda path: paths.append(path) or read(path))
    load("--data", root)
    assert paths == [root / "annotations.json"]


@pytest.mark.parametrize("layout", UNDIVIDED)
def test_evaluate_and_inspect_find_the_same(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = lay_out(tmp_path / "data", UNDIVIDED[layout])
    assert main(["inspect", "--data", str(root)]) == 0
    (page,) = (tmp_path / "output_folder").iterdir()
    found = json.loads((page / "statistics.json").read_text())
    split = scored(root)
    assert found["annotation_file"] == str(split.part.source.file)
    if "Windows" not in layout:
        assert found["picture_folder"] == str(split.images)


def test_evaluate_takes_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = whole(tmp_path / "data", names=NAMES[:2])
    shutil.move(root / "annotations.json", tmp_path / "val.json")
    box = {"bbox": [0, 0, 5, 5], "score": 0.5}
    rows = [{"image_id": 1, "category_id": 20, **box}, {"image_id": 2, "category_id": 7, **box}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    for option in ("--annotations", "--data"):
        command = ["evaluate", option, "val.json", "--images", str(root / "images")]
        assert main([*command, "--results", "results.json", "--resamples", "0"]) == 0
        assert "box  AP 1.000" in capsys.readouterr().out


def test_images_aren_t_needed_for_results(tmp_path):
    root = lay_out(tmp_path, {"train.json": COCO})
    (split,) = read_parts([find_part(DataPaths(root), "train")], images_needed=False)
    assert split.images is None
    with pytest.raises(UsageError, match="give theirs with --images"):
        load_split([DataPaths(root)], "train")

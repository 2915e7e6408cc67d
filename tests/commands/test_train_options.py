"""How `model.py train` reads its data folders, without TensorFlow."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mrcnn.commands.arguments import UsageError, from_arguments
from mrcnn.commands.data_sets import data_paths
from mrcnn.commands.main import build_parser, main
from mrcnn.commands.train import (
    TrainOptions,
    _augmentation,
    count_visits,
    stage_names,
    stage_to_continue,
)
from mrcnn.commands.training_data import load_training_data
from mrcnn.data.policy import FLIP, STRONG
from mrcnn.training.schedules import parse_stages
from tests.helpers.coco_files import write_coco


def parsed(*options):
    arguments = build_parser().parse_args(["train", *map(str, options)])
    return from_arguments(TrainOptions, arguments)


def load(*options):
    """The training data set that these options make, and its number of images by --data."""
    data = load_training_data(parsed(*options), None)
    return data.train, data.counts


def test_training_images_of_several_folders_are_joined(tmp_path):
    one, two = write_coco(tmp_path / "one", [1, 2, 1]), write_coco(tmp_path / "two", [8])
    dataset, counts = load("--data", one, two, "--val_split", 0)
    assert counts == [3, 1] and dataset.num_classes == 14
    assert [int(dataset.load_class_ids(i)[0]) for i in dataset.image_ids] == [1, 2, 1, 8]
    parents = [info["path"].split("/")[-4] for info in dataset.image_info]
    assert parents == ["one", "one", "one", "two"]
    assert load("--data", one, two, "--val_split", 0, "--limit", 1)[1] == [1, 1]


def test_annotations_may_lie_elsewhere(tmp_path):
    write_coco(tmp_path / "a", [1])
    write_coco(tmp_path / "b", [2, 3])
    pictures = tmp_path / "pictures" / "train" / "image"
    shutil.copytree(tmp_path / "b" / "train" / "image", pictures)
    both = [tmp_path / "pictures"] * 2
    options = ["--val_split", 0, "--annotations", tmp_path / "a", tmp_path / "b"]
    dataset, counts = load("--data", *both, *options)
    assert counts == [1, 2] and dataset.image_info[0]["path"] == str(pictures / "0.jpg")
    with pytest.raises(UsageError, match="--data has 2 folders but --annotations 1"):
        data_paths(parsed("--data", *both, "--annotations", tmp_path / "a"))


def test_each_folders_images_come_as_often_as_asked(tmp_path):
    folders = write_coco(tmp_path / "one", [1, 2]), write_coco(tmp_path / "two", [8])
    options = ["--data", *folders, "--val_split", 0]
    dataset, counts = load(*options)
    assert count_visits(parsed(*options), dataset, counts).tolist() == [1, 1, 1]
    args = parsed(*options, "--repeat", "2.5", "1", "--focus", "trousers:3")
    np.testing.assert_allclose(count_visits(args, dataset, counts), [2.5, 2.5, 3])
    with pytest.raises(UsageError, match="--repeat has 1 numbers; give one for each of the 2"):
        count_visits(parsed(*options, "--repeat", "2"), dataset, counts)
    with pytest.raises(SystemExit):
        parsed(*options, "--repeat", "0.5", "1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stages", "heads:1,all:2", "--epochs", "3"), "--stages says"),
        (("--stages", "heads:1", "--layers", "heads"), "--stages says"),
        (("--resume", "logs/run", "--weights", "none"), "--resume continues"),
        (("--paste_data", "other"), "--paste_data needs --paste"),
        (("--paste", "0.5", "--paste_annotations", "other"), "is for --paste_data"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, words, capsys):
    assert main(["train", *options]) == 2
    assert words in capsys.readouterr().err


def test_pasting_and_recolouring_belong_to_the_policies():
    visits = np.ones(3)
    policy = _augmentation(parsed("--augment", "strong", "--recolour", "0.5"), visits)
    assert policy == dataclasses.replace(STRONG, recolour=0.5)
    policy = _augmentation(parsed("--recolour", "0.5", "--paste", "0.3"), visits)
    assert policy == dataclasses.replace(FLIP, recolour=0.5, paste=0.3)
    for option in ("--recolour", "--paste"):
        with pytest.raises(UsageError, match=f"{option} goes with .*, not none"):
            _augmentation(parsed("--augment", "none", option, "0.5"), visits)


@pytest.mark.parametrize("option", ["--early_stopping", "--warmup", "--seed"])
def test_counts_below_zero_are_refused(option):
    with pytest.raises(SystemExit):
        parsed(option, "-1")


def test_a_run_goes_on_in_its_stage():
    """Also where early stopping ended the stage before its last epoch."""
    stages = parse_stages("heads:40,4+:120,heads:160")
    names = stage_names(stages)
    assert names == ["0:heads", "1:4+", "2:heads"]
    saved = [SimpleNamespace(info={"stage": name}) for name in names]
    assert [stage_to_continue(s, stages) for s in saved] == [0, 1, 2]
    assert stage_to_continue(None, stages) == 0
    assert stage_to_continue(saved[1], stages[:1]) == 0
    assert stage_names(stages[:1]) == [None]

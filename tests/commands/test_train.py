"""What `model.py train` starts from: random weights by the seed, and class layers by their names."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mrcnn.commands import train
from mrcnn.commands.arguments import UsageError
from mrcnn.commands.main import main
from mrcnn.core.classes import DEEPFASHION2
from tests.helpers.coco_files import write_coco

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_coco(tmp_path_factory.mktemp("data"), [1, 2])
    shutil.copytree(folder / "train", folder / "validation")
    shutil.copy(folder / "train_coco.json", folder / "validation_coco.json")
    return folder


def started(monkeypatch, data, *options):
    """The `MaskRCNN` as it is when the first epoch would begin."""
    seen = []
    monkeypatch.setattr(train, "_train_stage", lambda args, started, *rest: seen.append(started))
    command = ["train", "--data", data, "--model", "compact", "--size", 128, "--dry_run", *options]
    assert main(list(map(str, command))) == 0
    return seen[0]


def random_start(monkeypatch, data, seed):
    network = started(monkeypatch, data, "--weights", "none", "--seed", seed).keras_model
    return [v.numpy() for v in network.variables]


def test_the_seed_covers_the_weights_that_start_random(monkeypatch, data):
    first, again, other = (random_start(monkeypatch, data, seed) for seed in (7, 7, 8))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sum(not np.array_equal(a, b) for a, b in zip(first, other, strict=True)) > 50


def test_the_heads_learn_from_as_many_rois_as_asked(monkeypatch, data):
    def rois(*options):
        network = started(monkeypatch, data, "--weights", "none", *options)
        return network.config.TRAIN_ROIS_PER_IMAGE, network.keras_model.output_shape

    few, few_shapes = rois("--rois", 24)
    usual, usual_shapes = rois()
    assert (few, usual) == (24, 100)
    flat = [shape[1] for shape in few_shapes if shape and len(shape) > 1]
    assert 24 in flat and 100 not in flat, (few_shapes, usual_shapes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of the data's classes, and of as many in another order."""
    from mrcnn.model import MaskRCNN
    from mrcnn.presets import CompactConfig

    folder = tmp_path_factory.mktemp("weights")
    config = CompactConfig.from_dict({"IMAGE_MIN_DIM": 128, "IMAGE_MAX_DIM": 128})
    network = MaskRCNN("training", config, str(folder))
    network.save_weights(folder / "same.h5")
    network.class_names = (DEEPFASHION2[0], *DEEPFASHION2[:0:-1])
    network.save_weights(folder / "others.h5")
    return folder


def test_class_layers_of_other_classes_start_anew(monkeypatch, data, files, capsys):
    from mrcnn.network.weights import CLASS_LAYERS

    same = started(monkeypatch, data, "--weights", files / "same.h5")
    assert same.random_layers == [] and "class layers" not in capsys.readouterr().out
    others = started(monkeypatch, data, "--weights", files / "others.h5")
    assert others.random_layers and set(others.random_layers) <= set(CLASS_LAYERS)
    assert "class layers start anew" in capsys.readouterr().out


def test_a_run_does_not_go_on_with_other_classes(files):
    going_on = SimpleNamespace(resume=lambda folder: files / "others.h5", random_layers=[], epoch=3)
    args = SimpleNamespace(weights="last", resume=None)
    with pytest.raises(UsageError, match="is of the classes sling_dress.*start a new run"):
        train._start_from(going_on, args, DEEPFASHION2)


def test_a_picture_that_cannot_be_loaded_is_told_plainly(monkeypatch, data, capsys):
    from mrcnn.data.samples import ImageLoadError

    def fails(*args):
        raise ImageLoadError("cannot load image 5 (5.jpg): it is broken")

    monkeypatch.setattr(train, "_train_stage", fails)
    options = ["--model", "compact", "--size", "128", "--weights", "none"]
    assert main(["train", "--data", str(data), *options]) == 2
    assert "5.jpg" in (text := capsys.readouterr().err) and "--weights last" in text

"""What `model.py train` starts from, and what it passes to the training, which is replaced here."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.main import main
from mrcnn.commands.starting import start_from
from mrcnn.commands.train import TrainOptions
from mrcnn.core.classes import DEEPFASHION2
from tests.helpers.coco_files import write_coco
from tests.helpers.layout_files import LAYOUTS, lay_out
from tests.helpers.shapes import SmallConfig

pytestmark = pytest.mark.tf


class Garments(SmallConfig):
    """In place of the compact model, which takes longer to build."""

    NAME = "Compact"
    NUM_CLASSES = 14


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_coco(tmp_path_factory.mktemp("one_split") / "data", [1, 2])
    shutil.copytree(folder / "train", folder / "validation")
    shutil.copy(folder / "train_coco.json", folder / "validation_coco.json")
    return folder


@pytest.fixture
def train(monkeypatch, data):
    """f(*options) -> (model, [arguments of each call of its train()]), after exit status 0."""
    from mrcnn.model import MaskRCNN
    from mrcnn.presets import CONFIGS

    calls = []

    def record(model, *args, **options):
        calls.append((model, args, options))
        model.epoch = args[3]
        return []

    def run(*options):
        calls.clear()
        given = [] if "--data" in options else ["--data", data]
        command = ["train", *given, "--model", "compact", "--size", 128, *options]
        assert main(list(map(str, command))) == 0
        return calls[0][0], [(*args[2:], options["options"]) for _, args, options in calls]

    monkeypatch.setitem(CONFIGS, "compact", Garments)
    monkeypatch.setattr(MaskRCNN, "train", record)
    return run


def test_the_seed_covers_the_weights_that_start_random(train):
    models = [train("--weights", "none", "--seed", seed)[0] for seed in (7, 7, 8)]
    first, again, other = ([v.numpy() for v in m.keras_model.variables] for m in models)
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sum(not np.array_equal(a, b) for a, b in zip(first, other, strict=True)) > 20


def test_the_heads_learn_from_as_many_rois_as_asked(train):
    few, usual = train("--weights", "none", "--rois", 24)[0], train("--weights", "none")[0]
    assert (few.config.TRAIN_ROIS_PER_IMAGE, usual.config.TRAIN_ROIS_PER_IMAGE) == (24, 32)
    shapes = few.keras_model.output_shape
    flat = [shape[1] for shape in shapes if shape and len(shape) > 1]
    assert 24 in flat and 32 not in flat, shapes


def test_options_reach_the_training_of_each_stage(train):
    options = ["--weights", "none", "--stages", "heads:1,all:3/10", "--lr", 0.02, "--keep", 7]
    options += ["--early_stopping", 4, "--accumulate", 2, "--workers", 1, "--focus", "trousers:3"]
    options += ["--best_by", "mask_ap", "--lr_schedule", "cosine", "--batch_size", 2]
    model, ((*first, heads), (*second, all_layers)) = train(*options)
    assert first == [0.02, 1, "heads"] and second == [pytest.approx(0.002), 3, "all"]
    assert (heads.stage_name, all_layers.stage_name) == ("0:heads", "1:all")
    assert all_layers.schedule.peak == pytest.approx(0.002) and all_layers.schedule.steps == 3
    for chosen in (heads, all_layers):
        assert (chosen.early_stopping, chosen.accumulate, chosen.keep) == (4, 2, 7)
        assert chosen.check and chosen.tensorboard and chosen.score_name == "mask_ap"
        assert chosen.draw_samples is not None and chosen.repeat_factors is None
    arguments = heads.facts["arguments"]
    assert arguments["command"] == "train" and arguments["early_stopping"] == "4"
    assert arguments["weights"] == "none" and arguments["data"].endswith("data")
    assert "schedule" not in arguments and len(arguments) == 46
    assert model.config.STEPS_PER_EPOCH == model.config.VALIDATION_STEPS == 1


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of the data's classes, and of as many in another order."""
    from mrcnn.model import MaskRCNN

    folder = tmp_path_factory.mktemp("weights")
    model = MaskRCNN("training", Garments(), str(folder))
    model.save_weights(folder / "same.h5")
    model.class_names = (DEEPFASHION2[0], *DEEPFASHION2[:0:-1])
    model.save_weights(folder / "others.h5")
    return folder


def test_class_layers_of_other_classes_start_anew(train, files, capsys):
    from mrcnn.network.weights import CLASS_LAYERS

    same, _ = train("--weights", files / "same.h5")
    assert same.random_layers == [] and "class layers" not in capsys.readouterr().out
    others, _ = train("--weights", files / "others.h5")
    assert others.random_layers and set(others.random_layers) <= set(CLASS_LAYERS)
    assert "class layers start from random" in capsys.readouterr().out


def test_classes_follow_the_data(train, files, tmp_path, capsys):
    from mrcnn.network.weights import CLASS_LAYERS

    root = lay_out(tmp_path, LAYOUTS["Roboflow"])
    options = ["--data", root, "--logs", tmp_path / "logs", "--weights"]
    model, _ = train(*options, files / "same.h5")
    printed = capsys.readouterr().out
    assert model.config.NUM_CLASSES == 3 and set(model.random_layers) <= set(CLASS_LAYERS)
    assert "same.h5 has 13 classes (short_sleeved_shirt, " in printed
    assert "the data 2 classes (shoe, hat)" in printed
    # A run of other classes can't go on; that shows before its weights don't fit.
    run = tmp_path / "run20260101T0000"
    run.mkdir()
    shutil.copy(files / "same.h5", run / "mask_rcnn_run_0001.h5")
    command = ["train", *options[:-1], "--resume", run, "--model", "compact", "--size", 128]
    assert main(list(map(str, command))) == 2
    assert "but the data has shoe, hat; start a new run" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_classes(files):
    model = SimpleNamespace(resume=lambda folder: files / "others.h5", random_layers=[], epoch=3)
    with pytest.raises(UsageError, match="has the classes sling_dress.*start a new run"):
        start_from(model, TrainOptions(weights="last"), DEEPFASHION2)


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        ("samples.ImageLoadError", 2, "--weights last"),
        ("stopping.TrainingStopped", 130, "it is broken"),
        ("stopping.WorkerLost", 3, "it is broken"),
        ("builtins.FloatingPointError", 3, "it is broken"),
    ],
)
def test_failures_are_told_plainly(monkeypatch, train, data, capsys, failure, status, words):
    import builtins

    from mrcnn.data import samples
    from mrcnn.model import MaskRCNN
    from mrcnn.training import stopping

    module, name = failure.split(".")
    modules = {"samples": samples, "stopping": stopping, "builtins": builtins}

    def fails(*args, **options):
        raise getattr(modules[module], name)("image 5 (5.jpg): it is broken")

    monkeypatch.setattr(MaskRCNN, "train", fails)
    options = ["--model", "compact", "--size", "128", "--weights", "none"]
    assert main(["train", "--data", str(data), *options]) == status
    assert "5.jpg" in (text := capsys.readouterr().err) and words in text


def test_layers_that_are_no_expression_are_told_plainly(train, data, capsys):
    options = ["--model", "compact", "--size", "128", "--weights", "none", "--layers", "("]
    assert main(["train", "--data", str(data), *options]) == 2
    assert "the layers '(' are no regular expression" in capsys.readouterr().err

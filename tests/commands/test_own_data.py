"""The commands of the README's "Your own data", as they are typed, with fewer steps."""

import functools
import json

import h5py
import pytest
from pycocotools.coco import COCO

from tests.helpers.commands import run_command

pytestmark = [pytest.mark.tf, pytest.mark.slow]

TRAIN = ["--model", "compact", "--size", "64x128", "--batch_size", 2, "--precision", "float32"]
TRAIN += ["--steps_per_epoch", 1, "--validation_steps", 1, "--layers", "heads", "--name", "own"]
TRAIN += ["--samples", 0]
IDS = {7: "top", 20: "bottom", 55: "dress"}


@pytest.fixture(autouse=True)
def one_model(monkeypatch):
    """Commands of the same options share a model: loading takes most of their time."""
    from mrcnn.predictor import Predictor

    load = functools.cache(Predictor.load)
    monkeypatch.setattr(Predictor, "load", load)


def test_own_classes_from_training_to_results(tmp_path):
    def run(*arguments, status=0):
        return run_command(*arguments, cwd=tmp_path, status=status)

    run("convert", "--make_demo", "data/own", "--images", 10, "--layout", "coco")
    printed = run("train", "--data", "data/own", *TRAIN, "--epochs", 1)
    assert "3 classes (top, bottom, dress); 8 images of" in printed
    (folder,) = (tmp_path / "logs").iterdir()
    with h5py.File(folder / "mask_rcnn_own_0001.h5") as file:
        assert json.loads(file.attrs["class_names"]) == ["BG", *IDS.values()]
        assert json.loads(file.attrs["category_ids"]) == [0, *IDS]
        assert json.loads(file.attrs["config"])["IMAGE_SHAPE"] == [64, 128, 3]

    weights = ["--weights", folder, "--precision", "float32", "--no-refine"]
    printed = run("evaluate", "--data", "data/own", *weights, "--resamples", 0)
    assert "3 classes" in printed and "not scored" not in printed
    rows = json.loads((tmp_path / "output_folder" / "report" / "results.json").read_text())
    assert rows and {row["category_id"] for row in rows} <= set(IDS)
    truth = COCO(str(tmp_path / "data" / "own" / "annotations" / "instances_val.json"))
    assert len(truth.loadRes(rows).anns) == len(rows)
    score = ["--results", "output_folder/report/results.json", "--report", "again"]
    run("evaluate", "--data", "data/own", *score, "--resamples", 0)
    reports = [tmp_path / place / "metrics.json" for place in ("output_folder/report", "again")]
    first, again = (json.loads(path.read_text()) for path in reports)
    assert first["box"] == again["box"] and first["mask"] == again["mask"]

    results = ["--input", "data/own/val", "--output_folder", "out", "--min_score", 0]
    run("inference", *weights, *results)
    images = COCO(str(tmp_path / "out" / "images.json"))
    assert {c["id"]: c["name"] for c in images.cats.values()} == IDS
    found = images.loadRes(str(tmp_path / "out" / "results.json"))
    assert found.anns and {row["category_id"] for row in found.anns.values()} <= set(IDS)

    # The same data, of which one class is left and one is another's.
    path = tmp_path / "data" / "own" / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"], content["categories"][2]["id"] = "hat", 3
    for row in content["annotations"]:
        row["category_id"] = {55: 3}.get(row["category_id"], row["category_id"])
    (tmp_path / "other.json").write_text(json.dumps(content))
    options = ["--annotations", "other.json", "--images", "data/own/val", "--resamples", 0]
    printed = run("evaluate", *options, *weights)
    assert "not scored, as the annotations don't have them: top" in printed
    assert "not scored, as the model doesn't know them: hat" in printed
    metrics = json.loads(reports[0].read_text())
    assert list(metrics["box"]["per_class"]) == ["dress", "bottom"]

"""The commands from annotations to results, on images made here, with one tiny model."""

import contextlib
import copy
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mrcnn.commands.main import main
from mrcnn.core.classes import DEEPFASHION2, DEEPFASHION2_CATEGORY_IDS
from tests.helpers import ROOT

pytestmark = pytest.mark.tf

TRAIN = ["--model", "compact", "--size", 128, "--batch_size", 2, "--precision", "float32"]
TRAIN += ["--steps_per_epoch", 2, "--validation_steps", 1, "--layers", "heads"]
# With the same options the model is loaded once, see `one_model`.
DETECT = ["--precision", "float32", "--max_detections", 5, "--min_score", 0, "--no-refine"]


def run(*command, status=0):
    """What a command of this repository prints; its exit status must be the given one."""
    with io.StringIO() as printed:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            assert main(list(map(str, command))) == status, printed.getvalue()
        return printed.getvalue()


def write_split(folder, first_id, count):
    """Images with one coloured rectangle each, of class 1, 2, ... in turn."""
    (folder / "image").mkdir(parents=True)
    (folder / "annos").mkdir()
    names = list(DEEPFASHION2_CATEGORY_IDS.items())
    for i in range(count):
        name, category_id = names[i % len(names)]
        x1, y1, x2, y2 = 20 + i, 15, 70 + i, 100
        image = np.full((120, 140, 3), 230, np.uint8)
        image[y1:y2, x1:x2] = np.array([15, 120, 240])[[i % 3, (i + 1) % 3, (i + 2) % 3]]
        Image.fromarray(image).save(folder / "image" / f"{first_id + i:06d}.jpg", quality=95)
        item = {
            "category_name": name,
            "category_id": category_id,
            "style": 0,
            "bounding_box": [x1, y1, x2, y2],
            "landmarks": [],
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            "scale": 2,
            "occlusion": 1,
            "zoom_in": 1,
            "viewpoint": 2,
        }
        content = {"source": "user", "pair_id": i, "item1": item}
        (folder / "annos" / f"{first_id + i:06d}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "deepfashion2"
    write_split(folder / "train", 1, 13)
    write_split(folder / "validation", 101, 2)
    run("convert", "--data", folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(data):
    logs = data.parent / "logs"
    printed = run("train", "--data", data, *TRAIN, "--epochs", 1, "--logs", logs)
    assert "Starting from weights/backbones" in printed and "epoch 1: loss" in printed
    (path,) = logs.glob("compact*/mask_rcnn_compact_0001.h5")
    return path


@pytest.fixture(scope="module")
def loaded():
    return {}


@pytest.fixture(autouse=True)
def one_model(loaded, monkeypatch):
    """Commands of the same options and weights share a model: loading takes most of their time."""
    from mrcnn.network.pretrained import find_weights
    from mrcnn.predictor import Predictor

    load = Predictor.load

    def load_once(path, **settings):
        path = find_weights(path)
        key = (hashlib.md5(path.read_bytes()).digest(), *sorted(settings.items()))
        if key not in loaded:
            loaded[key] = load(path, **settings)
        predictor = copy.copy(loaded[key])
        predictor.weights = path
        return predictor

    monkeypatch.setattr(Predictor, "load", load_once)


def test_convert(data):
    for split, count in (("train", 13), ("validation", 2)):
        coco = COCO(str(data / f"{split}_coco.json"))
        assert len(coco.getImgIds()) == len(coco.getAnnIds()) == count
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(DEEPFASHION2[1:])


def test_the_checkpoint_carries_names_and_sizes(checkpoint):
    with h5py.File(checkpoint) as file:
        assert json.loads(file.attrs["class_names"]) == list(DEEPFASHION2)
        config = json.loads(file.attrs["config"])
    assert config["IMAGE_MAX_DIM"] == 128 and config["BACKBONE"] == "mobilenet_v2"


def test_train_goes_on_from_the_last_checkpoint(data, checkpoint):
    logs = ["--logs", checkpoint.parent.parent]
    printed = run("train", "--data", data, *TRAIN, "--epochs", 2, *logs, "--weights", "last")
    assert "epoch 2: loss" in printed and "epoch 1: loss" not in printed
    assert (checkpoint.parent / "mask_rcnn_compact_0002.h5").exists()
    with open(checkpoint.parent / "log.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_id_and_name_stay_together_to_the_end(
    checkpoint, loaded, tmp_path, golden_images, monkeypatch
):
    """Class k of the weights is drawn and written as the k-th garment, for every k."""
    from mrcnn.render import drawing

    (tmp_path / "in").mkdir()
    Image.fromarray(golden_images["grace_hopper"]).save(tmp_path / "in" / "grace.png")
    out = tmp_path / "out"
    command = ["inference", "--weights", checkpoint, "--input_folder", tmp_path / "in"]
    command += ["--output_folder", out, "--save", "overlay,json,csv,masks,cutouts", *DETECT]
    run(*command)
    head = next(iter(loaded.values())).model.keras_model.get_layer("mrcnn_class_logits")
    before = [variable.numpy() for variable in (head.kernel, head.bias)]
    texts = []
    paste = drawing._paste_labels

    def keep_texts(canvas, labels):
        texts.extend(text for _, text, _ in labels)
        paste(canvas, labels)

    monkeypatch.setattr(drawing, "_paste_labels", keep_texts)
    head.kernel.assign(np.zeros(head.kernel.shape))
    for class_id, name in enumerate(DEEPFASHION2):
        if not class_id:
            continue
        head.bias.assign(20.0 * (np.arange(14) == class_id))  # it always answers with this class
        texts.clear()
        shutil.rmtree(out)
        run(*command)
        results = json.loads((out / "results.json").read_text())
        assert results and {r["category_id"] for r in results} == {class_id}
        assert {re.sub(r" [\d.]+$", "", text) for text in texts} == {name}
        with open(out / "results.csv") as file:
            assert {(r["class_id"], r["class"]) for r in csv.DictReader(file)} == {
                (str(class_id), name)
            }
        labels = np.array(Image.open(out / "masks" / "grace.png.classes.png"))
        assert set(labels.ravel().tolist()) <= {0, class_id}
        cutouts = list((out / "cutouts").iterdir())
        assert len(cutouts) == len(results) and all(name in p.name for p in cutouts)
    categories = json.loads((out / "images.json").read_text())["categories"]
    assert {c["id"]: c["name"] for c in categories} == dict(enumerate(DEEPFASHION2[1:], 1))
    for variable, value in zip((head.kernel, head.bias), before, strict=True):
        variable.assign(value)


def test_inference_command(checkpoint, tmp_path, golden_images):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name in ("grace_hopper", "coffee"):
        Image.fromarray(golden_images[name]).save(images / f"{name}.jpg")
    command = ["inference", "--weights", checkpoint, "--input_folder", images]
    command += ["--output_folder", out, *DETECT]
    printed = run(*command)
    assert "mobilenet_v2, 13 classes" in printed and str(out) in printed
    with Image.open(out / "coffee.jpg.png") as drawn:
        assert drawn.size == (600, 400)
    results = json.loads((out / "results.json").read_text())
    assert {row["image_id"] for row in results} == {1, 2}
    COCO(str(out / "images.json")).loadRes(str(out / "results.json"))
    # The same command gives the same results: nothing is left to chance.
    run(*command)
    assert json.loads((out / "results.json").read_text()) == results

    (images / "broken.jpg").write_bytes(b"no image")
    assert "broken.jpg" in run(*command, status=3)
    printed = run(*command, "--resume", "--strict", status=3)
    assert "stopped at broken.jpg" in printed and "2 of them before" in printed


ALONE = """
import sys
from mrcnn.commands.main import main

command = ["inference", *sys.argv[1:]]
assert main([*command, "--no-refine"]) == 0  # fitting masks is all that loads OpenCV
print("loaded:", *(name for name, module in sys.modules.items() if module))
sys.modules["cv2"] = None  # as where libGL is missing, on most servers
assert main(command) == 0
"""


def test_inference_needs_no_plotting_libraries(checkpoint, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    options = ["--weights", checkpoint, "--input", tmp_path / "a.png", "--output_folder"]
    options = list(map(str, [*options, tmp_path / "out"]))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("loaded:"))
    assert "tensorflow" in line.split()
    assert not {"cv2", "imgaug", "matplotlib", "matplotlib.pyplot"} & set(line.split())
    assert done.stderr.count("masks stay coarser than this model asks for") == 1


def test_as_a_user_types_it(checkpoint, tmp_path):
    """A folder of weights, and all else by default: the files that the guide names are there."""
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    options = ["--weights", checkpoint.parent, "--input", tmp_path / "a.png"]
    command = [sys.executable, ROOT / "model.py", "inference", *options]
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Weights: {checkpoint.parent}" in done.stdout
    names = {path.name for path in (tmp_path / "output_folder").iterdir()}
    tables = {"results.json", "images.json", "results.csv", "failures.csv"}
    assert names == {"a.png.png", "index.html", "records"} | tables


SCORE = ["--precision", "float32", "--no-refine", "--resamples", 0]


def metrics(report):
    return json.loads((report / "metrics.json").read_text())


def test_evaluate_command(checkpoint, data, tmp_path):
    first = ["--weights", checkpoint, "--report", tmp_path / "a", *SCORE]
    printed = run("evaluate", "--data", data, *first)
    assert re.search(r"box +AP \d\.\d+  AP50 \d\.\d+  AP75", printed)
    assert re.search(r"trousers +0 +n/a +n/a +n/a", printed)
    # The results that it keeps give the same numbers again.
    again = ["--results", tmp_path / "a" / "results.json", "--report", tmp_path / "b"]
    run("evaluate", "--data", data, *again, "--resamples", 0)
    a, b = metrics(tmp_path / "a"), metrics(tmp_path / "b")
    assert a["run"]["weights"] == str(checkpoint) and b["run"]["weights"] is None
    assert a["box"] == b["box"] and a["mask"] == b["mask"] and a["confusion"] == b["confusion"]


def test_evaluate_names_the_weights_that_it_ran(checkpoint, data, tmp_path, monkeypatch):
    """Also if a newer file is put into the folder meanwhile, as a training does."""
    from mrcnn.data.dataset import CocoDataset
    from mrcnn.network.pretrained import find_weights

    first, newer = tmp_path / "first.h5", tmp_path / "newer.h5"
    shutil.copy(checkpoint, first)
    load_image = CocoDataset.load_image

    def load_and_copy(dataset, image_id):
        shutil.copy(checkpoint, newer)
        os.utime(newer, (first.stat().st_mtime + 60,) * 2)
        return load_image(dataset, image_id)

    monkeypatch.setattr(CocoDataset, "load_image", load_and_copy)
    report = tmp_path / "report"
    run("evaluate", "--data", data, "--weights", tmp_path, "--report", report, *SCORE)
    assert find_weights(tmp_path) == newer
    assert metrics(report)["run"]["weights"] == str(first)


def test_evaluate_goes_on_past_a_broken_image(checkpoint, data, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(data / "validation", copied / "validation")
    shutil.copy(data / "validation_coco.json", copied)
    (copied / "validation" / "image" / "000101.jpg").write_bytes(b"no image")
    report = tmp_path / "report"
    command = ["evaluate", "--weights", checkpoint, "--report", report, *SCORE]
    printed = run(*command, "--data", copied, status=3)
    assert "000101.jpg failed" in printed and (report / "report.html").exists()
    # What is found in the other image is booked to it.
    assert {row["image_id"] for row in json.loads((report / "results.json").read_text())} <= {102}


def test_inference_refuses_random_layers(checkpoint, tmp_path):
    path = tmp_path / "partial.h5"
    path.write_bytes(checkpoint.read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = np.array(
            [n for n in file.attrs["layer_names"] if n not in (b"mrcnn_mask", b"fpn_p3")]
        )
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    command = ["inference", "--weights", path, "--input", tmp_path / "a.png"]
    printed = run(*command, "--output_folder", tmp_path / "out", status=2)
    assert "results would be random: fpn_p3, mrcnn_mask" in printed
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_told(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    command = ["inference", "--weights", tmp_path / "nowhere", "--input", tmp_path / "a.png"]
    assert f"no weights at {tmp_path / 'nowhere'}" in run(*command, status=2)

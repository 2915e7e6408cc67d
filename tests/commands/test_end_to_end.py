"""The commands as a user types them, from annotations to results, on images made here."""

import csv
import json
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mrcnn.core.classes import DEEPFASHION2, DEEPFASHION2_CATEGORY_IDS
from tests.helpers import ROOT

pytestmark = pytest.mark.tf


def run(*command, cwd=ROOT, status=0):
    """Output of a command of this repository; its exit status must be the given one."""
    script, *options = map(str, command)
    result = subprocess.run(
        [sys.executable, str(ROOT / script), *options],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


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
    print(run("convert_to_coco.py", "--data", folder))
    return folder


@pytest.fixture(scope="module")
def logs(data):
    folder = data.parent / "logs"
    options = ["--model", "compact", "--size", 128, "--epochs", 1, "--batch_size", 2]
    options += ["--steps_per_epoch", 2, "--validation_steps", 1, "--logs", folder]
    printed = run("model.py", "train", "--data", data, *options, "--precision", "float32")
    assert "Starting from weights/backbones" in printed and "epoch 1: loss" in printed
    return folder


@pytest.fixture(scope="module")
def checkpoint(logs):
    (path,) = logs.glob("compact*/mask_rcnn_compact_0001.h5")
    return path


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


def test_train_goes_on_from_the_last_checkpoint(data, logs, checkpoint):
    options = ["--model", "compact", "--size", 128, "--epochs", 2, "--batch_size", 2]
    options += ["--steps_per_epoch", 2, "--validation_steps", 1, "--logs", logs]
    printed = run("model.py", "train", "--data", data, *options, "--weights", "last")
    assert "epoch 2: loss" in printed and "epoch 1: loss" not in printed
    assert (checkpoint.parent / "mask_rcnn_compact_0002.h5").exists()
    with open(checkpoint.parent / "log.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_id_and_name_stay_together_to_the_end(checkpoint, tmp_path, golden_images, monkeypatch):
    """Class k of the weights is drawn and written as the k-th garment, for every k."""
    from mrcnn.commands.inference import load_predictor
    from mrcnn.commands.main import build_parser
    from mrcnn.inference import pipeline, writers
    from mrcnn.render import drawing

    arguments = ["inference", "--weights", str(checkpoint), "--precision", "float32"]
    arguments += ["--no-refine", "--max_detections", "4"]  # quicker, and no matter of names
    predictor = load_predictor(build_parser().parse_args(arguments))
    head = predictor.model.keras_model.get_layer("mrcnn_class_logits")
    head.kernel.assign(np.zeros(head.kernel.shape))
    texts = []
    paste = drawing._paste_labels

    def keep_texts(canvas, labels):
        texts.extend(text for _, text, _ in labels)
        paste(canvas, labels)

    monkeypatch.setattr(drawing, "_paste_labels", keep_texts)
    (tmp_path / "in").mkdir()
    Image.fromarray(golden_images["grace_hopper"]).save(tmp_path / "in" / "grace.png")
    out = tmp_path / "out"
    outputs = writers.Outputs((*writers.DEFAULT, "masks", "cutouts"))
    for class_id, name in enumerate(DEEPFASHION2):
        if not class_id:
            continue
        # A class head that always answers with this class.
        head.bias.assign(20.0 * (np.arange(14) == class_id))
        texts.clear()
        pipeline.run_images(predictor, tmp_path / "in", out, outputs, progress=False)
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


def test_inference_command(checkpoint, tmp_path, golden_images):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("grace_hopper", "coffee"):
        Image.fromarray(golden_images[name]).save(pictures / f"{name}.jpg")
    options = ["--weights", checkpoint.parent, "--input_folder", pictures, "--min_score", 0.0]
    options += ["--output_folder", tmp_path / "out", "--max_detections", 5]
    printed = run("model.py", "inference", *options)
    assert "mobilenet_v2, 13 classes" in printed and str(tmp_path / "out") in printed
    with Image.open(tmp_path / "out" / "coffee.jpg.png") as drawn:
        assert drawn.size == (600, 400)
    coco = COCO(str(tmp_path / "out" / "images.json"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    if results:
        coco.loadRes(str(tmp_path / "out" / "results.json"))
    # The same command gives the same results: nothing is left to chance.
    run("model.py", "inference", *options)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results

    (pictures / "broken.jpg").write_bytes(b"no image")
    printed = run("model.py", "inference", *options, status=3)
    assert "broken.jpg" in printed
    printed = run("model.py", "inference", *options, "--resume", "--strict", status=3)
    assert "stopped at broken.jpg" in printed and "2 of them before" in printed


@pytest.mark.parametrize("has_opencv", [True, False])
def test_inference_needs_no_plotting_libraries(checkpoint, tmp_path, has_opencv):
    """OpenCV fails to import where libGL is missing, as on most servers: masks then stay coarser."""
    prepare = "" if has_opencv else "sys.modules['cv2'] = None\n"
    option = "'--no-refine'" if has_opencv else ""  # fitting masks is all that loads it
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    code = (
        "import sys\nfrom mrcnn.commands.main import main\n"
        f"{prepare}"
        f"main(['inference', '--weights', {str(checkpoint)!r}, '--input_folder', "
        f"{str(tmp_path)!r}, '--output_folder', {str(tmp_path / 'out')!r}, {option}])\n"
        "print('loaded:', *(name for name, module in sys.modules.items() if module))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    warned = "masks stay coarser than this model asks for" in result.stderr
    assert warned is not has_opencv
    loaded = result.stdout.split("loaded:")[1].split()
    assert "tensorflow" in loaded
    assert not {"cv2", "imgaug", "matplotlib", "matplotlib.pyplot"} & set(loaded)


def test_evaluate_command(checkpoint, data, tmp_path):
    options = ["--data", data, "--resamples", 10]
    first = ["--weights", checkpoint, "--report", tmp_path / "a"]
    printed = run("model.py", "evaluate", *options, *first)
    assert re.search(r"box +AP \d\.\d+  AP50 \d\.\d+  AP75", printed)
    assert re.search(r"trousers +0 +n/a +n/a +n/a", printed)
    # The results it kept give the same numbers again.
    again = ["--results", tmp_path / "a" / "results.json", "--report", tmp_path / "b"]
    run("model.py", "evaluate", *options, *again)
    a, b = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "ab")
    assert a["run"]["weights"] == str(checkpoint) and b["run"]["weights"] is None
    assert a["box"] == b["box"] and a["mask"] == b["mask"] and a["confusion"] == b["confusion"]


def test_evaluate_goes_on_past_a_broken_picture(checkpoint, data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data / "validation", copy / "validation")
    shutil.copy(data / "validation_coco.json", copy)
    (copy / "validation" / "image" / "000102.jpg").write_bytes(b"no image")
    options = ["--weights", checkpoint, "--report", tmp_path / "report", "--resamples", 0]
    printed = run("model.py", "evaluate", "--data", copy, *options, status=3)
    assert "000102.jpg failed" in printed and (tmp_path / "report" / "report.html").exists()


def test_inference_refuses_random_layers(checkpoint, tmp_path):
    path = tmp_path / "partial.h5"
    path.write_bytes(checkpoint.read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = np.array(
            [n for n in file.attrs["layer_names"] if n not in (b"mrcnn_mask", b"fpn_p3")]
        )
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    options = ["--weights", path, "--input_folder", tmp_path, "--output_folder", tmp_path / "out"]
    printed = run("model.py", "inference", *options, status=2)
    assert "results would be random: fpn_p3, mrcnn_mask" in printed
    assert not (tmp_path / "out").exists()


def test_missing_data_says_what_it_is(tmp_path):
    printed = run("model.py", "train", "--data", tmp_path / "none", status=2)
    assert (
        "DeepFashion2" in printed and "https://github.com/switchablenorms/DeepFashion2" in printed
    )
    write_split(tmp_path / "unconverted" / "train", 1, 1)
    printed = run("model.py", "train", "--data", tmp_path / "unconverted", status=2)
    assert f"python convert_to_coco.py --data {tmp_path / 'unconverted'}" in printed


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--input_folder", "nowhere"], "input 'nowhere' does not exist"),
        (["--save", "pdf"], "can't save ['pdf']; choose from overlay, json"),
        (["--pad", "-3"], "pad is -3; give 0 or more pixels"),
        (["--weights", "nowhere"], "no weights at nowhere"),
    ],
)
def test_missing_folders(tmp_path, options, text):
    (tmp_path / "input_folder").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "input_folder" / "a.png")
    assert text in run("model.py", "inference", *options, cwd=tmp_path, status=2)

"""The sleeve head's features, its file, and its training, on hand-made images of features."""

import importlib.util
import json
import sys

import h5py
import numpy as np
import pytest

from mrcnn.core.classes import DEEPFASHION2
from mrcnn.siblings.head import SiblingHead, sibling_table
from tests.helpers import ROOT

pytestmark = pytest.mark.tf
TABLE = sibling_table(DEEPFASHION2)


def script(name):
    """A program of scripts/ as a module."""
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def layer_file(tmp_path):
    """As little of a weights file as can be: one layer, names and configuration."""
    path = tmp_path / "small.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"mrcnn_class_logits"])
        file.attrs["class_names"] = json.dumps(DEEPFASHION2)
        file.attrs["config"] = json.dumps({"NUM_CLASSES": 14})
        group = file.create_group("mrcnn_class_logits")
        group.attrs["weight_names"] = np.array([b"mrcnn_class_logits/kernel:0"])
        group.create_dataset("mrcnn_class_logits/kernel:0", data=np.ones((3, 14), np.float32))
    return path


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(6, 14)), rng.normal(size=14)
    return SiblingHead(kernel.astype(np.float32), bias.astype(np.float32), TABLE, 0.4)


def test_parts_are_means_over_garment_and_surroundings():
    from mrcnn.siblings.sleeves import BEYOND, GRID, ROWS, pool_parts

    grid = np.zeros((1, 1, GRID, GRID, 2), np.float32)
    shares = np.zeros((1, 1, GRID, GRID), np.float32)
    # The second row of parts: its left half is garment.
    shares[0, 0, 4:8, :10] = 1
    grid[0, 0, 4:8, :10] = 3, 5
    grid[0, 0, 4:8, 10:] = 7, 0
    grid[0, 0, 8:12] = 1, 2
    parts = np.asarray(pool_parts(grid, shares)).reshape(ROWS, 2, 3)
    np.testing.assert_allclose(parts[0], [[0, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(parts[1], [[3, 5, 0.5], [7, 0, 0.5]])
    np.testing.assert_allclose(parts[2], [[0, 0, 0], [1, 2, 1]])
    # A mirror image has the same features.
    mirrored = np.asarray(pool_parts(grid[:, :, :, ::-1], shares[:, :, :, ::-1]))
    np.testing.assert_allclose(mirrored.reshape(parts.shape), parts, atol=1e-6)
    assert BEYOND < GRID // ROWS  # each row of parts has some of the box
    assert pool_parts(grid[:, :0], shares[:, :0]).shape == (1, 0, ROWS * 6)


def test_masks_on_the_grid():
    from mrcnn.siblings.sleeves import on_grid

    masks = np.zeros((1, 2, 28, 28), np.float32)
    masks[0, 1, :2, :3] = 1
    shares = np.asarray(on_grid(masks))
    assert shares.shape == (1, 2, 20, 20) and not shares[0, 0].any()
    assert shares[0, 1, 3, 3] == 1 and shares[0, 1, 3, 4] == 0.5 and shares[0, 1].sum() == 1.5


def test_describe_tells_garment_from_surroundings():
    """On maps that say where they are: the first half of the image's columns is 1."""
    from mrcnn.core.image import compose_image_meta
    from mrcnn.siblings.sleeves import ROWS, describe

    maps = [np.zeros((1, side, side, 1), np.float32) for side in (64, 32, 16, 8)]
    for m in maps:
        m[:, :, : m.shape[2] // 2] = 1
    shape = (256, 256, 3)
    meta = compose_image_meta(0, shape, shape, (0, 0, 256, 256), 1, np.zeros(14))
    # A box in the left half, whose surroundings reach into the right half.
    boxes = np.array([[[0.3, 0.2, 0.7, 0.48], [0.3, 0.1, 0.7, 0.28]]], np.float32)
    masks = np.ones((1, 2, 28, 28), np.float32)
    parts = np.asarray(describe(boxes, meta[None].astype(np.float32), maps, masks))
    parts = parts.reshape(2, ROWS, 2, 2)
    np.testing.assert_allclose(parts[0, :, 0, 0], 1, atol=0.05)
    assert (parts[0, 1:4, 1, 0] < 0.8).all()
    np.testing.assert_allclose(parts[1, 1:4, 1, 0], 1, atol=0.05)
    assert describe(boxes[:, :0], meta[None].astype(np.float32), maps, masks[:, :0]).shape[1] == 0


def test_head_travels_in_the_weights_file(layer_file, head, tmp_path):
    from mrcnn.network import weights
    from mrcnn.siblings.sleeves import read_head, write_head

    before = weights.inspect(layer_file)
    write_head(head, layer_file, tmp_path / "with.h5", refine=True)
    write_head(head, tmp_path / "with.h5", tmp_path / "with.h5")  # once more, in place
    again = read_head(tmp_path / "with.h5", DEEPFASHION2)
    for name in ("kernel", "bias", "siblings"):
        np.testing.assert_array_equal(getattr(again, name), getattr(head, name))
    assert again.margin == 0.4
    # Readers of the layers see the same file as before.
    after = weights.inspect(tmp_path / "with.h5")
    assert after.shapes == before.shapes and after.class_names == before.class_names
    assert after.config == {"NUM_CLASSES": 14, "SLEEVE_REFINE": True}
    assert weights.inspect(layer_file).config == before.config  # the source stays
    assert not list(tmp_path.glob(".*.tmp"))


def test_files_without_a_head_or_with_a_strange_one(layer_file, head, tmp_path):
    from mrcnn.core.classes import COCO
    from mrcnn.network.weights import WeightsError
    from mrcnn.siblings.sleeves import GROUP, read_head, write_head

    with pytest.raises(
        WeightsError, match="(?s)small.h5 has no sleeve head.*scripts/train_sleeves"
    ):
        read_head(layer_file, DEEPFASHION2)
    path = tmp_path / "with.h5"
    write_head(head, layer_file, path)
    with pytest.raises(WeightsError, match="can't be used: its groups name"):
        read_head(path, COCO)
    with h5py.File(path, "a") as file:
        del file[GROUP]["bias:0"]
    with pytest.raises(WeightsError, match="sleeve head of .*with.h5 can't be used: .*bias:0"):
        read_head(path, DEEPFASHION2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda g: g["kernel:0"].__setitem__((0, 0), np.nan), "weight kernel:0: 1 of .* are NaN"),
        (lambda g: g.attrs.__setitem__("margin", "a lot"), "attribute margin of .* is no number"),
        (lambda g: g.attrs.__setitem__("margin", np.nan), "margin is nan; give 0 to 1"),
        (lambda g: g.attrs.__setitem__("groups", '[["BG", 5]]'), "Expected `str`, got `int`"),
        (lambda g: g.attrs.__setitem__("groups", "[" * 10**5), "Expected `str`, got `array`"),
        (lambda g: g.attrs.__delitem__("weight_names"), "kernel:0"),
        (lambda g: _link(g, "kernel:0"), "kernel:0 is a link, maybe to another file"),
        (lambda g: None, "it is for another number of features"),
    ],
)
def test_what_a_strangers_head_may_say(layer_file, head, tmp_path, change, text):
    from mrcnn.network.weights import WeightsError
    from mrcnn.siblings.sleeves import GROUP, read_head, write_head

    path = tmp_path / "with.h5"
    write_head(head, layer_file, path)
    with h5py.File(path, "a") as file:
        change(file[GROUP])
    with pytest.raises(WeightsError, match=f"sleeve head of .*with.h5 can't be used: .*{text}"):
        read_head(path, DEEPFASHION2, channels=5)


def _link(group, name):
    del group[name]
    group[name] = h5py.ExternalLink("pipe", "/")


def test_to_float16_keeps_the_head(layer_file, head, tmp_path, monkeypatch):
    from mrcnn.siblings.sleeves import read_head, write_head

    write_head(head, layer_file, tmp_path / "with.h5")
    target = tmp_path / "half.h5"
    monkeypatch.setattr(sys, "argv", ["to_float16.py", str(tmp_path / "with.h5"), str(target)])
    script("to_float16").main()
    half = read_head(target, DEEPFASHION2)
    np.testing.assert_allclose(half.kernel, head.kernel, atol=2e-3)
    assert half.margin == 0.4


def test_detections_are_paired_with_siblings_only():
    from mrcnn.siblings.training import pair_with_garments as pair

    box, other = [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]
    detections = np.zeros((6, 6), np.float32)
    for i, row in enumerate(
        [[*box, 1, 0.9], [*box, 9, 0.8], [*other, 8, 0.7], [*box, 2, 0.6], [*box, 10, 0.5]]
    ):
        detections[i] = row
    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    ids, boxes = [2, 9, -8], np.array([box, other, other], np.float32)
    found = pair(detections, features, ids, boxes, TABLE, 7)
    # The short-sleeved shirt is a long-sleeved one; the skirt on it is none; the trousers are a skirt.
    assert found.found.tolist() == [1, 8, 2] and found.truth.tolist() == [2, 9, 2]
    assert found.best.tolist() == [True, True, False] and found.images.tolist() == [7, 7, 7]
    np.testing.assert_array_equal(found.features, features[[0, 2, 3]])
    for nothing in (
        pair(detections * 0, features, ids, boxes, TABLE, 7),
        pair(detections, features, [], np.zeros((0, 4), np.float32), TABLE, 7),
    ):
        assert len(nothing) == 0 and nothing.features.shape == (0, 2)


def made_samples(count, noise=0.1):
    """Feature 0 tells long sleeves from short, feature 1 skirts from trousers, 2 says nothing."""
    from mrcnn.siblings.training import Samples

    rng = np.random.default_rng(0)
    second = rng.random(count) < 0.5
    shirt = np.arange(count) % 2 == 0
    truth = np.where(shirt, 1 + second, 8 + second).astype(np.int32)
    features = rng.normal(0, noise, (count, 3)).astype(np.float32)
    features[shirt, 0] += 1.0 * second[shirt]
    features[~shirt, 1] += 1.0 * second[~shirt]
    found = np.where(shirt, 1, 8).astype(np.int32)
    return Samples(features, truth, found, np.arange(count) // 2, np.ones(count, bool))


def test_fit_and_cross_validation_learn_what_the_features_say():
    from mrcnn.siblings.training import choose_margin, cross_validate, fit

    samples = made_samples(400)
    kernel, bias = fit(samples, TABLE, decay=0.001)
    head = SiblingHead(kernel, bias, TABLE, 0.2)
    decided = head.decide(samples.features, samples.found)
    assert (decided == samples.truth).mean() > 0.98 > (samples.found == samples.truth).mean()
    held_out = cross_validate(samples, TABLE, decay=0.001)
    margin, rows = choose_margin(held_out, samples.truth, samples.found)
    assert 0 <= margin < 1 and rows[0][0] == 0 and rows[-1] == (1.0, 0, 0)
    best = next(row for row in rows if row[0] == margin)
    assert best[1] > 100 and best[2] <= 5


def test_margin_of_features_that_say_nothing_overrules_nothing():
    from mrcnn.siblings.training import choose_margin

    # Each overruling puts a right class wrong.
    probabilities = np.zeros((4, 14), np.float32)
    probabilities[:, 2] = 1
    margin, rows = choose_margin(probabilities, np.ones(4, int), np.ones(4, int))
    assert margin == 1.0 and rows[0] == (0.0, 0, 4)


def demo_head(class_id, margin):
    """Whatever it sees, it is sure of one class."""
    from mrcnn.siblings.sleeves import ROWS

    bias = np.zeros(14, np.float32)
    bias[class_id] = 20
    kernel = np.zeros((ROWS * 2 * 129, 14), np.float32)
    return SiblingHead(kernel, bias, TABLE, margin)


def test_predictor_and_detect_use_the_head(small_weights, golden_images, tmp_path):
    """The small model takes what it sees for trousers (8) or skirts (9)."""
    from mrcnn.network import weights
    from mrcnn.predictor import Predictor
    from mrcnn.siblings.sleeves import read_head, write_head

    settings = {"min_score": 0.0, "precision": "float32", "batch_size": 1}
    images = [golden_images["coffee"]]
    path = tmp_path / "skirts.h5"
    write_head(demo_head(9, 0.5), small_weights, path, refine=True)
    plain = Predictor.load(path, sleeve_refine=False, **settings)
    refined = Predictor.load(path, **settings)  # the file says that its head is used
    (before,), (after,) = plain(images), refined(images)
    assert set(before.class_ids) == {8, 9} and set(after.class_ids) == {9}
    # No garment of one class twice: all that is left was there, at the same place.
    assert 0 < len(after) < len(before)
    assert {tuple(b) for b in after.boxes.tolist()} <= {tuple(b) for b in before.boxes.tolist()}
    assert (np.diff(after.scores) <= 0).all()
    assert plain.fingerprint != refined.fingerprint
    (detected,) = refined.model.detect(images)
    np.testing.assert_array_equal(detected["rois"], after.boxes)
    np.testing.assert_array_equal(detected["class_ids"], after.class_ids)
    # What is saved from it has the head too.
    refined.model.save_weights(tmp_path / "saved.h5")
    head = read_head(tmp_path / "saved.h5", DEEPFASHION2)
    np.testing.assert_array_equal(head.bias, demo_head(9, 0.5).bias)
    assert weights.inspect(tmp_path / "saved.h5").config["SLEEVE_REFINE"]
    # Asked for, but without a file to take it from: an error.
    refined.model.sleeve_head = None
    with pytest.raises(weights.WeightsError, match="SLEEVE_REFINE is True, but load_weights"):
        refined(images)
    refined.model.save_weights(tmp_path / "without.h5")
    assert not weights.inspect(tmp_path / "without.h5").config["SLEEVE_REFINE"]
    with pytest.raises(weights.WeightsError, match="small.h5 has no sleeve head"):
        refined.model.load_weights(small_weights, by_name=True)


def test_a_training_model_needs_no_head(tmp_path):
    from mrcnn.model import MaskRCNN
    from tests.helpers.shapes import SmallConfig

    config = type("C", (SmallConfig,), {"SLEEVE_REFINE": True})()
    model = MaskRCNN("training", config, str(tmp_path))
    model.save_weights(tmp_path / "weights.h5")
    model.load_weights(tmp_path / "weights.h5", by_name=True)
    assert model.sleeve_head is None


def write_skirts(folder, image, boxes):
    """A data folder of one image, in which all boxes are skirts."""
    from PIL import Image

    (folder / "train" / "image").mkdir(parents=True)
    Image.fromarray(image).save(folder / "train" / "image" / "a.png")
    height, width = image.shape[:2]
    annotations = [
        {
            "id": i + 1,
            "image_id": 1,
            "category_id": 9,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        }
        for i, (y1, x1, y2, x2) in enumerate(np.asarray(boxes).tolist())
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": i, "name": DEEPFASHION2[i]} for i in range(1, 14)],
    }
    (folder / "train_coco.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_command_from_images_to_refined_results(small_weights, golden_images, tmp_path, capsys):
    """A head that is shown skirts where the model sees trousers and skirts finds skirts."""
    from mrcnn.predictor import Predictor
    from mrcnn.siblings.sleeves import read_head

    image = golden_images["coffee"]
    settings = {"min_score": 0.05, "precision": "float32", "batch_size": 1}
    (seen,) = Predictor.load(small_weights, **settings)([image])
    write_skirts(tmp_path / "data", image, seen.boxes)
    main = script("train_sleeves").main
    command = ["--weights", small_weights, "--output", tmp_path / "with.h5", "--augment", "none"]
    command += ["--precision", "float32", "--batch_size", 1, "--passes", 1, "--margin", 0.2]
    command += ["--samples", tmp_path / "samples", "--data"]
    assert main(list(map(str, [*command, tmp_path / "data"]))) == 0
    assert "margin 0.20; used with --sleeve_refine" in capsys.readouterr().out
    assert len(list((tmp_path / "samples").glob("*.npz"))) == 1
    (refined,) = Predictor.load(tmp_path / "with.h5", sleeve_refine=True, **settings)([image])
    assert 8 in seen.class_ids and set(refined.class_ids) == {9}
    # Again, from the features that were kept, it makes the same head.
    written = read_head(tmp_path / "with.h5", DEEPFASHION2)
    assert main(list(map(str, [*command, tmp_path / "data"]))) == 0
    again = read_head(tmp_path / "with.h5", DEEPFASHION2)
    np.testing.assert_allclose(again.kernel, written.kernel, atol=1e-5)
    np.testing.assert_allclose(again.bias, written.bias, atol=1e-4)
    # What can't be trained on is refused.
    assert main(list(map(str, [*command, tmp_path / "nowhere"]))) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--passes", "0"], "--passes is 0; give 1 or more"),
        (["--margin", "1.5"], "--margin is 1.5; give 0 to 1"),
        (["--decay", "-1"], "--decay is -1.0; give 0 or more"),
        (["--output", "nowhere/a.h5"], "no folder nowhere to write a.h5 to"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "a", "b", "--annotations", "c"], "--data has 2 folders but --annotations 1"),
    ],
)
def test_command_refuses_before_it_works(options, text, capsys):
    assert script("train_sleeves").main(options) == 2
    assert text in capsys.readouterr().err

import http.server
import json
import os
import shutil
import threading
import warnings
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrcnn.training import run_folders
from tests.helpers import GOLDEN, ROOT, config_from, read_json
from tests.helpers.commands import run_command

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def compact():
    """A small model of two classes."""
    from mrcnn.model import MaskRCNN
    from mrcnn.presets import CompactConfig

    class Small(CompactConfig):
        NUM_CLASSES = 3
        IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64
        IMAGES_PER_GPU = 1
        COMPUTE_DTYPE = "float32"
        TOP_DOWN_PYRAMID_SIZE = RPN_CONV_CHANNELS = MASK_CONV_CHANNELS = 16
        FPN_CLASSIF_FC_LAYERS_SIZE = 64

    return MaskRCNN("inference", Small(), "logs")


@pytest.fixture(scope="module")
def saved_once(compact, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.h5"
    compact.class_names, compact.category_ids = ("BG", "hat", "shoe"), (0, 55, 7)
    compact.save_weights(path)
    return path


@pytest.fixture
def saved(saved_once, tmp_path):
    return Path(shutil.copy(saved_once, tmp_path))


def layout_of(path):
    with h5py.File(path) as file:
        names = [n.decode() for n in file.attrs["layer_names"]]
        return {
            name: [
                (w.decode(), file[name][w.decode()].shape) for w in file[name].attrs["weight_names"]
            ]
            for name in names
        }


@pytest.mark.parametrize(
    ("layout", "backbone", "classes"),
    [
        ("h5_layout_resnet50.json", "resnet50", 14),
        ("h5_layout_resnet101.json", "resnet101", 14),
        ("h5_layout_coco81_resnet101.json", "resnet101", 81),
    ],
)
def test_our_files_have_the_originals_layout(tmp_path, layout, backbone, classes):
    from mrcnn.network import build, weights

    values = read_json("infer_A.json")["config"]
    config = config_from(values, BACKBONE=backbone, NUM_CLASSES=classes)
    weights.save(build.build_inference_model(config), tmp_path / "w.h5", dtype="float16")
    theirs = [
        (layer["name"], [(n, tuple(s)) for n, s in layer["weights"]])
        for layer in read_json(layout)["layers"]
        if layer["weights"]
    ]
    ours = [(name, pairs) for name, pairs in layout_of(tmp_path / "w.h5").items() if pairs]
    assert ours == theirs
    with h5py.File(tmp_path / "w.h5") as file:
        assert file.attrs["backend"] == b"tensorflow"


def test_the_training_model_has_the_same_weights(tmp_path, resnet50_file):
    from mrcnn.network import build, weights

    model = build.build_training_model(config_from(read_json("train_T1.json")["config"]))
    report = model.load_weights(resnet50_file)  # by name: the files' orders differ
    assert len(report.loaded) == 131 and not report.missing and not report.unused
    assert set(weights.weighted_layers(model)) <= set(
        read_json("h5_layout_resnet50_training_order.json")["layer_names"]
    )


def test_every_weight_arrives(detector):
    import sys

    sys.path.insert(0, str(GOLDEN))
    from weights_for import weights_for

    from mrcnn.network.weights import weighted_layers

    for pairs in weighted_layers(detector.keras_model).values():
        for name, variable in pairs:
            np.testing.assert_array_equal(
                variable.numpy(), weights_for(name, variable.shape), err_msg=name
            )


def test_names_and_config_travel(compact, saved):
    from mrcnn.network import pretrained, weights

    info = weights.inspect(saved)
    assert info.class_names == ("BG", "hat", "shoe") and info.category_ids == (0, 55, 7)
    assert (info.num_classes, info.backbone) == (3, "mobilenet_v2")
    config = pretrained.config_for(info, IMAGES_PER_GPU=2)
    assert config.BATCH_SIZE == 2 and config.IMAGE_MAX_DIM == 64
    assert {**config.to_dict(), "IMAGES_PER_GPU": 1, "BATCH_SIZE": 1} == compact.config.to_dict()


def test_float16_files_load(compact, tmp_path):
    compact.save_weights(tmp_path / "half.h5", dtype="float16")
    compact.save_weights(tmp_path / "full.h5")
    assert (tmp_path / "half.h5").stat().st_size < 0.55 * (tmp_path / "full.h5").stat().st_size
    before = compact.keras_model.get_layer("mrcnn_class_logits").kernel.numpy()
    compact.load_weights(tmp_path / "half.h5")
    after = compact.keras_model.get_layer("mrcnn_class_logits").kernel.numpy()
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-6)
    assert after.dtype == np.float32


def test_a_file_without_names_gets_them_by_class_count(resnet50_file):
    from mrcnn.network import pretrained, weights

    info = weights.inspect(resnet50_file)
    assert (info.class_names, info.config) == (None, None)
    assert (info.num_classes, info.backbone) == (14, "resnet50")
    config = pretrained.config_for(info)
    assert (config.BACKBONE, config.NUM_CLASSES, config.IMAGE_MAX_DIM) == ("resnet50", 14, 1024)


def test_missing_layers_are_named(compact, saved):
    with h5py.File(saved, "a") as file:
        names = [n for n in file.attrs["layer_names"] if n != b"fpn_p2"]
        file.attrs["layer_names"] = np.array(names)
    with pytest.raises(ValueError, match="Without weights in the file: fpn_p2"):
        compact.load_weights(saved)
    compact.random_layers = ["fpn_p2"]
    with pytest.warns(UserWarning, match="no weights for 1 layers, which stay random: fpn_p2"):
        report = compact.load_weights(saved, by_name=True)
    assert report.missing == ["fpn_p2"]
    with pytest.warns(UserWarning, match="hold random weights, such as fpn_p2"):
        compact.detect([np.zeros((64, 64, 3), np.uint8)])
    compact.random_layers = []


def test_excluded_layers_stay(compact, saved):
    layer = compact.keras_model.get_layer("mrcnn_class_logits")
    layer.kernel.assign(layer.kernel.numpy() * 0 + 7)
    compact.class_names, compact.category_ids = ("BG", "cap", "boot"), (0, 3, 4)
    report = compact.load_weights(saved, exclude=["mrcnn_class_logits"])
    assert report.excluded == ["mrcnn_class_logits"]
    assert (layer.kernel.numpy() == 7).all()
    # The file's may not fit the new head.
    assert (compact.class_names, compact.category_ids) == (("BG", "cap", "boot"), (0, 3, 4))
    compact.load_weights(saved)
    assert (compact.class_names, compact.category_ids) == (("BG", "hat", "shoe"), (0, 55, 7))


def test_files_without_category_ids_have_those_of_the_classes(compact, saved):
    with h5py.File(saved, "a") as file:
        del file.attrs["category_ids"]
    compact.load_weights(saved)
    assert compact.category_ids == (0, 1, 2)


def test_a_shape_mismatch_names_everything_and_changes_nothing(compact, saved):
    with h5py.File(saved, "a") as file:
        group = file["mrcnn_class_logits"]
        del group["mrcnn_class_logits/kernel:0"]
        group.create_dataset("mrcnn_class_logits/kernel:0", data=np.zeros((64, 81), np.float32))
    before = [v.numpy() for v in compact.keras_model.weights]
    with pytest.raises(ValueError) as error:
        compact.load_weights(saved, by_name=True)
    text = str(error.value)
    assert "layer mrcnn_class_logits, weight mrcnn_class_logits/kernel:0" in text
    assert "expected shape (64, 3), found (64, 81)" in text
    assert "exclude=['mrcnn_class_logits']" in text
    for variable, old in zip(compact.keras_model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_keras_full_model_files_load(compact, saved, tmp_path):
    """Keras 2's model.save() keeps the weights one group deeper."""
    with h5py.File(saved) as source, h5py.File(tmp_path / "model.h5", "w") as file:
        group = file.create_group("model_weights")
        for name in source:
            source.copy(name, group)
        group.attrs["layer_names"] = source.attrs["layer_names"]
    assert not compact.load_weights(tmp_path / "model.h5").missing


@pytest.mark.parametrize("content", [b"", b"not a file of weights", None])
def test_files_that_are_none(compact, tmp_path, content):
    path = tmp_path / "bad.h5"
    if content is None:
        with h5py.File(path, "w") as file:
            file.create_group("layers")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="bad.h5"):
        compact.load_weights(path)
    with pytest.raises(FileNotFoundError, match="no weights file"):
        compact.load_weights(tmp_path / "none.h5")


def test_a_truncated_file_is_refused(compact, saved):
    saved.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    with pytest.raises(ValueError, match="cut short"):
        compact.load_weights(saved)


def test_keras_model_saves_the_same_layout(compact, tmp_path):
    compact.keras_model.save_weights(tmp_path / "shapes.h5")
    assert "rpn_model" in layout_of(tmp_path / "shapes.h5")
    with pytest.raises(FileExistsError):
        compact.keras_model.save_weights(tmp_path / "shapes.h5", overwrite=False)


def test_the_newest_mask_rcnn_in_a_folder(saved, tmp_path):
    from mrcnn.network import pretrained

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["layer_names"] = np.array([b"dense"])
        file.create_group("dense").attrs["weight_names"] = np.array([], "S")
    os.utime(tmp_path / "other.h5", (2e9, 2e9))
    assert pretrained.find_weights(tmp_path) == saved
    assert pretrained.find_weights(saved) == saved
    with pytest.raises(FileNotFoundError, match="give a file, a folder or coco"):
        pretrained.find_weights(tmp_path / "nothing")
    saved.unlink()
    with pytest.raises(FileNotFoundError, match="1 .h5 files, none of a Mask R-CNN"):
        pretrained.find_weights(tmp_path)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """f(folder) makes the package seem to lie there; the current folder is an empty one."""
    from mrcnn.network import pretrained

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def installed_at(folder):
        module = folder / "mrcnn" / "network" / "pretrained.py"
        monkeypatch.setattr(pretrained, "__file__", str(module))
        return pretrained

    return installed_at


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_shipped_weights_are_found_here_in_the_checkout_and_in_the_package(packages, tmp_path):
    pretrained = packages(tmp_path / "site")
    name = pretrained.MOBILENET_COCO
    with pytest.raises(FileNotFoundError, match=f"{name}, which ships .* install the package"):
        pretrained.shipped(name)
    inside = touch(tmp_path / "site" / "mrcnn" / "weights" / name)
    assert pretrained.shipped(name) == inside
    beside = touch(tmp_path / "site" / "weights" / name)
    assert pretrained.shipped(name) == beside
    touch(tmp_path / "here" / "weights" / name)
    assert pretrained.shipped(name) == Path("weights") / name


def test_the_default_folder_means_the_shipped_model_where_it_is_missing(packages, tmp_path, saved):
    pretrained = packages(tmp_path / "site")
    with pytest.raises(FileNotFoundError, match="mask_rcnn_compact.h5, which ships"):
        pretrained.find_weights("weights")
    inside = touch(tmp_path / "site" / "mrcnn" / "weights" / "mask_rcnn_compact.h5")
    assert pretrained.find_weights("weights") == pretrained.find_weights(Path("weights")) == inside
    for other in ("weigths", "weights/mine.h5", "logs"):  # a mistake is not passed over
        with pytest.raises(FileNotFoundError, match=f"no weights at {other}; give a file"):
            pretrained.find_weights(other)
    # A folder of that name counts, even if there is nothing in it.
    os.mkdir("weights")
    with pytest.raises(FileNotFoundError, match="weights holds no .h5 file"):
        pretrained.find_weights("weights")
    mine = shutil.copy(saved, "weights/mine.h5")
    assert pretrained.find_weights("weights") == Path(mine)


def test_what_ships_is_in_this_checkout():
    from mrcnn.network import pretrained, weights

    assert weights.inspect(pretrained.shipped(pretrained.COMPACT)).num_classes == 14
    assert pretrained.shipped(pretrained.MOBILENET_COCO).stat().st_size > 9e6


@pytest.fixture
def server(tmp_path):
    """A real web server on this machine, for a folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download(server, saved, tmp_path):
    from mrcnn.network import pretrained

    folder, address = server
    (folder / "w.h5").write_bytes(saved.read_bytes())
    target, size = tmp_path / "fetched" / "w.h5", saved.stat().st_size
    pretrained.download(f"{address}/w.h5", target, size, ["rpn_model"])
    assert target.read_bytes() == saved.read_bytes()

    other = tmp_path / "fetched" / "x.h5"
    for expected, layers, text in [
        (size + 1, [], f"gave {size} bytes, expected {size + 1}"),
        (None, ["conv1"], "lacks the layers .'conv1'."),
    ]:
        with pytest.raises(ValueError, match=text) as error:
            pretrained.download(f"{address}/w.h5", other, expected, layers)
        assert f"by hand and save it as {other}" in str(error.value)
    with pytest.raises(ValueError, match="could not be fetched"):
        pretrained.download(f"{address}/none.h5", other)
    assert sorted(p.name for p in other.parent.iterdir()) == ["w.h5"]


def test_what_a_server_gave_instead_of_a_file(server, tmp_path):
    from mrcnn.network import pretrained

    folder, address = server
    (folder / "w.h5").write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
    target = tmp_path / "w.h5"
    with pytest.raises(ValueError, match="what it gave is a web page .*\n.*by hand and save it as"):
        pretrained.download(f"{address}/w.h5", target)
    assert not target.exists()


def test_genuine_keras_3_files_load(compact, saved, tmp_path):
    """Keras's own layout, which a model of Keras writes under a name that ends in .weights.h5."""
    import keras

    from mrcnn.network import pretrained, weights

    compact.load_weights(saved)
    before = [v.numpy() for v in compact.keras_model.variables]
    keras.Model.save_weights(compact.keras_model, tmp_path / "k3.weights.h5")
    for variable in compact.keras_model.variables:
        variable.assign(variable * 0)
    report = compact.load_weights(tmp_path / "k3.weights.h5")
    assert not report.missing and not report.unused
    for variable, old in zip(compact.keras_model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    ours = pretrained.config_for(weights.inspect(tmp_path / "k3.weights.h5"))
    assert (ours.BACKBONE, ours.NUM_CLASSES, ours.POOL_SIZE) == ("mobilenet_v2", 3, 7)
    assert (ours.TOP_DOWN_PYRAMID_SIZE, ours.FPN_CLASSIF_FC_LAYERS_SIZE) == (16, 64)


def test_nothing_changes_where_one_value_is_no_number(compact, saved):
    compact.load_weights(saved)
    before = [v.numpy() for v in compact.keras_model.variables]
    with h5py.File(saved, "a") as file:
        file["Conv1/Conv1/kernel:0"][...] += 1
        file["mrcnn_mask/mrcnn_mask/bias:0"][2] = np.nan
    with pytest.raises(ValueError, match="layer mrcnn_mask, weight mrcnn_mask/bias:0: 1 of 3 val"):
        compact.load_weights(saved)
    for variable, old in zip(compact.keras_model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_a_folder_falls_back_to_an_older_file(saved, tmp_path):
    from mrcnn.network import pretrained

    def newer(name, make):
        path = tmp_path / name
        make(path)
        if path.is_file():
            os.utime(path, (2e9, 2e9))

    def damaged(path):
        shutil.copy(saved, path)
        with h5py.File(path, "a") as file:
            file["mrcnn_mask/mrcnn_mask/bias:0"][0] = np.inf

    def unfit(path):
        shutil.copy(saved, path)
        with h5py.File(path, "a") as file:
            file.attrs["config"] = json.dumps({"IMAGE_MAX_DIM": 10**9})

    newer("a_cut.h5", lambda path: path.write_bytes(saved.read_bytes()[:100_000]))
    newer("b_infinite.h5", damaged)
    newer("c_unfit.h5", unfit)
    # What a folder of runs has too, and what must not be opened, goes without a word.
    newer("run.state.h5", lambda path: path.write_bytes(b"state"))
    newer("folder.h5", Path.mkdir)
    newer("pipe.h5", os.mkfifo)
    newer("dangling.h5", lambda path: path.symlink_to("none"))
    with pytest.warns(UserWarning) as caught:
        assert pretrained.find_weights(tmp_path) == saved
    texts = [str(warning.message) for warning in caught]
    assert all(text.endswith("; weights.h5 is used") for text in texts)
    for name, text in zip(("c_unfit", "b_infinite", "a_cut"), texts, strict=True):
        assert f"{name}.h5" in text
    saved.unlink()
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").touch()
    with pytest.raises(ValueError, match="saved_model is a TensorFlow SavedModel; load it in Ker"):
        pretrained.find_weights(tmp_path / "saved_model")
    with pytest.raises(
        FileNotFoundError, match="(?s)holds 3 .h5 files, none of a.*a_cut.h5 is dam"
    ):
        pretrained.find_weights(tmp_path)


@pytest.mark.parametrize(
    ("name", "make", "text"),
    [
        ("text.h5", lambda path: path.write_bytes(b"no"), "text.h5 is not an HDF5 file"),
        ("model.pth", lambda path: path.write_bytes(b"\x80\x02"), "model.pth is a Python pickle"),
        ("pipe.h5", os.mkfifo, "pipe.h5 is no regular file"),
        ("big.h5", lambda path: big(path), "big.h5 can't be used: NUM_CLASSES is 1000000000"),
    ],
)
def test_the_command_says_it_in_one_message(saved, tmp_path, name, make, text):
    path = tmp_path / name
    if name == "big.h5":
        shutil.copy(saved, path)
    make(path)
    printed = run_command(
        "inference", "--weights", path, "--input_folder", ROOT / "input_folder",
        "--output_folder", tmp_path / "out", status=2,
    )  # fmt: skip
    assert text in printed and "Traceback" not in printed and printed.count(name) == 1


def big(path):
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["config"])
        file.attrs["config"] = json.dumps(config | {"NUM_CLASSES": 10**9})


def test_run_folders(tmp_path):
    from datetime import datetime

    folder = run_folders.run_folder(tmp_path, "Clothing", datetime(2026, 11, 3, 9, 5))
    assert folder == tmp_path / "clothing20261103T0905"
    path = run_folders.checkpoint_path(folder, "Clothing", 7)
    assert path.name == "mask_rcnn_clothing_0007.h5"
    assert run_folders.parse_checkpoint(path) == 7
    assert run_folders.parse_checkpoint(tmp_path / "mask_rcnn_coco.h5") is None


def test_find_last(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint of a run named 'clothing'"):
        run_folders.find_last(tmp_path / "none", "clothing")
    for run, epochs in {"20260101T0000": (1, 2, 10), "20260102T0000": (3,)}.items():
        for epoch in epochs:
            path = run_folders.checkpoint_path(tmp_path / f"clothing{run}", "clothing", epoch)
            path.parent.mkdir(exist_ok=True)
            path.touch()
    (tmp_path / "clothing20260103T0000").mkdir()  # a run that never got to a checkpoint
    (tmp_path / "other20270101T0000").mkdir()
    last = run_folders.find_last(tmp_path, "clothing")
    assert last.endswith("clothing20260102T0000/mask_rcnn_clothing_0003.h5")


def test_going_on_with_a_run(compact, tmp_path):
    path = tmp_path / "compact20260101T0000" / "mask_rcnn_compact_0005.h5"
    compact.save_weights(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compact.load_weights(path)
    assert compact.epoch == 5 and compact.log_dir == str(path.parent)
    assert compact.checkpoint_path.format(epoch=6).endswith("mask_rcnn_compact_0006.h5")
    assert json.loads(json.dumps(compact.config.to_dict()))["NAME"] == "compact"


def test_mobilenet_weights_are_copied(compact, tmp_path):
    import keras

    from mrcnn.network import pretrained

    source = keras.applications.MobileNetV2(
        input_shape=(64, 64, 3), include_top=False, weights=None
    )
    source.save_weights(tmp_path / "net.weights.h5")
    report = pretrained.load_mobilenet_v2(compact.keras_model, tmp_path / "net.weights.h5")
    assert "fpn_c5p5" in report.missing and "block_16_project" in report.loaded
    for name in ("Conv1", "block_3_depthwise", "block_16_project_BN"):
        for ours, theirs in zip(
            compact.keras_model.get_layer(name).get_weights(),
            source.get_layer(name).get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
    (tmp_path / "bad.weights.h5").write_bytes(b"no")
    with pytest.raises(ValueError, match="bad.weights.h5"):
        pretrained.load_mobilenet_v2(compact.keras_model, tmp_path / "bad.weights.h5")

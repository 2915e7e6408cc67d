"""The door for weights files: what passes, and what each kind of other file is told."""

import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrcnn.network.metadata import inspect
from mrcnn.network.weights_file import WeightsError, check_plain, open_weights
from tests.helpers.hostile_weights import NAMES, cases, damage

SHAPES = {
    "conv1": {"conv1/kernel:0": (3, 3, 3, 4)},
    "pool": {},
    "fpn_p2": {"fpn_p2/kernel:0": (3, 3, 4, 4), "fpn_p2/bias:0": (4,)},
    "rpn_model": {"rpn_conv_shared/kernel:0": (3, 3, 4, 4), "rpn_conv_shared/bias:0": (4,)},
    "mrcnn_class_logits": {
        "mrcnn_class_logits/kernel:0": (64, 3),
        "mrcnn_class_logits/bias:0": (3,),
    },
    "mrcnn_bbox_fc": {"mrcnn_bbox_fc/kernel:0": (64, 12), "mrcnn_bbox_fc/bias:0": (12,)},
    "mrcnn_mask": {"mrcnn_mask/kernel:0": (1, 1, 4, 3), "mrcnn_mask/bias:0": (3,)},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small file with all that ours have, made without TensorFlow."""
    path, rng = tmp_path_factory.mktemp("sound") / "sound.h5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name.encode() for name in SHAPES])
        file.attrs["class_names"] = '["BG", "hat", "shoe"]'
        file.attrs["config"] = '{"NUM_CLASSES": 3}'
        for layer, weights in SHAPES.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name in weights], "S")
            for name, shape in weights.items():
                group[name] = rng.normal(size=shape).astype(np.float32)
    return path


@pytest.fixture
def copied(sound, tmp_path):
    return Path(shutil.copy(sound, tmp_path / "w.h5"))


def read(path):
    """Everything that is ever read from a file."""
    info = inspect(path)
    info.check_names(info.num_classes)
    with open_weights(path) as file:
        return info, {name: part.arrays() for name, part in file.layers.items()}


def test_a_sound_file(sound):
    info, arrays = read(sound)
    assert info.class_names == tuple(NAMES) and info.config == {"NUM_CLASSES": 3}
    assert info.shapes["fpn_p2/fpn_p2/bias:0"] == (4,) and info.num_classes == 3
    assert list(arrays) == list(SHAPES) and arrays["pool"] == []
    with h5py.File(sound) as file:
        kernel = file["fpn_p2/fpn_p2/kernel:0"]
        np.testing.assert_array_equal(arrays["fpn_p2"][0], kernel)
        check_plain(kernel)
    assert arrays["fpn_p2"][0].dtype == np.float32


# What a model must be there for is tried in test_hostile_weights.py.
MADE = [
    case
    for case in cases(Path(__file__))
    if case.base == "small" and not re.match("damage|no layers", case.name)
    and not re.search("expected|exactly this", case.message or "")
]  # fmt: skip


@pytest.mark.parametrize("case", MADE, ids=lambda case: case.name)
def test_what_is_refused_and_what_it_is_told(case, copied):
    before = read(copied)[1]
    case.make(copied)
    if case.message == "":
        for layer, arrays in read(copied)[1].items():
            for array, old in zip(arrays, before[layer], strict=True):
                np.testing.assert_allclose(array, old, rtol=1e-3, err_msg=layer)
        return
    with pytest.raises(
        (WeightsError, FileNotFoundError, OSError), match=f"(?s){case.message}"
    ) as e:
        read(copied)
    assert "w.h5" in str(e.value) and len(str(e.value)) < 700


def test_scattered_damage_is_refused_or_harmless(sound, tmp_path):
    refused = 0
    for seed in range(200):
        path = Path(shutil.copy(sound, tmp_path / "w.h5"))
        damage(path, seed)
        try:
            assert all(np.isfinite(a).all() for arrays in read(path)[1].values() for a in arrays)
        except WeightsError:
            refused += 1
    assert 100 < refused < 200  # damage of values alone can't be noticed


def test_nothing_of_another_file_is_read(copied, tmp_path):
    """A pipe that nobody writes to would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(copied, "a") as file:
        del file["conv1"]
        file["conv1"] = h5py.ExternalLink("pipe", "/conv1")
    with pytest.raises(WeightsError, match="conv1 is a link"):
        inspect(copied)


def test_layers_that_are_one_group_many_times(copied):
    """Few bytes must not become a million arrays."""
    with h5py.File(copied, "a") as file:
        weights = [f"w{i}" for i in range(900)]
        file["many/w"] = np.ones(3, "f4")
        for name in weights:
            file["many"][name] = file["many/w"]
        file["many"].attrs["weight_names"] = np.array([name.encode() for name in weights])
        layers = [f"l{i}" for i in range(900)]
        for name in layers:
            file[name] = file["many"]
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = np.array([name.encode() for name in layers])
    with pytest.raises(WeightsError, match="weight_names of l2\\d has 900 names"):
        inspect(copied)


def test_bfloat16_is_read(copied):
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    values = np.array([[1.5, -2, 0], [256, 0.125, 3]], np.float32)
    with h5py.File(copied, "a") as file:
        del file["fpn_p2/fpn_p2/bias:0"]
        made = h5py.h5d.create(
            file["fpn_p2/fpn_p2"].id, b"bias:0", kind, h5py.h5s.create_simple((2, 3))
        )
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    np.testing.assert_array_equal(read(copied)[1]["fpn_p2"][1], values)


def test_other_hdf5_files_are_told_apart(tmp_path):
    with h5py.File(tmp_path / "run.state.h5", "w") as file:
        file.create_group("optimizer")
    with pytest.raises(WeightsError, match="no attribute layer_names; .*weights beside it"):
        inspect(tmp_path / "run.state.h5")
    with h5py.File(tmp_path / "old.weights.h5", "w") as file:
        file["_layer_checkpoint_dependencies/conv2d/vars/0"] = np.ones(3, "f4")
    with pytest.raises(WeightsError, match="don't name their layers"):
        inspect(tmp_path / "old.weights.h5")


def test_texts_in_a_newer_layout_are_told_apart(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = np.array([b"a"])
        file.create_group("a").attrs["weight_names"] = np.array([b"b"])
        file["a/b"] = np.ones(3, "f4")
    assert inspect(tmp_path / "w.h5").shapes == {"a/b": (3,)}  # short texts are elsewhere
    with h5py.File(tmp_path / "w.h5", "a") as file:
        file.attrs["class_names"] = '["BG"]'
    with pytest.raises(WeightsError, match="stored in a newer layout .* write it with libver=None"):
        inspect(tmp_path / "w.h5")


def test_keras_3_files(tmp_path):
    path = tmp_path / "k3.weights.h5"
    with h5py.File(path, "w") as file:
        for number in range(11):
            group = file.create_group(f"layers/conv2d{f'_{number}' if number else ''}/vars")
            group.attrs["name"] = f"conv{number}"
            group["0"], group["1"] = np.full((3, 2), number, "f4"), np.zeros(2, "f4")
        file.create_group("layers/functional/vars").attrs["name"] = "rpn_model"
        for number in range(11):
            inner = file.create_group(f"layers/functional/layers/conv2d_{number}/vars")
            inner.attrs["name"] = f"inner{number}"
            inner["0"] = np.ones(2, "f4")
    info = inspect(path)
    with open_weights(path) as opened:
        arrays = {name: part.arrays() for name, part in opened.layers.items()}
    assert info.shapes["conv10/0"] == (3, 2) and (arrays["conv10"][0] == 10).all()
    # The order of the model, not of the alphabet.
    assert [*info.shapes][-11:] == [f"rpn_model/inner{i}/0" for i in range(11)]
    with h5py.File(path, "a") as file:
        file["layers/conv2d_3/vars"].attrs["name"] = "conv4"
    with pytest.raises(WeightsError, match="some of them twice"):
        inspect(path)

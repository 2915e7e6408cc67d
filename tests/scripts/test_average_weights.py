"""scripts/average_weights.py."""

import runpy
import sys

import h5py
import numpy as np
import pytest

from tests.helpers import ROOT

SCRIPT = ROOT / "scripts" / "average_weights.py"


def write(path, kernel, dtype=np.float32, name="conv/kernel:0", **attrs):
    with h5py.File(path, "w") as file:
        file.attrs.update(attrs)
        file.create_dataset(f"conv/{name}", data=np.asarray(kernel, dtype))
        file["conv"].attrs["weight_names"] = [name]
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["average_weights.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_means_keep_the_last_files_type_and_attributes(tmp_path, monkeypatch):
    a = write(tmp_path / "a.h5", [[0, 2], [4, 60000]], config="of a")
    b = write(tmp_path / "b.h5", [[1, 2], [-4, 60000]], np.float16, config="of b")
    run(monkeypatch, a, b, tmp_path / "mean.h5")
    with h5py.File(tmp_path / "mean.h5") as file:
        kernel = file["conv/conv/kernel:0"]
        assert kernel.dtype == np.float16 and file.attrs["config"] == "of b"
        np.testing.assert_array_equal(kernel, np.float16([[0.5, 2], [0, 60000]]))
        assert list(file["conv"].attrs["weight_names"]) == ["conv/kernel:0"]
    run(monkeypatch, a, a, b, tmp_path / "three.h5")
    with h5py.File(tmp_path / "three.h5") as file:
        np.testing.assert_allclose(file["conv/conv/kernel:0"][0, 0], 1 / 3, rtol=1e-3)


def test_files_of_other_weights_are_refused_and_nothing_is_written(tmp_path, monkeypatch):
    a = write(tmp_path / "a.h5", [1, 2])
    for other in (write(tmp_path / "b.h5", [1, 2, 3]), write(tmp_path / "c.h5", [1, 2], name="b")):
        with pytest.raises(SystemExit, match="hold other weights"):
            run(monkeypatch, a, other, tmp_path / "mean.h5")
    with pytest.raises(SystemExit):
        run(monkeypatch, a, tmp_path / "mean.h5")
    assert not (tmp_path / "mean.h5").exists()

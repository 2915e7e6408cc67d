"""HDF5 files on disks that fail: an error of Python's, the old file, and nothing else."""

import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from mrcnn.core import hdf5
from tests.helpers import ROOT


def write(path, arrays, sync=False):
    with hdf5.writing(path, sync) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


def test_a_file_comes_back(tmp_path):
    arrays = {"a/b": np.arange(100_000.0).reshape(100, -1), "c": np.zeros((0, 3)), "d": np.array(7)}
    write(tmp_path / "a.h5", {"x": np.zeros(3)})
    write(tmp_path / "a.h5", arrays, sync=True)
    with h5py.File(tmp_path / "a.h5") as file:
        assert set(file) == {"a", "c", "d"}
        for name, array in arrays.items():
            assert file[name].dtype == array.dtype
            np.testing.assert_array_equal(file[name][()], array)
    assert os.listdir(tmp_path) == ["a.h5"]


# Files of several shapes, each with every limit of size around what libhdf5 writes last, while it
# closes the file: there an error would end the process.
FULL = """
import os, resource, sys
import numpy as np
from mrcnn.core import hdf5

path = sys.argv[1]
with open(path, "wb") as old:
    old.write(b"old")
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
for count, size in ((1, 200_000), (40, 5000), (400, 500)):
    with hdf5.writing(path + "_whole") as file:
        for i in range(count):
            file.create_dataset(f"x/{i}", data=np.zeros(size // 8))
    whole = os.path.getsize(path + "_whole")
    for room in (1, 2000, whole // 2, *range(whole - 30_000, whole, 3000), whole - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
        try:
            with hdf5.writing(path, sync=True) as file:
                for i in range(count):
                    file.create_dataset(f"x/{i}", data=np.zeros(size // 8))
        except OSError as error:
            print(error.errno, error.filename)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""


def test_a_disk_that_fills_up_is_an_error_and_not_the_end_of_the_process(tmp_path):
    path = tmp_path / "a.h5"
    command = [sys.executable, "-c", FULL, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{errno.EFBIG} {path}"] * 42
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "a.h5_whole"]


def test_what_goes_wrong_in_the_block_leaves_the_old_file(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"old")
    with pytest.raises(KeyError), hdf5.writing(tmp_path / "a.h5") as file:
        file.create_dataset("x", data=np.zeros(9))
        raise KeyError
    assert (tmp_path / "a.h5").read_bytes() == b"old" and os.listdir(tmp_path) == ["a.h5"]
    with pytest.raises(FileNotFoundError), hdf5.writing(tmp_path / "no" / "a.h5"):
        pass

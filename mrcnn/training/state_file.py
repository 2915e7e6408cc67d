"""What a checkpoint holds beside its weights: named arrays, and a dict of plain values as JSON."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mrcnn.core import hdf5

Arrays = dict[str, np.ndarray]


class StateError(ValueError):
    """The file is none of `write_state`."""


def write_state(path: Path, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
    """Writes a state; TypeError if `info` is nothing for JSON, OSError if the disk fails."""
    with hdf5.writing(path, sync=True) as file:
        # Of fixed length: libhdf5 may hang where the store of variable ones is damaged.
        file.attrs["info"] = np.bytes_(json.dumps(info).encode())
        for name, array in arrays.items():
            file.create_dataset(name, data=np.asarray(array))


def read_state(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the dict of a state.

    Raises:
        StateError: if it is damaged, or holds anything but plain arrays of numbers.
    """
    arrays: Arrays = {}

    def read(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = _plain(name, item)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(read)  # follows no links to other files
            info = json.loads(file.attrs["info"])
    except StateError:
        raise
    except Exception as error:  # libhdf5 and h5py raise all kinds for damaged files
        raise StateError(str(error)[:200] or type(error).__name__) from error
    if not isinstance(info, dict):
        raise StateError(f"its info is a {type(info).__name__}")
    return arrays, info


def _plain(name: str, item: h5py.Dataset) -> np.ndarray:
    """The values of a dataset, all of which lie in this file as they are."""
    settings = item.id.get_create_plist()
    is_here = settings.get_layout() == h5py.h5d.CONTIGUOUS and not settings.get_external_count()
    if not is_here or item.shape is None or item.dtype.kind not in "biuf":
        raise StateError(f"{name} is no plain array of numbers")
    if item.id.get_storage_size() != item.size * item.dtype.itemsize:
        raise StateError(f"{name} claims more values than it stores")
    return np.asarray(item[()])


def layout(arrays: Mapping[str, Any]) -> str:
    """A text that is the same for arrays of the same names, dtypes and shapes only."""
    parts = [(name, np.asarray(a).dtype.str, np.shape(a)) for name, a in arrays.items()]
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()

"""What a training leaves on disk so that it can go on: weights, the rest of its state, a list.

    mask_rcnn_<name>_0012.h5         weights after epoch 12, as matterport's programs read them
    mask_rcnn_<name>_0012.state.h5   optimizer, schedule and the like
    interrupted.h5, ...state.h5      the same in the middle of an epoch, until it ends
    best.h5                          the weights of the best epoch, another name of the same file
    checkpoints.json                 the list, with a checksum of each file

Files get their names when they are complete, the list is written last, and checksums are
compared before anything is loaded: whatever happens, the newest whole checkpoint is found.
"""

import hashlib
import json
import os
import shutil
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import orjson

from mrcnn.files import replacing, write_atomically
from mrcnn.runs import checkpoint_path

LIST = "checkpoints.json"
BEST = "best.h5"
INTERRUPTED = "interrupted.h5"


class CheckpointError(ValueError):
    """No checkpoint of a run can be used; the message says why."""


@dataclass
class Saved:
    """A checkpoint that was found whole.

    Attributes:
        weights: Path of the weights file.
        info: dict, what was given to `Checkpoints.save`.
        arrays: dict of name -> array.
    """

    weights: Path
    info: dict
    arrays: dict


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
        folder: str or Path.
        name: of the configuration.
        keep: the newest so many are kept, besides the best.
    """

    def __init__(self, folder, name, keep=3):
        if keep < 1:
            raise ValueError(f"got keep={keep}; keep 1 checkpoint or more")
        self.folder, self.name, self.keep = Path(folder), name, keep

    def save(self, write_weights, arrays, info, best=False):
        """Writes a checkpoint, then removes what isn't needed any more.

        Args:
            write_weights: f(path) that writes the weights file, atomically.
            arrays: dict of name -> array.
            info: dict that JSON can hold; "epoch" is the number of whole epochs done and "step"
                that of steps in the next one.
            best: whether this is the best epoch so far.
        """
        whole = not info["step"]
        path = self.folder / INTERRUPTED
        if whole:
            path = checkpoint_path(self.folder, self.name, info["epoch"])
        state = path.with_suffix(".state.h5")
        write_weights(path)
        _write_state(state, arrays, info)
        if best:
            _link(path, self.folder / BEST)
        entries = [e for e in self._entries() if e["weights"] != path.name]
        if whole:  # what came after, in a run that went on from an older checkpoint, is void
            entries = [e for e in entries if e["epoch"] < info["epoch"] and not e["step"]]
        entry = {"epoch": info["epoch"], "step": info["step"], "weights": path.name}
        entry["state"] = state.name
        entry["sha256"] = {p.name: _sha256(p) for p in (path, state)}
        entries = ([*entries, entry])[-self.keep - (not whole) :]
        write_atomically(self.folder / LIST, orjson.dumps(entries, option=orjson.OPT_INDENT_2))
        self._prune({name for e in entries for name in e["sha256"]})

    def restore(self):
        """The newest checkpoint that is whole; older ones are tried with a warning.

        Returns:
            `Saved`, or None if the folder has no list of checkpoints.

        Raises:
            CheckpointError: if there is a list, but no checkpoint on it is whole.
        """
        if not (self.folder / LIST).exists():
            return None
        entries = self._entries()
        for entry in reversed(entries):
            broken = self._broken(entry)
            if not broken:
                arrays, info = _read_state(self.folder / entry["state"])
                return Saved(self.folder / entry["weights"], info, arrays)
            warnings.warn(f"{broken}; the checkpoint before it is used", stacklevel=2)
        raise CheckpointError(
            f"no checkpoint in {self.folder} is whole; start anew, or from a weights file of "
            "another run with --weights FILE"
        )

    def _broken(self, entry):
        """What is wrong with a checkpoint; "" if nothing is."""
        for name, digest in entry["sha256"].items():
            path = self.folder / name
            if not path.is_file():
                return f"{path} is missing"
            if _sha256(path) != digest:
                return f"{path} is not what was written (cut short, or changed since)"
        return ""

    def _entries(self):
        try:
            return json.loads((self.folder / LIST).read_bytes())
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise CheckpointError(f"{self.folder / LIST} can't be read: {error}") from error

    def _prune(self, needed):
        stem = checkpoint_path("", self.name, 0).stem.removesuffix("0000")
        found = [*self.folder.glob(f"{stem}[0-9]*.h5"), *self.folder.glob("interrupted*.h5")]
        for path in found:
            if path.name not in needed:
                with suppress(OSError):
                    path.unlink()


def _write_state(path, arrays, info):
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["info"] = json.dumps(info)
        for name, array in arrays.items():
            file.create_dataset(name, data=np.asarray(array))


def _read_state(path):
    with h5py.File(path, "r") as file:
        arrays = {}
        file.visititems(
            lambda name, item: (
                arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
        return arrays, json.loads(file.attrs["info"])


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(path, other):
    """Gives a file a second name, or copies it where the file system knows no such thing."""
    temporary = other.with_name(f".{other.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, other)

"""What a training leaves on disk so that it can go on: weights, the rest of its state, a list.

    mask_rcnn_<name>_0012.h5         weights after epoch 12, as matterport's programs read them
    mask_rcnn_<name>_0012.state.h5   optimizer, schedule and the like
    interrupted.h5, ...state.h5      the same in the middle of an epoch, until it ends; at a
                                     second stop in that epoch interrupted2.h5, and so in turn
    best.h5                          the weights of the best epoch, another name of the same file
    checkpoints.json                 the list, with a checksum of each file

Files get their names when they are complete, the list is written last, and checksums are
compared before anything is loaded. What the list's newest entry names is not written over until
another one is newer; only a run that goes on from an older one does an epoch again, and then has
that one to fall back on. So whatever happens, a whole checkpoint is found.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np

from mrcnn.core.files import flush, replacing, write_atomically
from mrcnn.training.run_folders import checkpoint_path

LIST = "checkpoints.json"
BEST = "best.h5"
INTERRUPTED = ("interrupted.h5", "interrupted2.h5")


class CheckpointError(ValueError):
    """No checkpoint of a run can be used; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole: the weights file, and what `Checkpoints.save` took."""

    weights: Path
    info: dict[str, Any]
    arrays: dict[str, np.ndarray]


class _Entry(msgspec.Struct):
    """A checkpoint on the list; sha256: of both files, by their names."""

    epoch: int
    step: int
    weights: str
    state: str
    sha256: dict[str, str]


class Checkpoints:
    """The checkpoints of the run folder of a configuration `name`.

    The newest `keep` of them stay, and the best.
    """

    def __init__(self, folder: str | Path, name: str, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"got keep={keep}; keep 1 checkpoint or more")
        self.folder, self.name, self.keep = Path(folder), name, keep

    @property
    def is_empty(self) -> bool:
        """Whether no checkpoint was written yet."""
        return not (self.folder / LIST).exists()

    def save(
        self,
        write_weights: Callable[[Path], object],
        arrays: Mapping[str, np.ndarray],
        info: Mapping[str, Any],
        best: bool = False,
    ) -> None:
        """Writes a checkpoint, then removes what isn't needed any more.

        What a process that was killed while saving left behind is removed too; files of others
        stay.

        Args:
            write_weights: writes the weights file, atomically.
            info: as JSON; "epoch" is the number of whole epochs done and "step" that of steps in
                the next one.
            best: whether this is the best epoch so far.
        """
        whole = not info["step"]
        entries = self._entries_to_add_to()
        path = self._path(info["epoch"], whole, entries)
        state = path.with_suffix(".state.h5")
        # The state comes first: weights of ours always have one beside them, see `_prune`.
        _write_state(state, arrays, info)
        write_weights(path)
        flush(path)
        digests = {p.name: _sha256(p) for p in (path, state)}
        entry = _Entry(info["epoch"], info["step"], path.name, state.name, digests)
        entries = [e for e in entries if not e.step]
        if whole:  # what came after, in a run that went on from an older checkpoint, is void
            entries = [e for e in entries if e.epoch < entry.epoch]
        entries = [*entries, entry][-self.keep - (not whole) :]
        if best:
            _link(path, self.folder / BEST)
        content = msgspec.json.format(msgspec.json.encode(entries), indent=2)
        write_atomically(self.folder / LIST, content, sync=True)
        self._prune({name for e in entries for name in (e.weights, e.state)})

    def _path(self, epoch: int, whole: bool, entries: list[_Entry]) -> Path:
        """The weights file to write: in the middle of an epoch one that isn't on the list."""
        if whole:
            return checkpoint_path(self.folder, self.name, epoch)
        used = {e.weights for e in entries}
        return self.folder / next(name for name in INTERRUPTED if name not in used)

    def restore(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; older ones are tried with a warning.

        None if the folder has no list of checkpoints.

        Raises:
            CheckpointError: if the list can't be read, or no checkpoint on it is whole.
        """
        if self.is_empty:
            return None
        problems: list[str] = []
        for entry in reversed(self._entries()):
            problem = self._problem(entry)
            if not problem:
                for text in problems:
                    warnings.warn(f"{text}; the checkpoint before it is used", stacklevel=2)
                arrays, info = _read_state(self.folder / entry.state)
                return Checkpoint(self.folder / entry.weights, info, arrays)
            problems.append(problem)
        raise CheckpointError(
            f"no checkpoint in {self.folder} is whole ({'; '.join(problems) or 'none is listed'}); "
            "start anew, or from a weights file with --weights FILE"
        )

    def _problem(self, entry: _Entry) -> str:
        """What is wrong with a checkpoint; "" if nothing is."""
        for name in (entry.weights, entry.state):
            path = self.folder / name
            try:
                if _sha256(path) != entry.sha256.get(name):
                    return f"{path} is not what was written (cut short, or changed since)"
            except FileNotFoundError:
                return f"{path} is missing"
            except OSError as error:
                return f"{path} can't be read ({error})"
        return ""

    def _entries(self) -> list[_Entry]:
        path = self.folder / LIST
        try:
            return msgspec.json.decode(path.read_bytes(), type=list[_Entry])
        except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
            raise CheckpointError(
                f"{path} can't be read ({error}); start a new run from the newest weights file "
                "beside it with --weights FILE"
            ) from error

    def _entries_to_add_to(self) -> list[_Entry]:
        """The list. A broken one is started anew: it must not end a run that did an epoch."""
        if self.is_empty:
            return []
        try:
            return self._entries()
        except CheckpointError:
            warnings.warn(f"{self.folder / LIST} can't be read; it starts anew", stacklevel=3)
            return []

    def _prune(self, needed: set[str]) -> None:
        """Removes checkpoints and halves of them that this class wrote, but for those needed.

        Weights without a state beside them are somebody else's, whatever their name.
        """
        stem = re.escape(checkpoint_path("", self.name, 0).stem.removesuffix("0000"))
        ours = rf"({stem}\d{{4,}}|interrupted2?)"
        state = re.compile(rf"{ours}\.state\.h5")
        half = re.compile(rf"\.({ours}(\.state)?\.h5|{BEST}|{LIST})\.\w+\.tmp")
        for name in os.listdir(self.folder):
            if half.fullmatch(name):
                _remove(self.folder / name)
            elif (found := state.fullmatch(name)) and name not in needed:
                # The state goes last: where the process ends in between, it is found again.
                _remove(self.folder / f"{found.group(1)}.h5")
                _remove(self.folder / name)


def _write_state(path: Path, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
    with replacing(path, sync=True) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["info"] = json.dumps(info)
        for name, array in arrays.items():
            file.create_dataset(name, data=np.asarray(array))


def _read_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays: dict[str, np.ndarray] = {}

    def read(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(read)
        return arrays, json.loads(file.attrs["info"])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(path: Path, other: Path) -> None:
    """Gives a file a second name, or copies it where the file system knows no such thing."""
    temporary = other.with_name(f".{other.name}.link.tmp")
    _remove(temporary)
    try:
        os.link(path, temporary)
    except OSError:
        with replacing(other, sync=True) as copy:
            shutil.copyfile(path, copy)
    else:
        os.replace(temporary, other)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()

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

Weights without a state beside them, folders, links and the like are somebody else's, whatever
their name: they stay, and the checkpoint gets another one, such as mask_rcnn_<name>_0012.2.h5.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from mrcnn.core.files import flush, replacing, write_atomically
from mrcnn.training.run_folders import checkpoint_path
from mrcnn.training.state_file import StateError, layout, read_state, write_state

LIST = "checkpoints.json"
BEST = "best.h5"
INTERRUPTED = ("interrupted", "interrupted2")
# Epochs and steps; the limit is one that no training reaches and every integer holds.
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class CheckpointError(ValueError):
    """No checkpoint of a run can be used; the message says why."""


class SaveError(OSError):
    """A checkpoint can't be written; the message says why, and those before it stay."""


class _NotWhole(Exception):
    """A checkpoint can't be used; the message says why."""


class Place(msgspec.Struct):
    """What the info of any checkpoint says."""

    epoch: Count
    step: Count


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole: the weights file, and what `Checkpoints.save` took."""

    weights: Path
    info: dict[str, Any]
    arrays: dict[str, np.ndarray]


class _Entry(msgspec.Struct):
    """A checkpoint on the list.

    sha256: of both files, by their names; layout: of the state's arrays, "" in lists of older
    versions.
    """

    epoch: Count
    step: Count
    weights: str
    state: str
    sha256: dict[str, str]
    layout: str = ""

    @property
    def is_plausible(self) -> bool:
        """Whether it names what `Checkpoints` of any run may write, in the list's own folder."""
        stem = r"interrupted2?" if self.step else rf"mask_rcnn_[^/\\\0]+_{self.epoch:04d}"
        is_ours = re.fullmatch(rf"{stem}(\.\d+)?\.h5", self.weights)
        return bool(is_ours) and self.state == _state_of(Path(self.weights)).name


class Checkpoints:
    """The checkpoints of the run folder of a configuration `name`.

    The newest `keep` of them stay, and the best. `schema` is what the info of a whole one must
    satisfy, fields of `Place` among it.
    """

    def __init__(
        self, folder: str | Path, name: str, keep: int = 3, schema: type[Any] = Place
    ) -> None:
        if keep < 1:
            raise ValueError(f"got keep={keep}; keep 1 checkpoint or more")
        self.folder, self.name, self.keep, self.schema = Path(folder), name, keep, schema

    @property
    def is_empty(self) -> bool:
        """Whether no checkpoint was written yet."""
        return not os.path.lexists(self.folder / LIST)

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

        Raises:
            SaveError: if it can't be written; those before it stay.
        """
        try:
            self._save(write_weights, arrays, info, best)
        except OSError as error:
            with suppress(OSError, CheckpointError):  # the half that was written takes room
                self._prune({name for e in self._entries() for name in (e.weights, e.state)})
            raise SaveError(
                f"the checkpoint after epoch {info['epoch']}, step {info['step']} can't be written "
                f"({error}); those before it in {self.folder} stay: free some space, or let the "
                "folder be written to, and continue from the last one"
            ) from error

    def _save(
        self,
        write_weights: Callable[[Path], object],
        arrays: Mapping[str, np.ndarray],
        info: Mapping[str, Any],
        best: bool,
    ) -> None:
        whole = not info["step"]
        entries = self._entries_to_add_to()
        path = self._path(info["epoch"], whole, entries)
        state = _state_of(path)
        # The state comes first: weights of ours always have one beside them, see `_is_free`.
        write_state(state, arrays, info)
        write_weights(path)
        flush(path)
        digests = {p.name: _sha256(p) for p in (path, state)}
        names = path.name, state.name
        entry = _Entry(info["epoch"], info["step"], *names, digests, layout(arrays))
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
        stems = [checkpoint_path("", self.name, epoch).stem] if whole else INTERRUPTED
        digests = {e.weights: e.sha256.get(e.weights) for e in entries}
        names = (f"{stem}{'' if n == 1 else f'.{n}'}.h5" for n in count(1) for stem in stems)
        for name in names:
            path = self.folder / name
            if not whole and name in digests:
                continue
            if self._is_free(path, digests.get(name)):
                return path
            warnings.warn(f"{path} is not of this run; it stays as it is", stacklevel=4)
        raise AssertionError("names don't end")

    def _is_free(self, weights: Path, digest: str | None) -> bool:
        """Whether a checkpoint may be written there: nothing of others has one of its names.

        digest: of the weights that the list names; they are ours without a state too.
        """
        state = _state_of(weights)
        if not all(_is_file(p) or not os.path.lexists(p) for p in (weights, state)):
            return False
        if not weights.exists() or state.exists():
            return True
        return digest is not None and _sha256(weights) == digest

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
            try:
                found = self._load(entry)
            except _NotWhole as problem:
                problems.append(str(problem))
                continue
            for text in problems:
                warnings.warn(f"{text}; the checkpoint before it is used", stacklevel=2)
            return found
        raise CheckpointError(
            f"no checkpoint in {self.folder} is whole ({'; '.join(problems) or 'none is listed'}); "
            "start anew, or from a weights file with --weights FILE"
        )

    def _load(self, entry: _Entry) -> Checkpoint:
        if not entry.is_plausible:
            raise _NotWhole(
                f"{self.folder / LIST} names {entry.weights!a} and {entry.state!a}, which no run "
                f"writes after epoch {entry.epoch}, step {entry.step}"
            )
        weights, state = self.folder / entry.weights, self.folder / entry.state
        for path in (weights, state):
            try:
                digest = _sha256(path)
            except FileNotFoundError:
                raise _NotWhole(f"{path} is missing") from None
            except OSError as error:
                raise _NotWhole(f"{path} can't be read ({error})") from error
            if digest != entry.sha256.get(path.name):
                raise _NotWhole(f"{path} is not what was written (cut short, or changed since)")
        try:
            arrays, info = read_state(state)
            msgspec.convert(info, self.schema)
            place = msgspec.convert(info, Place)
        except (StateError, msgspec.ValidationError) as error:
            raise _NotWhole(f"{state} holds no state of a training ({error})") from error
        if (place.epoch, place.step) != (entry.epoch, entry.step):
            raise _NotWhole(f"{state} is of another epoch or step than {LIST} says")
        if entry.layout and layout(arrays) != entry.layout:
            raise _NotWhole(f"{state} lacks arrays that were written, or has others")
        return Checkpoint(weights, info, arrays)

    def _entries(self) -> list[_Entry]:
        path = self.folder / LIST
        try:
            with _open(path) as file:
                return msgspec.json.decode(file.read(), type=list[_Entry])
        except (OSError, UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
            raise CheckpointError(
                f"{path} can't be read ({error}); start a new run from the newest weights file "
                "beside it with --weights FILE"
            ) from error

    def _entries_to_add_to(self) -> list[_Entry]:
        """The list. A broken one is started anew: it must not end a run that did an epoch."""
        if self.is_empty:
            return []
        if not _is_file(self.folder / LIST):
            raise FileExistsError(errno.EEXIST, "it is no regular file", str(self.folder / LIST))
        try:
            return [entry for entry in self._entries() if entry.is_plausible]
        except CheckpointError:
            warnings.warn(f"{self.folder / LIST} can't be read; it starts anew", stacklevel=3)
            return []

    def _prune(self, needed: set[str]) -> None:
        """Removes checkpoints and halves of them that this class wrote, but for those needed."""
        stem = re.escape(checkpoint_path("", self.name, 0).stem.removesuffix("0000"))
        ours = rf"((?:{stem}\d{{4,}}|interrupted2?)(?:\.\d+)?)"
        state = re.compile(rf"{ours}\.state\.h5")
        half = re.compile(rf"\.({ours}(\.state)?\.h5|{BEST}|{LIST})\.\w+\.tmp")
        for name in os.listdir(self.folder):
            if half.fullmatch(name):
                _remove(self.folder / name)
            elif (found := state.fullmatch(name)) and name not in needed:
                # The state goes last: where the process ends in between, it is found again.
                _remove(self.folder / f"{found.group(1)}.h5")
                _remove(self.folder / name)


def _state_of(weights: Path) -> Path:
    return weights.with_suffix(".state.h5")


def _is_file(path: Path) -> bool:
    """Whether there is a regular file: no folder, link, pipe or the like."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _open(path: Path) -> BufferedReader:
    """Opens a regular file; a pipe would be waited for without end.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it is another kind of file, or can't be read.
    """
    if os.path.lexists(path) and not _is_file(path):
        raise OSError("it is no regular file")
    return open(path, "rb")


def _sha256(path: Path) -> str:
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(path: Path, other: Path) -> None:
    """Gives a file a second name, or copies it where the file system knows no such thing."""
    if os.path.lexists(other) and not _is_file(other):
        warnings.warn(f"{other} is not of this run; it stays as it is", stacklevel=4)
        return
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
    if _is_file(path):
        with suppress(OSError):
            path.unlink()

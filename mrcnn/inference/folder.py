"""The output folder: locked while a run works in it, and nobody else's file in it is touched.

A file that exists is replaced or removed only if the folder's notes say that this program wrote it
and it hasn't changed since. Records are for this program alone: the notes need only name them.
"""

import errno
import hashlib
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import TracebackType

from mrcnn.core.files import PathLike, replacing, write_atomically
from mrcnn.inference.names import LOCK, NOTES, RESERVED
from mrcnn.inference.notes import FORMAT, PROGRAM, Notes, Run, State

# What concerns the whole disk, not one file.
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# What `replacing` leaves of our files when a run is killed.
_LEFTOVER = re.compile(r"\..+\.(?:png|jpg|json|jsonl|csv|html|mp4)\.[a-z0-9_]{8}\.tmp", re.DOTALL)


class OutputError(OSError):
    """The output folder, or one file in it, can't be written to; the message says why."""


class OutputLost(OutputError):
    """Nothing more can be written: the folder is gone, or its disk full or read-only."""


class OutputFolder:
    """A folder that a run writes into; it is a context, which holds the folder's lock.

    The folder is made if it is missing, and its leftovers of runs that were killed are removed.

    Attributes:
        path: of the folder.
        notes: of what was written into it.
        kept: names of outdated files of ours that were kept, as somebody has changed them.

    Raises:
        OutputError: if it can't be made, written to or locked.
    """

    def __init__(self, path: PathLike) -> None:
        if not os.fspath(path):
            raise OutputError("the output folder's name is empty; give a folder")
        self.path = Path(path)
        self.notes = Notes()
        self.kept: set[str] = set()

    def __enter__(self) -> "OutputFolder":
        places = (self.path / "records", self.path, *self.path.parents)
        made = [place for place in places if not os.path.lexists(place)]
        with ExitStack() as stack:
            stack.callback(_remove_empty, made)
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock_and_read(stack, is_new=places[0] in made)
            except OutputError:
                raise
            except (OSError, ValueError) as error:  # ValueError: no folder can have this name
                raise OutputError(
                    f"can't write to the output folder {self.path}: {_why(self.path, error)}; "
                    "choose another output folder"
                ) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _lock_and_read(self, stack: ExitStack, is_new: bool) -> None:
        from filelock import FileLock, Timeout

        (self.path / "records").mkdir(exist_ok=True)
        if (self.path / "records").is_symlink():
            raise OSError(errno.EEXIST, "records/ in it is a link")
        known = Notes.read(self.path)
        if not known.run:
            self._refuse_content(LOCK)
        try:
            stack.enter_context(FileLock(self.path / LOCK).acquire(blocking=False))
        except Timeout:
            raise OutputError(
                f"the output folder {self.path} is in use{_by(known.run)}; wait for its end, or "
                "choose another output folder"
            ) from None
        if is_new:
            stack.callback(self._remove_notes_of_nothing)
        self.notes = Notes.read(self.path)
        if self.notes.run:
            self._clean()
        else:
            self._refuse_content(NOTES)
        stack.callback(self._close)
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        self.notes.open(self.path, Run(PROGRAM, FORMAT, os.getpid(), socket.gethostname(), now))

    def _refuse_content(self, name: str) -> None:
        """Refuses a file with content; what is empty may be what a killed run began with."""
        with suppress(FileNotFoundError):
            status = os.lstat(self.path / name)
            if status.st_size or not stat.S_ISREG(status.st_mode):
                raise OutputError(_foreign(name))

    def _close(self) -> None:
        with suppress(OSError):  # full or gone; the old notes still hold
            self.notes.close(self.path, tidy=self.is_there())

    def _remove_notes_of_nothing(self) -> None:
        """Takes away the traces of a run that ended before it wrote anything."""
        if not [*self.notes]:
            with suppress(OSError):
                for name in (NOTES, LOCK):
                    (self.path / name).unlink(missing_ok=True)

    # --- What is there --------------------------------------------------------------------------

    def is_there(self) -> bool:
        """Whether it is still the folder that the run began with."""
        try:
            return os.path.samestat(os.lstat(self.path / NOTES), os.fstat(self.notes.handle))
        except OSError:
            return False

    @property
    def is_case_blind(self) -> bool:
        """Whether the file system takes "records" and "RECORDS" for the same."""
        return (self.path / "RECORDS").exists()

    def has(self, name: str) -> bool:
        """Whether a file of ours is there with the size that it was written with."""
        try:
            status = os.lstat(self.path / name)
        except (OSError, ValueError):
            return False
        sizes = {size for size, _ in self.notes.states(name)}
        return stat.S_ISREG(status.st_mode) and status.st_size in sizes

    def require(self, names: Iterable[str], quick: bool = False) -> None:
        """Raises OutputError if a file of one of these names is there and not ours.

        Args:
            quick: don't look into files whose names are noted.
        """
        for name in names:
            if not (quick and name in self.notes):
                self._check(name)

    # --- Writing and removing -------------------------------------------------------------------

    def write(self, name: str, content: bytes) -> None:
        """Writes a file whole; folders above it are made.

        Raises:
            OutputError: if somebody else's file is in the way, or it can't be written.
        """
        state = len(content), hashlib.sha256(content).hexdigest()
        with self._writing(name):
            path = self._place(name)
            if self._check(name, state):
                self.notes.add(name, state)
                write_atomically(path, content)
            else:
                self.notes.add(name, state)
            self.notes.settle(name, state)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """As `core.files.replacing`, for content that isn't in memory; errors as of `write`."""
        states: list[State] = []

        def finished(temporary: Path) -> None:
            states.append(_state(temporary))
            self._check(name)  # again: there was much time for others
            self.notes.add(name, states[0])

        with self._writing(str(self.path)):
            path = self._place(name)
            self._check(name)
            with replacing(path, finished=finished) as temporary:
                yield temporary
            self.notes.settle(name, states[0])

    def remove(self, name: str) -> None:
        """Removes a file if it is ours; one that has been changed is kept, and `kept` names it."""
        if name not in self.notes or not self.is_there():
            return
        with suppress(OSError, ValueError):  # ValueError: no file can have this name
            try:
                self._check(name)
            except OutputError:
                self.kept.add(name)
                return
            if self._is_inside(name):
                (self.path / name).unlink(missing_ok=True)
            self.notes.forget(name)

    def _check(self, name: str, new: State | None = None) -> bool:
        """Raises OutputError if another's file is in the way; False if it is as the new one."""
        path, known = self.path / name, self.notes.states(name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return True
        if not stat.S_ISREG(status.st_mode):
            raise OutputError(_foreign(name))
        # File systems may leave a file empty when the power fails.
        if known and (name.startswith("records/") or not status.st_size):
            return True
        possible = [*known, *([new] if new else [])]
        if status.st_size in {size for size, _ in possible}:
            state = _state(path)
            if state == new:
                return False
            if state in known:
                return True
        if known:
            raise OutputError(
                f"{name} in the output folder has been changed since it was written; move it away "
                "or choose another output folder"
            )
        raise OutputError(_foreign(name))

    def _place(self, name: str) -> Path:
        """The path of a file, whose folders are made; links aren't followed."""
        folder = self.path  # which is not made anew if it is gone
        for part in PurePosixPath(name).parts[:-1]:
            folder = folder / part
            with suppress(FileExistsError):
                folder.mkdir()
        if not self._is_inside(name):
            raise OutputError(
                f"{name} would leave the output folder, or a file or link is in the way of its "
                "folder; move that away or choose another output folder"
            )
        return self.path / name

    def _is_inside(self, name: str) -> bool:
        """Whether the folders above a file are there, within the output folder, and no links."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            return False
        try:
            above = [os.lstat(self.path / p) for p in path.parents if p != PurePosixPath()]
        except (OSError, ValueError):
            return False
        return all(stat.S_ISDIR(status.st_mode) for status in above)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Explains why something couldn't be written."""
        self._require_folder()
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            self._require_folder()
            text = f"{what} cannot be written to: {error.strerror or error}"
            if error.errno in _FATAL:
                raise OutputLost(f"{text}; make room or choose another output folder") from error
            raise OutputError(text) from error

    def _require_folder(self) -> None:
        if not self.is_there():
            raise OutputLost(
                f"the output folder {self.path} was deleted, moved or replaced during the run"
            )

    def _clean(self) -> None:
        """Removes half-written files of runs that were killed, wherever our files lie."""
        folders = {name.rpartition("/")[0] or "." for name in self.notes}
        records = self.path / "records"
        for root, *_ in os.walk(records):
            inner = Path(root).relative_to(records).as_posix()
            folders |= {inner, *(f"{kind}/{inner}" for kind in RESERVED)}
        for folder in folders:
            if not self._is_inside(f"{folder}/file"):
                continue
            with suppress(OSError), os.scandir(self.path / folder) as entries:
                for entry in entries:
                    if _LEFTOVER.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        os.unlink(entry)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders, inner ones first, up to one that isn't empty."""
    with suppress(OSError, ValueError):  # ValueError: no folder can have this name
        for folder in folders:
            folder.rmdir()


def _state(path: Path) -> State:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return os.fstat(file.fileno()).st_size, digest


def _foreign(name: str) -> str:
    return (
        f"{name} in the output folder was not written by this program, or by an earlier version, "
        "which took no notes; move it away or choose another output folder"
    )


def _by(run: Run | None) -> str:
    return f" by process {run.pid} on {run.host} since {run.since}" if run else ""


def _why(folder: Path, error: Exception) -> str:
    """Why a folder can't be made or used."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        for path in (folder / "records", folder, *folder.parents):
            if os.path.lexists(path) and not path.is_dir():
                return f"{path} is {'a link to nothing' if path.is_symlink() else 'no folder'}"
    return getattr(error, "strerror", None) or str(error)

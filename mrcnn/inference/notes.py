"""Notes of the files that this program wrote into an output folder, by which it knows its own.

They lie in `records/`, and a folder that has them is an output folder. A file's size and SHA-256
are noted before it gets its name, so that a run that is cut off leaves no file that isn't noted.
"""

import errno
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from mrcnn.core.files import read_regular, write_atomically
from mrcnn.inference.names import NOTES, link, on_disk, output_of

PROGRAM, FORMAT = "mask-rcnn-clothing", 1
MOST_BYTES = 2**28  # of notes: two million files


class Run(msgspec.Struct, tag="run"):
    """The process that works, or was the last to work, in the folder."""

    program: str
    format: int
    pid: int
    host: str
    since: str


class Note(msgspec.Struct, tag="file"):
    """A file as it was written: `link` of its name, bytes, SHA-256 in hexadecimal."""

    file: str
    size: int
    sha256: str


State = tuple[int, str]  # size and SHA-256, as in `Note`
_DECODER = msgspec.json.Decoder(Run | Note)


class Notes:
    """The notes of a folder.

    A file may have two states where a run was cut off: what was to be replaced, and what was to
    take its place.

    Attributes:
        run: whose notes they are; None if there are none.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self._states: dict[str, list[State]] = {}
        self._of_output: dict[str, set[str]] = defaultdict(set)
        self._lines = 0
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    @classmethod
    def read(cls, folder: Path) -> "Notes":
        """The notes of a folder. What is damaged in them is left out."""
        notes = cls()
        try:
            lines = read_regular(folder / NOTES, MOST_BYTES, links=False).split(b"\n")
        except (OSError, ValueError):
            return notes
        for line in filter(None, lines):
            notes._lines += 1
            try:
                entry = _DECODER.decode(line)
                name = on_disk(entry.file) if isinstance(entry, Note) else ""
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, Note):
                notes._add(name, (entry.size, entry.sha256))
            elif (entry.program, entry.format) == (PROGRAM, FORMAT):
                notes.run = entry
        return notes if notes.run else cls()

    def __contains__(self, name: str) -> bool:
        return name in self._states

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def states(self, name: str) -> Sequence[State]:
        """What a file of this name is if it is ours."""
        return self._states.get(name, ())

    def of_image(self, output: str) -> set[str]:
        """The results of an image, its record aside."""
        return set(self._of_output.get(output, ()))

    # --- Taking notes, for the process that has the folder's lock ---------------------------------

    def open(self, folder: Path, run: Run) -> None:
        """Begins to take notes."""
        self.run = run
        self._file = open(folder / NOTES, "ab", buffering=0)  # noqa: SIM115
        self._append(run)

    @property
    def handle(self) -> int:
        """The file descriptor of the notes that are being taken, or -1."""
        return self._file.fileno() if self._file else -1

    def add(self, name: str, state: State) -> None:
        """Notes a file that is about to get its name."""
        with self._lock:
            if state not in self.states(name):
                self._append(Note(link(name), *state))
            self._add(name, state)

    def settle(self, name: str, state: State) -> None:
        """Drops the other states of a file that got its name."""
        with self._lock:
            self._states[name] = [state]

    def forget(self, name: str) -> None:
        """Drops a file that is gone."""
        with self._lock:
            self._states.pop(name, None)
            self._of_output[output_of(name) or ""].discard(name)

    def close(self, folder: Path, tidy: bool = True) -> None:
        """Ends; tidy: rewrites the notes if most of them are outdated."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        entries: list[Run | Note] = [self.run] if self.run else []
        entries += [Note(link(n), *state) for n, states in self._states.items() for state in states]
        if tidy and self._lines > 2 * len(entries):
            write_atomically(folder / NOTES, b"\n".join(map(msgspec.json.encode, entries)))

    def _add(self, name: str, state: State) -> None:
        states = self._states.setdefault(name, [])
        if state not in states:
            states.append(state)
        if output := output_of(name):
            self._of_output[output].add(name)

    def _append(self, entry: Run | Note) -> None:
        assert self._file is not None
        # The line end comes first: it also ends what a full disk may have cut off.
        line = b"\n" * bool(self._lines) + msgspec.json.encode(entry)
        self._lines += 1
        if self._file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

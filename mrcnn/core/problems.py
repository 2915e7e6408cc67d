"""What is wrong with data: findings, each with its place, as rows of a table."""

import contextlib
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mrcnn.core.text import csv_lines

# Findings of one file that are listed: a hostile one has a million.
MOST = 1000


class Problem(NamedTuple):
    """A finding."""

    file: str
    item: str
    kind: str
    detail: str
    action: str  # what was done about it


class Unusable(ValueError):
    """An image, an item or a part of one that can't be converted."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


class Place:
    """Where in a data set problems are found, so that a finding names its file and item."""

    def __init__(self, problems: list[Problem], file: str) -> None:
        self.problems, self.file, self.item = problems, file, ""
        self.room = MOST

    def note(self, kind: str, detail: str, action: str) -> None:
        if self.room > 0:
            self.problems.append(Problem(self.file, self.item, kind, detail, action))
        elif self.room == 0:
            detail = f"the first {MOST} are listed"
            self.problems.append(Problem(self.file, "", "more problems", detail, "not listed"))
        self.room -= 1

    def note_error(self, error: Unusable, action: str) -> None:
        self.note(error.kind, error.detail, action)

    @contextlib.contextmanager
    def skipping(self, action: str) -> Iterator[None]:
        """Within, what is unusable becomes a finding."""
        try:
            yield
        except Unusable as error:
            self.note_error(error, action)


HEAD = b"file,item,problem,action\r\n"


def as_csv(problems: Iterable[Problem]) -> bytes:
    """Rows of a table of problems, whose first line is `HEAD`."""
    return csv_lines((p.file, p.item, f"{p.kind}: {p.detail}", p.action) for p in problems)


def shown(value: Any) -> str:
    """A value as in Python source, cut: one from a stranger's file may be a long or deep one."""
    return reprlib.repr(value)

"""Text from strangers, such as file names, made safe for terminals, spreadsheets and UTF-8."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable

# What spreadsheets take for the beginning of a formula, with its full-width forms; a tab or line
# end may make them start another cell. Blanks before it don't help, they may be cut off.
_FORMULA = re.compile(r"['\s]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def writable(text: str) -> str:
    """Text without the stand-ins for bytes that aren't UTF-8, which file names may hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: object, lines: bool = False) -> str:
    """`str(text)` without what would command a terminal or reorder what it shows.

    Control and format characters (escapes, line ends, marks that reverse the direction, stand-ins
    for bytes that aren't UTF-8) become escapes such as \\x1b; letters and spaces of all
    languages stay.

    Args:
        lines: keep line ends, for a text of several lines.
    """
    return "".join(
        c if _is_shown(c) or (lines and c == "\n") else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def cut(text: object, most: int) -> str:
    """`printable(text)` of at most so many characters, the last one an ellipsis if more are there."""
    shown = printable(str(text)[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}\u2026"


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def csv_lines(rows: Iterable[Iterable[object]]) -> bytes:
    """Rows as lines of a CSV file in UTF-8, with no cell that a spreadsheet would compute.

    A text that begins like a formula gets an apostrophe: "=1+1.jpg" is written as "'=1+1.jpg".
    `from_cell` takes it away. Numbers stay as they are.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return writable(text.getvalue()).encode()


def from_cell(cell: str) -> str:
    """The text that `csv_lines` was given for a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value

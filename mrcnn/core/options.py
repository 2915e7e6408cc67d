"""Options of a command as fields of a frozen dataclass: declared once, with type, default and help.

`mrcnn.commands.arguments` makes the command line from them; programs fill in the fields.
"""

import argparse
import dataclasses
import math
import re
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)
LARGEST = 2**53  # of whole numbers that every reader of JSON reads as they are


def option(
    default: Any = dataclasses.MISSING, help: str = "", *flags: str, **arguments: Any
) -> Any:
    """A field of a dataclass of options.

    Args:
        default: value if the option isn't given; without one it is required.
        help: one line for --help. The default is added to it unless it is None, False or empty.
        *flags: further spellings, such as "--input".
        **arguments: of `argparse.ArgumentParser.add_argument`: type, choices, nargs, metavar,
            action; and `group`, the heading that it stands under. Type, action and metavar follow
            from the field's annotation where that is bool (a switch), bool | None (with a
            --no- form), int, float, str or Path, a tuple of these, or one of these or None.
    """
    metadata = {"help": help, "flags": flags, "arguments": arguments}
    return dataclasses.field(default=default, metadata=metadata)


def subset(options: Any, of: type) -> dict[str, Any]:
    """The values of the fields that the dataclass `of` has, by name: keywords for it."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(of)}


def changed(options: Any, of: type) -> list[str]:
    """Names of the fields of the dataclass `of` whose value isn't the default."""
    return [f.name for f in dataclasses.fields(of) if getattr(options, f.name) != f.default]


# --- Types that argparse checks -----------------------------------------------------------------


def positive(text: str) -> int:
    return _at_least(1, int(text))


def whole(text: str) -> int:
    return _at_least(0, int(text))


def factor(text: str) -> float:
    return _at_least(1, float(text))


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {value}; give 0 to 1")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"got {value}; give 0 or more, below 1")
    return value


def size(text: str) -> int | tuple[int, int]:
    """ "512", or "384x640" for another height than width."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}; give pixels, such as 512 or 384x640")
    height, width = found.groups()
    return (positive(height), positive(width)) if width else positive(height)


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _at_least(lowest: int, value: Number) -> Number:
    if not lowest <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {value}; give {lowest} or more")
    if value > LARGEST:
        raise argparse.ArgumentTypeError(f"got {value}; give {LARGEST} at most")
    return value

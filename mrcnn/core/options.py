"""Options of a command as fields of a frozen dataclass: declared once, with type, default and help.

`mrcnn.commands.arguments` makes the command line from them; programs fill in the fields.
"""

from dataclasses import MISSING, field
from typing import Any


def option(default: Any = MISSING, help: str = "", *flags: str, **arguments: Any) -> Any:
    """A field of a dataclass of options.

    Args:
        default: value if the option isn't given; without one it is required.
        help: one line for --help. The default is added to it unless it is None, False or empty.
        *flags: further spellings, such as "--input".
        **arguments: of `argparse.ArgumentParser.add_argument`: type, choices, nargs, metavar,
            action; and `group`, the heading that it stands under. The type follows from the
            field's annotation where that is bool, int, float, str or Path, or one of these or None.
    """
    return field(default=default, metadata={"help": help, "flags": flags, "arguments": arguments})

"""A dataclass of options (`mrcnn.core.options`) as a command line, and back."""

import argparse
import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Options = TypeVar("Options")

METAVARS = {int: "N", float: "X", str: None, Path: "PATH"}


class UsageError(Exception):
    """Ends a command with a message that says what to do instead of a traceback.

    Attributes:
        status: exit status of the command.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the program.

    Attributes:
        options: dataclass of what it takes; `run` gets one and returns the exit status.
        summary: one line.
        examples: what may follow the command's name, for --help.
        trains: whether it changes the weights of a network.
    """

    name: str
    options: type
    run: Callable[[Any], int]
    summary: str
    examples: tuple[str, ...]
    trains: bool = False

    def epilog(self, program: str) -> str:
        """The examples for --help."""
        call = f"python {program}" if program.endswith(".py") else program
        return "\n  ".join(["examples:", *(f"{call} {self.name} {e}" for e in self.examples)])


class Help(argparse.RawDescriptionHelpFormatter):
    """Adds defaults to the help, but not that nothing is given or a switch is off."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default in ("", (), argparse.SUPPRESS) or default is None or default is False:
            return action.help
        if isinstance(default, list | tuple):
            default = (" " if action.nargs else ",").join(map(str, default))
        return f"{action.help} (default: {default})"


def add_options(parser: argparse.ArgumentParser, options: type) -> None:
    """Adds an argument to a parser for each field that `option` made, in their order."""
    hints = typing.get_type_hints(options)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        if "flags" not in field.metadata:
            continue
        given = dict(field.metadata["arguments"])
        title = given.pop("group", None)
        if title and title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups.get(title, parser).add_argument(
            f"--{field.name}",
            *field.metadata["flags"],
            help=field.metadata["help"],
            **_completed(field, given, hints[field.name]),
        )


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Adds --debug, which every command has; see `mrcnn.commands.terminal`."""
    parser.add_argument(
        "--debug", action="store_true", help="print the traceback and versions with an error"
    )


def from_arguments(options: type[Options], arguments: argparse.Namespace) -> Options:
    """The dataclass filled from what was parsed; lists become tuples."""
    names = [field.name for field in dataclasses.fields(options)]  # type: ignore[arg-type]
    values = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    return options(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


def _completed(field: Any, given: dict[str, Any], hint: Any) -> dict[str, Any]:
    """`add_argument`'s keywords, completed by what default and annotation say."""
    if field.default is dataclasses.MISSING:
        given["required"] = True
    else:
        given["default"] = field.default
    if "action" in given:
        return given
    kinds = _kinds(hint)
    if bool in kinds:
        either = type(None) in kinds  # None: neither --name nor --no-name was given
        return given | {"action": argparse.BooleanOptionalAction if either else "store_true"}
    kind = next((kind for kind in kinds if kind in METAVARS), str)
    given.setdefault("type", _path if kind is Path else kind)
    if "choices" not in given:
        given.setdefault("metavar", METAVARS[kind])
    return given


def _path(text: str) -> Path:
    """A path of the command line; an empty one, of an unset variable say, is not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a path, or . for the current folder")
    return Path(text)


def _kinds(hint: Any) -> set[Any]:
    """The classes in an annotation such as tuple[Path, ...] | None."""
    inner = typing.get_args(hint)
    return set().union(*map(_kinds, inner)) if inner else {hint}

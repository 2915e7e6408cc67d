"""A dataclass of options (`mrcnn.core.options`) as a command line, and back."""

import argparse
import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

Options = TypeVar("Options")


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
        target = groups.get(title, parser)
        target.add_argument(
            f"--{field.name}",
            *field.metadata["flags"],
            help=field.metadata["help"],
            **_defaults(field, given, hints[field.name]),
        )


def from_arguments(options: type[Options], arguments: argparse.Namespace) -> Options:
    """The dataclass filled from what was parsed."""
    names = [f.name for f in dataclasses.fields(options)]  # type: ignore[arg-type]
    return options(**{name: getattr(arguments, name) for name in names if hasattr(arguments, name)})


def _defaults(field: Any, given: dict[str, Any], hint: Any) -> dict[str, Any]:
    """`add_argument`'s keywords, completed by what default and annotation say."""
    if field.default is dataclasses.MISSING:
        given["required"] = True
    else:
        given["default"] = field.default
    if hint is bool:
        given.setdefault("action", "store_true")
    elif "type" not in given and "action" not in given:
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        simple = next((kind for kind in kinds if kind in (int, float, str, Path)), None)
        if simple is not None:
            given["type"] = simple
    return given

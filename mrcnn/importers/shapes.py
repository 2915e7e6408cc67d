"""What JSON formats share: drawn shapes as polygons [x1, y1, x2, y2, ...], and decoding."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mrcnn.core.files import read_regular
from mrcnn.core.problems import Unusable

LARGEST_JSON = 2**28  # bytes
CORNERS = 72  # of a circle's polygon, which has 99.9 % of its area
# Strings, so that what is in them stays, and what isn't JSON.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"|-?\bInfinity\b|\bNaN\b', re.DOTALL)

Content = TypeVar("Content")
Point = tuple[float, float]


def joined(points: Iterable[Point]) -> list[float]:
    """The polygon of its points."""
    return [value for point in points for value in point]


def rectangle(corner: Point, opposite: Point) -> list[float]:
    """The polygon of two opposite corners."""
    (x1, y1), (x2, y2) = corner, opposite
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse(centre: Point, radii: Point, turn: float = 0.0) -> list[float]:
    """The polygon of an ellipse that is turned clockwise, in radians."""
    cos, sin = math.cos(turn), math.sin(turn)
    polygon = []
    for angle in (2 * math.pi * corner / CORNERS for corner in range(CORNERS)):
        u, v = radii[0] * math.cos(angle), radii[1] * math.sin(angle)
        polygon += [centre[0] + u * cos - v * sin, centre[1] + u * sin + v * cos]
    return polygon


def read_json(file: Path) -> bytes:
    """The text of a JSON file; NaN and Infinity, which some tools write, become null.

    Raises:
        Unusable: if it can't be read.
    """
    try:
        text = read_regular(file, LARGEST_JSON).removeprefix(b"\xef\xbb\xbf")
    except (OSError, ValueError) as error:
        raise Unusable("unreadable annotation", str(error)) from None
    if b"NaN" in text or b"Infinity" in text:
        return _TOKENS.sub(lambda token: token[0] if token[0][:1] == b'"' else b"null", text)
    return text


def decode(text: bytes | msgspec.Raw, kind: Any, problem: str) -> Any:
    """JSON as a value of the type `kind`.

    Raises:
        Unusable: a `problem`, if it isn't JSON or of another type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise Unusable(problem, str(error)) from None

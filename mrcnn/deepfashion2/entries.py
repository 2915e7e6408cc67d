"""Reads what a split holds of one image: the image's header and its annotation file.

All that can be wrong with either becomes `Unusable` here or is noted. What `read_annotation` gives
are dicts, lists, texts, True, False, None, finite or other floats, and whole numbers of 64 bits.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import orjson

from mrcnn.core.files import read_regular
from mrcnn.core.problems import Place, Unusable, shown
from mrcnn.core.reading import ImageError, image_header

ITEM = re.compile("item([0-9]{1,9})")
# The data set's largest file has 0.2 MB. As lists, a file takes some fifty times its size.
MOST_BYTES = 16_000_000
Record = dict[str, Any]  # an object of JSON


def image_size(path: Path, place: Place) -> tuple[int, int]:
    """(width, height) in stored pixels; reads the file's header only."""
    try:
        size, orientation = image_header(path)
    except ImageError as error:
        if os.path.lexists(path):
            raise Unusable("unreadable picture", str(error)) from None
        raise Unusable("missing picture", f"no {path.name} in image/") from None
    if orientation != 1:
        detail = f"its EXIF orientation is {orientation}, so viewers show it turned"
        place.note("turned picture", detail, "width, height and pixels used as stored")
    return size


def read_annotation(path: Path, place: Place) -> Record:
    """The content of an annotation file; notes items under a key that was there before."""
    text = _text(path)
    try:
        try:
            data = orjson.loads(text)
        except orjson.JSONDecodeError:
            # The slower parser takes NaN and Infinity, so that one such number costs a polygon or
            # a box and not the image.
            data = json.loads(text, parse_int=_whole)
        if not isinstance(data, dict):
            raise Unusable("broken JSON", f"holds a {type(data).__name__}, not an object")
        # Readers of JSON keep the last of equal keys and say nothing. Counting the quotes is
        # quick; only a count that doesn't fit is looked into.
        if text.count(b'"item') != sum(key.startswith("item") for key in data):
            _note_duplicates(text, place)
    except RecursionError:
        raise Unusable("broken JSON", "is nested too deep") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Unusable("broken JSON", str(error)) from None
    return data


def _text(path: Path) -> bytes:
    try:
        return read_regular(path, MOST_BYTES)
    except FileNotFoundError:
        raise Unusable("missing annotation", f"no {path.name} in annos/") from None
    except OSError as error:
        raise Unusable("unreadable annotation", error.strerror or str(error)) from None


def _whole(digits: str) -> int | float:
    """A whole number of JSON; as a float, like orjson's, if 64 bits may not hold it."""
    return int(digits) if len(digits) < 20 else float(digits)


def _note_duplicates(text: bytes, place: Place) -> None:
    top: list[tuple[str, Any]] = []

    def keep_pairs(pairs: list[tuple[str, Any]]) -> Record:
        top[:] = pairs  # objects end from the inside out: the last call is the outermost
        return dict(pairs)

    json.loads(text, parse_int=_whole, object_pairs_hook=keep_pairs)
    values: dict[str, list[Any]] = {}
    for key, value in top:
        values.setdefault(key, []).append(value)
    for key, found in values.items():
        if len(found) > 1:
            same = all(value == found[-1] for value in found)
            place.item = key if ITEM.fullmatch(key) else ""
            equal = "all equal" if same else "not all equal"
            detail = f"{shown(key)} occurs {len(found)} times, {equal}"
            place.note("duplicated key", detail, "the last one taken")
    place.item = ""

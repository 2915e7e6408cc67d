"""labelme's JSON: a file for each image, with its shapes.

Polygons, rectangles, turned rectangles, circles and masks are objects; those of one class with the same
group_id are parts of one object. Points and lines have no area and are left out. The image is the file
that imagePath names; the copy of it that may be in the JSON file isn't used.
"""

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from PIL import Image

from mrcnn.coco import masks
from mrcnn.core.problems import Place, Problem, Unusable, shown
from mrcnn.importers.shapes import Point, decode, ellipse, joined, read_json, rectangle
from mrcnn.importers.source import (
    AnnotatedImage,
    Choices,
    Item,
    Source,
    SourceError,
    Split,
    class_name,
    find_image,
    open_image,
    read_lines,
    split_folders,
)

# Lines of labelme's lists of labels that are no classes.
NO_CLASSES = ("__ignore__", "_background_")
NO_AREA = ("point", "points", "line", "linestrip")
LARGEST = 2**25  # bytes of the JSON of an image's shapes


class _File(msgspec.Struct):
    imagePath: str
    shapes: msgspec.Raw
    imageWidth: float | None = None
    imageHeight: float | None = None


class _Shape(msgspec.Struct):
    label: str
    points: list[Point]
    shape_type: str | None = None
    group_id: int | str | None = None
    mask: str | None = None


class _Part(NamedTuple):
    """A shape: a polygon, else a mask."""

    where: str
    name: str
    polygon: list[float] | None = None
    mask: masks.RLE | None = None


def read(data: Path, choices: Choices) -> Source:
    """The data set of a folder of JSON files, or of one file; train/, val/ and test/ are its splits.

    labels.txt, labelme's list of labels, gives the order of the classes.

    Raises:
        SourceError: if there are no JSON files.
    """
    home = data if data.is_dir() else data.parent
    files = _files(data) if data.is_dir() else [data]
    if not files:
        raise SourceError(f"{data} has no JSON files; give the folder that labelme saves to")
    names = read_lines(home / "labels.txt") if (home / "labels.txt").is_file() else []
    folders = split_folders(home)
    inside = {n: [f for f in files if f.is_relative_to(d)] for n, d in folders.items()}
    groups = {name: found for name, found in inside.items() if found} or {"train": files}
    splits = [_split(name, home, choices.image_dir or home, g) for name, g in groups.items()]
    for file in sorted(set(files).difference(*groups.values())):
        place = Place(splits[0].problems, file.relative_to(home).as_posix())
        place.note("other file", "it is in none of the splits' folders", "ignored")
    return Source(splits, [name for name in names if name not in NO_CLASSES])


def _files(home: Path) -> list[Path]:
    """JSON files in a folder and those below, but not those that this package writes."""
    found = (path.relative_to(home) for path in home.rglob("*.json"))
    wanted = (p for p in found if not any(part.startswith(".") for part in p.parts))
    return sorted(home / p for p in wanted if not p.name.endswith("_coco.json"))


def _split(name: str, home: Path, root: Path, files: list[Path]) -> Split:
    problems: list[Problem] = []
    return Split(name, root, _images(home, root, files, problems), len(files), problems)


def _images(
    home: Path, root: Path, files: list[Path], problems: list[Problem]
) -> Iterator[AnnotatedImage]:
    for file in files:
        inner = file.relative_to(home)
        place = Place(problems, inner.as_posix())
        with place.skipping("picture skipped"):
            content = decode(read_json(file), _File, "not labelme's JSON")
            if len(memoryview(content.shapes)) > LARGEST:
                raise Unusable("too many shapes", f"they have more than {LARGEST:,} bytes")
            path = find_image((root / inner.parent, root), content.imagePath)
            width, height = content.imageWidth, content.imageHeight
            declared = None if width is None or height is None else (width, height)
            file_name, size = open_image(place, root, path, declared)
            shapes = decode(content.shapes, list[msgspec.Raw], "not labelme's JSON")
            yield AnnotatedImage(file_name, size, place, _items(shapes, size, place))


def _items(shapes: list[msgspec.Raw], size: tuple[int, int], place: Place) -> Iterator[Item]:
    objects: dict[object, list[_Part]] = {}
    for number, text in enumerate(shapes, 1):
        place.item = f"shape {number}"
        with place.skipping("item skipped"):
            shape = decode(text, _Shape, "bad shape")
            part = _part(shape, size, place.item)
            key = number if shape.group_id is None else (part.name, shape.group_id)
            objects.setdefault(key, []).append(part)
    for parts in objects.values():
        place.item = parts[0].where
        polygons = [part.polygon for part in parts if part.polygon is not None]
        found = [part.mask for part in parts if part.mask is not None]
        yield Item(parts[0].name, polygons or None, masks.union(found) if found else None)


def _part(shape: _Shape, size: tuple[int, int], where: str) -> _Part:
    if shape.label in NO_CLASSES:
        raise Unusable("no class", f"its label is {shape.label}")
    name, points = class_name(shape.label), shape.points
    kind = shape.shape_type or "polygon"
    if kind in NO_AREA:
        raise Unusable("no area", f"it is a {kind}")
    match kind, len(points):
        case "mask", 2:
            return _Part(where, name, mask=_mask(shape.mask or "", points, size))
        case "rectangle", 2:
            return _Part(where, name, rectangle(*points))
        case "circle", 2:
            radius = math.dist(*points)
            return _Part(where, name, ellipse(points[0], (radius, radius)))
        case "polygon" | "rectangle" | "oriented_rectangle", count if count > 2:
            return _Part(where, name, joined(points))
    raise Unusable("bad shape", f"{shown(kind)} of {len(points)} points")


def _mask(text: str, corners: list[Point], size: tuple[int, int]) -> masks.RLE:
    """A mask from the PNG of its box; both corners are inside."""
    (x1, y1), (x2, y2) = ((math.floor(x), math.floor(y)) for x, y in corners)
    width, height = size
    if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
        raise Unusable("bad mask", f"its box {corners} isn't in the image")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
            fits = image.size == (x2 - x1 + 1, y2 - y1 + 1)
            inside = np.asarray(image.convert("L")) > 0 if fits else None
    except Exception as error:  # damaged files make Pillow's decoders raise all sorts of errors
        raise Unusable("bad mask", f"its PNG can't be read: {error}") from None
    if inside is None:
        raise Unusable("bad mask", f"it is {image.size} but its box is {corners}")
    pixels = np.zeros((height, width), bool)
    pixels[y1 : y2 + 1, x1 : x2 + 1] = inside
    return masks.encode(pixels)

"""Regions of the VGG Image Annotator (VIA): a shape, and attributes, of which one is the class.

Polygons, closed polylines, rectangles, circles and ellipses are objects; points and open lines have no
area and are left out. An attribute's value is text, or the boxes that are ticked.
"""

import math
from collections.abc import Iterator

import msgspec
from msgspec import Raw

from mrcnn.core.problems import Place, Unusable, shown
from mrcnn.importers.shapes import decode, ellipse, joined, rectangle
from mrcnn.importers.source import Item, class_name

LARGEST = 2**25  # bytes of the JSON of an image's regions
Value = str | int | float | dict[str, bool] | None


class _Shape(msgspec.Struct):
    name: str
    all_points_x: list[float] = []
    all_points_y: list[float] = []
    x: float = math.nan
    y: float = math.nan
    width: float = math.nan
    height: float = math.nan
    cx: float = math.nan
    cy: float = math.nan
    r: float = math.nan
    rx: float = math.nan
    ry: float = math.nan
    theta: float = 0.0


class _Region(msgspec.Struct):
    shape_attributes: _Shape
    region_attributes: dict[str, Raw] = {}


def list_regions(text: Raw) -> list[Raw]:
    """The JSON of each region of an image.

    Raises:
        Unusable: if they are neither a list nor a dict, or too many.
    """
    if len(memoryview(text)) > LARGEST:
        raise Unusable("too many regions", f"they have more than {LARGEST:,} bytes")
    found = decode(text, list[Raw] | dict[str, Raw], "bad entry")
    return list(found.values()) if isinstance(found, dict) else found


def items(regions: list[Raw], attribute: str | None, place: Place) -> Iterator[Item]:
    """The objects of an image; without an attribute their class has no name."""
    for number, text in enumerate(regions, 1):
        place.item = f"region {number}"
        with place.skipping("item skipped"):
            region = decode(text, _Region, "bad region")
            name = "" if attribute is None else _name(region.region_attributes.get(attribute))
            yield Item(name, [_polygon(region.shape_attributes)])


def _name(text: Raw | None) -> str:
    """The class that an attribute's value means: text, or the one box that is ticked."""
    value = None if text is None else decode(text, Value, "bad class")
    if isinstance(value, dict):
        ticked = [name for name, is_ticked in value.items() if is_ticked]
        if len(ticked) > 1:
            raise Unusable("several classes", shown(ticked))
        value = next(iter(ticked), None)
    return class_name(str(value) if isinstance(value, int | float) else value)


def _polygon(shape: _Shape) -> list[float]:
    xs, ys = shape.all_points_x, shape.all_points_y
    match shape.name:
        case "rect":
            corner = shape.x, shape.y
            polygon = rectangle(corner, (shape.x + shape.width, shape.y + shape.height))
        case "circle":
            polygon = ellipse((shape.cx, shape.cy), (shape.r, shape.r))
        case "ellipse":
            polygon = ellipse((shape.cx, shape.cy), (shape.rx, shape.ry), shape.theta)
        case "polygon" | "polyline" if len(xs) == len(ys) > 2:
            polygon = joined(zip(xs, ys, strict=True))
            if shape.name == "polyline" and polygon[:2] != polygon[-2:]:
                raise Unusable("no area", "it is an open line")
        case "point":
            raise Unusable("no area", "it is a point")
        case _:
            detail = f"{shown(shape.name)} of {len(xs)} x and {len(ys)} y"
            raise Unusable("bad shape", detail)
    if not all(map(math.isfinite, polygon)):
        raise Unusable("bad shape", f"{shape.name} lacks a number")
    return polygon

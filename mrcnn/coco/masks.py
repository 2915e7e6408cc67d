"""The one way from a COCO segmentation to a mask.

A segmentation is a list of polygons [x1, y1, x2, y2, ...] in pixels of the image, or a dict of
`size` [height, width] and `counts`: the lengths of runs down the columns, the first of zeros, as a
list of numbers or compressed to text. A mask is such a dict with compressed counts, an `RLE`;
`decode` and `crop` make pixels of it.

A polygon of less than three points covers nothing and is left out. ValueError is raised for
anything that is neither form, a list of which no polygon is left, a value that is no finite number,
a point more than `REACH` times the longer side away (pycocotools' time and memory go by distance),
an image of a negative size or `MOST_PIXELS`, an RLE of another size than its image, and runs that don't add up to the image's pixels
(pycocotools hangs on these, or reads whatever lies in memory). An empty list is an empty mask.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn.coco.run_lengths import first_broken

REACH = 10
MOST_PIXELS = 2**32  # run lengths are 32 bits; pycocotools crashes on more
BROKEN = "the runs of its RLE don't add up to the pixels of its image"

Size = tuple[int, int]  # (height, width), pixels
Box = tuple[int, int, int, int]  # (y1, x1, y2, x2), pixels, y2/x2 exclusive


class RLE(TypedDict):
    """A mask: size [height, width], compressed counts."""

    size: list[int]
    counts: str | bytes


class TextRLE(TypedDict):
    """The same with its counts as text, which JSON can hold."""

    size: list[int]
    counts: str


class MaskError(ValueError):
    """A segmentation that is no mask of its image; `index` is its place among those given."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


def to_rle(segmentation: Any, size: Size) -> RLE:
    """The mask of a segmentation in an image of `size`; ValueError as the module says."""
    return to_rles([segmentation], [size])[0]


def to_rles(segmentations: Iterable[Any], sizes: Iterable[Size]) -> list[RLE]:
    """The masks of many segmentations, whose run lengths are checked together.

    Raises:
        MaskError: for the first segmentation that is none, as the module says.
    """
    masks: list[RLE] = []
    compressed: list[int] = []
    for index, (segmentation, size) in enumerate(zip(segmentations, sizes, strict=True)):
        try:
            masks.append(_converted(segmentation, size))
        except ValueError as error:
            raise MaskError(str(error), index) from None
        if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
            compressed.append(index)
    broken = first_broken([masks[index] for index in compressed])
    if broken is not None:
        raise MaskError(BROKEN, compressed[broken])
    return masks


def _converted(segmentation: Any, size: Size) -> RLE:
    """As `to_rle`, but compressed counts are taken as they are."""
    if min(size) < 0 or size[0] * size[1] >= MOST_PIXELS:
        raise ValueError(
            f"the image is {size[1]} x {size[0]} (width x height), which no mask can have; correct "
            "its size in the file"
        )
    if isinstance(segmentation, list):
        parts = polygons(segmentation, size)
        if segmentation and not parts:
            raise ValueError(
                "polygons must be lists of 6 or more numbers [x1, y1, x2, y2, x3, y3, ...]"
            )
        return fill(parts, size)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise ValueError(
            f"a segmentation is {type(segmentation).__name__}; give polygons or an RLE dict of "
            "size and counts"
        )
    given, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(given, list | tuple) or list(given) != list(size):
        raise ValueError(
            f"its RLE is of size {given} (height, width) but the image is {list(size)}"
        )
    if isinstance(counts, list):
        return from_runs(counts, size)
    return {"size": list(size), "counts": counts}


def polygons(segmentation: list[Any], size: Size) -> list[list[float]]:
    """Those polygons of three points or more.

    Raises:
        ValueError: if one isn't a list of finite numbers within reach of the image.
    """
    far = REACH * max(size)
    for part in segmentation:
        if not isinstance(part, list):
            raise ValueError(f"polygons must be lists of numbers, got {type(part).__name__}")
        kinds = set(map(type, part))
        total = sum(part) if all(issubclass(k, int | float | np.number) for k in kinds) else np.nan
        if total != total:  # a sum with a NaN in it is NaN
            raise ValueError("a polygon has a value that is not a finite number")
        if max(map(abs, part), default=0) > far:
            raise ValueError("a polygon has points far outside the image")
    # pycocotools would read four numbers as a box.
    return [part for part in segmentation if len(part) >= 6]


def is_usable(segmentation: Any) -> bool:
    """Whether it is an RLE with runs, or has a polygon of three points; no more is looked at."""
    if isinstance(segmentation, list):
        return any(isinstance(part, list) and len(part) >= 6 for part in segmentation)
    return isinstance(segmentation, dict) and bool(segmentation.get("counts"))


def fill(parts: Sequence[list[float]], size: Size) -> RLE:
    """The union of polygons of three points or more, each filled by the even-odd rule."""
    if not parts:
        return encode(np.zeros(size, bool))
    masks: list[RLE] = coco_mask.frPyObjects(list(parts), *size)
    return union(masks)


def from_runs(runs: list[int], size: Size) -> RLE:
    """The mask of run lengths as numbers; ValueError unless they add up to the image's pixels."""
    sound = all(isinstance(n, int) and n >= 0 for n in runs)
    if not runs or not sound or sum(runs) != size[0] * size[1]:
        raise ValueError(BROKEN)
    mask: RLE = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
    return mask


def encode(pixels: np.ndarray) -> RLE:
    """The mask of pixels [H, W], bool or 0 and 1."""
    mask: RLE = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    return mask


def decode(mask: RLE) -> np.ndarray:
    """uint8 [H, W]: 1 inside."""
    pixels: np.ndarray = coco_mask.decode(mask)
    return pixels


def crop(mask: RLE) -> tuple[Box, np.ndarray] | None:
    """The tight box and uint8 [y2 - y1, x2 - x1], 1 inside; None if nothing is."""
    x, y, width, height = (int(value) for value in bounds(mask))
    if not (width and height):
        return None
    pixels = decode(mask)[y : y + height, x : x + width]
    return (y, x, y + height, x + width), np.ascontiguousarray(pixels)


def union(masks: Sequence[RLE]) -> RLE:
    """The pixels that are in any of some masks of one size."""
    mask: RLE = masks[0] if len(masks) == 1 else coco_mask.merge(list(masks))  # merging takes time
    return mask


def bounds(mask: RLE) -> np.ndarray:
    """float [4]: the tight box as COCO's [x, y, width, height]; zeros if nothing is inside."""
    box: np.ndarray = coco_mask.toBbox(mask)
    return box


def area(mask: RLE) -> int:
    """Number of pixels inside."""
    return int(coco_mask.area(mask))


def as_text(mask: RLE) -> TextRLE:
    """The same mask in a form that JSON can hold."""
    counts = mask["counts"]
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": [int(side) for side in mask["size"]], "counts": text}

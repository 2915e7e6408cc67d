"""COCO instances files: read once, checked once, kept as one compact table.

`read_coco` makes a `CocoTable`; training (`CocoDataset`), evaluation (`GroundTruth`) and inspection
(`statistics`) take what they need from it, so that a command parses its file once. What may be
wrong with a file is sorted here:

* Errors of the file: it isn't JSON, has no list of images, or a value of another type than
  COCO's. `read_coco` raises ValueError and says where.
* Errors for some: a list that is missing, images without a name or size, ids that two images or
  two categories have. `CocoTable.require` raises ValueError if its caller can't do without.
* Problems, counted by the keys of `PROBLEMS`: of images and of categories with the same id the
  first is kept; annotations of images or categories that aren't there are left out. These four are
  counted over the whole file, whatever images are chosen later.

A missing box or area is NaN. Evaluation refuses a missing box and takes width x height for a missing
area; inspection takes both from the mask. Training leaves out annotations without a mask and warns.
Masks are checked when they are made (`mrcnn.coco.masks`).

Letters in shapes: I images, K categories, A annotations.
"""

import itertools
import json
import mmap
import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import orjson
from msgspec import UNSET, UnsetType

from mrcnn.coco.masks import Size, is_usable

ImageId = int | str

# What DeepFashion2 says of each garment: the names of the values 1, 2 and 3.
ATTRIBUTES = {
    "scale": ("small", "moderate", "large"),
    "occlusion": ("slight", "medium", "heavy"),
    "zoom_in": ("no", "medium", "large"),
    "viewpoint": ("no wear", "frontal", "side or back"),
}
MISSING, OTHER = 0, -1  # for an attribute's value: none, or none of those
PROBLEMS = {
    "pictures_with_a_used_id": "images left out, as another one has their id",
    "categories_with_a_used_id": "categories left out, as another one has their id",
    "annotations_of_unknown_pictures": "annotations left out, of an image that is not there",
    "annotations_of_unknown_categories": "annotations left out, of a category that is not there",
    "annotations_with_a_used_id": "annotations whose id another one has",
    "without_a_mask": "annotations without a mask",
    "without_a_box_or_an_area": "annotations without a box or an area (taken from the mask)",
    "unreadable_masks": "masks of those that are neither polygons nor an RLE of the image's size",
    "empty_boxes": "boxes without width or height",
    "boxes_beyond_the_picture": "boxes that reach beyond the image",
}
# Instead of the number of polygons.
IS_RLE, NO_MASK = -1, -2
NOT_GIVEN = -1
# Annotations of which the text is copied before the file's pages leave memory.
BATCH = 50_000


class Image(msgspec.Struct, gc=False):
    """An image's record; width and height in pixels, as stored (some tools write 640.0)."""

    id: ImageId
    file_name: str = ""
    width: float = NOT_GIVEN
    height: float = NOT_GIVEN
    pair_id: Any = None
    source: Any = None

    @property
    def size(self) -> Size:
        """(height, width); ValueError if the file doesn't say."""
        if NOT_GIVEN in (self.height, self.width):
            raise ValueError(f"image {self.id!r} has no width and height, which masks need")
        return int(self.height), int(self.width)


class Category(msgspec.Struct, gc=False):
    """A class's record."""

    id: int
    name: str
    supercategory: Any = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: ImageId
    category_id: int
    id: ImageId | None = None
    bbox: list[float] | None = None
    area: float | None = None
    iscrowd: bool | float | None = 0
    # Not parsed: nine tenths of a file are polygons, and text takes less memory than its numbers.
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    scale: Any = UNSET
    occlusion: Any = UNSET
    zoom_in: Any = UNSET
    viewpoint: Any = UNSET


class _File(msgspec.Struct):
    images: list[Image]
    annotations: list[_Annotation] | UnsetType = UNSET
    categories: list[Category] | UnsetType = UNSET


_DECODER = msgspec.json.Decoder(_File)


@dataclass
class CocoTable:
    """A COCO file's images, categories and annotations.

    Annotations are sorted by image, and else in the file's order.

    Attributes:
        name: of the file, for messages.
        images: [I] by id, numbers before text. categories: [K] by id.
        ids: [A] int, str or None.
        image, classes: [A] int, positions in images and categories.
        crowd: [A] bool.
        boxes: [A, (x, y, width, height)] float, pixels; NaN where there is none.
        areas: [A] float, pixels; NaN where there is none.
        polygons: [A] int, how many its mask has; else IS_RLE or NO_MASK.
        attributes: those of `ATTRIBUTES` that the file has -> [A] int: 1 to 3, MISSING or OTHER.
        problems: key of `PROBLEMS` -> how often.
        faults: what `require` may be asked for -> why the file doesn't have it.
        text, spans: segmentation a is the JSON text[spans[a, 0] : spans[a, 1]].
    """

    name: str
    images: list[Image]
    categories: list[Category]
    ids: np.ndarray
    image: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    polygons: np.ndarray
    attributes: dict[str, np.ndarray]
    text: bytearray = field(repr=False)
    spans: np.ndarray
    problems: Counter[str]
    faults: dict[str, str]

    def __len__(self) -> int:
        return len(self.image)

    def require(self, *needs: str) -> None:
        """Raises ValueError unless the file has all that is needed.

        Args:
            needs: of "annotations", "categories" (the lists), "file_name", "width", "height"
                (of every image), "unique ids" (of images and categories).
        """
        for need in needs:
            if need in self.faults:
                raise ValueError(_not_coco(self.name, self.faults[need]))

    @cached_property
    def offsets(self) -> np.ndarray:
        """[I + 1] int: annotations of image i are offsets[i] to offsets[i + 1] - 1."""
        return np.searchsorted(self.image, np.arange(len(self.images) + 1))

    @property
    def masked(self) -> np.ndarray:
        """[A] bool: whether the text is that of an RLE or of polygons."""
        masked: np.ndarray = (self.polygons == IS_RLE) | (self.polygons > 0)
        return masked

    @cached_property
    def usable(self) -> np.ndarray:
        """[A] bool: whether there is a mask to speak of; parses all segmentations."""
        flags = (is_usable(self.segmentation(row)) for row in range(len(self)))
        return np.fromiter(flags, bool, len(self))

    def segmentation(self, row: int) -> Any:
        """An annotation's segmentation, parsed: polygons, an RLE, or None."""
        start, end = self.spans[row].tolist()
        return orjson.loads(memoryview(self.text)[start:end])

    def take(self, rows: np.ndarray) -> "CocoTable":
        """The same images with these annotations only; rows: rising ints, or a bool for each."""
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in _ROW_ARRAYS},
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )

    def select(self, positions: Sequence[int]) -> "CocoTable":
        """The images at rising positions, with their annotations."""
        place = np.full(len(self.images), -1)
        place[np.array(positions, int)] = np.arange(len(positions))
        chosen = self.take(np.flatnonzero(place[self.image] >= 0))
        return replace(
            chosen, images=[self.images[i] for i in positions], image=place[chosen.image]
        )

    def first(self, limit: int | None) -> "CocoTable":
        """The first images by id, with their annotations; all for None."""
        count = len(self.images)
        return self if limit is None or limit >= count else self.select(range(limit))


_ROW_ARRAYS = ("ids", "image", "classes", "crowd", "boxes", "areas", "polygons", "spans")


def read_coco(source: Any) -> CocoTable:
    """The table of a COCO instances file.

    Args:
        source: path of the file; its content as a dict; a `pycocotools.coco.COCO`; or a
            `CocoTable`, which is returned as it is.

    Raises:
        ValueError: if it is no COCO file; the message says where and why.
    """
    if isinstance(source, CocoTable):
        return source
    text: bytes | mmap.mmap
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        text = _mapped(name)
    else:
        name = "the content given"
        content = getattr(source, "dataset", source)
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        text = orjson.dumps(content, default=_as_json, option=options)
    return _table(name, text, _decoded(name, text))


def _mapped(path: str) -> mmap.mmap:
    """The file as a buffer that takes memory only where it is read; closed with its last view."""
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # mmap's word for a file of no bytes
            raise ValueError(_not_coco(path, "it is empty")) from None


def _as_json(value: Any) -> Any:
    """What orjson can't write: the bytes of a mask; other objects matter to nobody here."""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _decoded(name: str, text: bytes | mmap.mmap) -> _File:
    try:
        # Other tools write NaN, which isn't JSON; as null it is a missing value.
        has_nan = text.find(b"NaN") >= 0 or text.find(b"Infinity") >= 0
        return _DECODER.decode(orjson.dumps(json.loads(bytes(text))) if has_nan else text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_not_coco(name, str(error))) from None


def _not_coco(name: str, why: str) -> str:
    return (
        f"{name} is not a COCO instances file with images, annotations and categories: {why}; "
        "convert_to_coco.py writes such files"
    )


def _table(name: str, text: bytes | mmap.mmap, content: _File) -> CocoTable:
    annotations = content.annotations or []
    images, categories = _unique(content.images), _unique(content.categories or [])
    image = _positions([a.image_id for a in annotations], images)
    classes = _positions([a.category_id for a in annotations], categories)
    kept = np.flatnonzero((image >= 0) & (classes >= 0))
    kept = kept[np.argsort(image[kept], kind="stable")]
    rows = [annotations[n] for n in kept.tolist()]
    joined, spans, polygons = _joined(rows, text)
    problems = Counter(
        pictures_with_a_used_id=len(content.images) - len(images),
        categories_with_a_used_id=len(content.categories or []) - len(categories),
        annotations_of_unknown_pictures=int((image < 0).sum()),
        annotations_of_unknown_categories=int(((image >= 0) & (classes < 0)).sum()),
    )
    no_box = [np.nan] * 4
    boxes = [a.bbox if a.bbox and len(a.bbox) == 4 else no_box for a in rows]
    return CocoTable(
        name=name,
        images=images,
        categories=categories,
        ids=np.array([a.id for a in rows], object),
        image=image[kept],
        classes=classes[kept],
        crowd=np.array([bool(a.iscrowd) for a in rows], bool),
        boxes=np.array(boxes, float).reshape(-1, 4),
        areas=np.array([a.area for a in rows], float),  # None becomes NaN
        polygons=polygons,
        attributes=_attributes(rows),
        text=joined,
        spans=spans,
        problems=problems,
        faults=_faults(content),
    )


def _unique(entries: list[Any]) -> list[Any]:
    """Records by id, numbers before text; the first of those with the same id."""
    unique = {entry.id: entry for entry in reversed(entries)}
    return sorted(unique.values(), key=lambda entry: (isinstance(entry.id, str), entry.id))


def _positions(ids: Sequence[Hashable], records: list[Any]) -> np.ndarray:
    """Where records with these ids are; -1 where there is none."""
    index: Mapping[Hashable, int] = {entry.id: n for n, entry in enumerate(records)}
    return np.fromiter((index.get(key, -1) for key in ids), np.int64, len(ids))


def _joined(
    rows: list[_Annotation], file: bytes | mmap.mmap
) -> tuple[bytearray, np.ndarray, np.ndarray]:
    """The segmentations' text in one piece, spans in it [A, 2] and numbers of polygons [A]."""
    text, ends = bytearray(), [0]
    for begin in range(0, len(rows), BATCH):
        if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)  # what was read leaves memory
        pieces = [memoryview(a.segmentation) for a in rows[begin : begin + BATCH]]
        ends += [len(piece) for piece in pieces]
        text += b"".join(pieces)
    bounds = np.cumsum(ends)
    counts = [_polygon_count(text, *span) for span in itertools.pairwise(bounds.tolist())]
    return text, np.stack([bounds[:-1], bounds[1:]], axis=1), np.array(counts, np.int32)


def _polygon_count(text: bytearray, start: int, end: int) -> int:
    """Polygons of a mask, counted in its text; or `IS_RLE` or `NO_MASK`."""
    if text.startswith(b"{", start):
        return IS_RLE
    return NO_MASK if text[start:end] == b"null" else max(0, text.count(b"[", start, end) - 1)


def _attributes(rows: list[_Annotation]) -> dict[str, np.ndarray]:
    found = {}
    for name in ATTRIBUTES:
        values = [getattr(a, name) for a in rows]
        if any(value is not UNSET for value in values):
            found[name] = np.array([_attribute_code(value) for value in values], np.int8)
    return found


def _attribute_code(value: Any) -> int:
    if value is None or value is UNSET:
        return MISSING
    # A foreign file may have anything under the same name, lists too.
    return int(value) if type(value) in (int, float) and value in (1, 2, 3) else OTHER


def _faults(content: _File) -> dict[str, str]:
    """What some consumers need and the file lacks -> the words for it."""
    faults = {
        name: f"it has no list `{name}`"
        for name in ("annotations", "categories")
        if getattr(content, name) is UNSET
    }
    for name, default in (("file_name", ""), ("width", NOT_GIVEN), ("height", NOT_GIVEN)):
        lacking = (n for n, entry in enumerate(content.images) if getattr(entry, name) == default)
        place = next(lacking, None)
        if place is not None:
            faults[name] = f"images[{place}] has no `{name}`"
    for what, entries in (("image", content.images), ("category", content.categories or [])):
        common = Counter(entry.id for entry in entries).most_common(1)
        if common and common[0][1] > 1:
            faults["unique ids"] = f"it has the {what} id {common[0][0]!r} twice"
    return faults

"""COCO instances files, read quickly and kept small.

Only what training needs is decoded; an annotation's segmentation stays the JSON text that it was,
which takes less memory than its numbers, and is parsed when asked for.
"""

import mmap
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import orjson

ImageId = int | str


class Image(msgspec.Struct, gc=False):
    """An image's record; width and height in pixels, as stored."""

    id: ImageId
    file_name: str
    width: int
    height: int


class Category(msgspec.Struct, gc=False):
    """A class's record."""

    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: ImageId
    category_id: int
    iscrowd: int | bool | None = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class _File(msgspec.Struct):
    images: list[Image]
    annotations: list[_Annotation]
    categories: list[Category]


_DECODER = msgspec.json.Decoder(_File)


class Annotations(Sequence):
    """The annotations of one image: dicts of category_id, iscrowd and segmentation.

    segmentation is what the file holds: a list of polygons [x1, y1, ...] in pixels, or an RLE.
    """

    __slots__ = ("_rows", "_store")

    def __init__(self, store, rows):
        self._store = store
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._store.annotation(row) for row in self._rows[index]]
        return self._store.annotation(self._rows[index])

    def labels(self):
        """List of (category_id, iscrowd) without parsing a segmentation."""
        return self._store.labels(self._rows)


class CocoFile:
    """What a COCO instances file says about images, classes and objects.

    Attributes:
        images: list of `Image`, by id.
        categories: list of `Category`, by id.
        unusable: int, annotations left out because they have neither an RLE nor a polygon of
            three points or more.
        strays: int, annotations left out because their image or category isn't in the file.
    """

    def __init__(self, path):
        """Reads a file.

        Args:
            path: str or Path.

        Raises:
            ValueError: if it is no COCO instances file; the message says where and why.
        """
        text = _mapped(path)
        try:
            content = _DECODER.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is no COCO instances file with images, annotations and categories "
                f"({error}); convert_to_coco.py writes such"
            ) from None
        self.images = sorted(content.images, key=_by_number_then_name)
        self.categories = sorted(content.categories, key=lambda entry: entry.id)
        index = _numbered([image.id for image in self.images], "picture", path)
        known = _numbered([entry.id for entry in self.categories], "category", path)
        self._keep(content.annotations, index, known, _Texts(text))

    def _keep(self, annotations, index, known, texts):
        """Packs the annotations into arrays and one text, by image."""
        number, categories, crowds = [], [], []
        self.unusable = self.strays = 0
        for entry in annotations:
            if entry.image_id not in index or entry.category_id not in known:
                self.strays += 1
            elif not _is_usable(orjson.loads(memoryview(entry.segmentation))):
                self.unusable += 1
            else:
                number.append(index[entry.image_id])
                categories.append(entry.category_id)
                crowds.append(bool(entry.iscrowd))
                texts.add(entry.segmentation)
            entry.segmentation = None
        self._text, self._ends = texts.finish()
        self._categories = np.array(categories, np.int64)
        self._crowds = np.array(crowds, bool)
        pictures = np.array(number, np.int64)
        self._order = np.argsort(pictures, kind="stable")
        bounds = np.arange(len(self.images) + 1)
        self._starts = np.searchsorted(pictures[self._order], bounds)

    def __len__(self):
        return len(self._categories)

    def annotations(self, position, category_ids=None):
        """`Annotations` of the image `images[position]`, in the file's order.

        Args:
            category_ids: array of those to keep, None for all.
        """
        rows = self._order[self._starts[position] : self._starts[position + 1]]
        if category_ids is not None:
            rows = rows[np.isin(self._categories[rows], category_ids)]
        return Annotations(self, rows.astype(np.int32))

    def labels(self, rows):
        """List of (category_id, iscrowd) of annotations."""
        return list(zip(self._categories[rows].tolist(), self._crowds[rows].tolist(), strict=True))

    def annotation(self, row):
        """One annotation as a dict; `row` counts those that were kept."""
        start = self._ends[row - 1] if row else 0
        return {
            "category_id": int(self._categories[row]),
            "iscrowd": int(self._crowds[row]),
            "segmentation": orjson.loads(memoryview(self._text)[start : self._ends[row]]),
        }


class _Texts:
    """Collects pieces of a mapped file; the parts of the file that were read leave memory."""

    BATCH = 50_000

    def __init__(self, file):
        self._file = file
        self._pieces, self._joined, self._lengths = [], bytearray(), []

    def add(self, piece):
        self._pieces.append(piece)
        self._lengths.append(len(memoryview(piece)))
        if len(self._pieces) == self.BATCH:
            self._join()

    def _join(self):
        self._joined += b"".join(self._pieces)
        self._pieces.clear()
        if hasattr(mmap, "MADV_DONTNEED"):
            self._file.madvise(mmap.MADV_DONTNEED)

    def finish(self):
        self._join()
        return self._joined, np.cumsum(np.array(self._lengths, np.int64))


def _mapped(path):
    """The file as a buffer that takes memory only where it is read; closed with its last view."""
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # mmap's word for a file of no bytes
            raise ValueError(f"{path} is empty; convert_to_coco.py writes COCO files") from None


def _by_number_then_name(image):
    return (isinstance(image.id, str), image.id)


def _numbered(ids, what, path):
    index = {key: position for position, key in enumerate(ids)}
    if len(index) != len(ids):
        twice, _ = Counter(ids).most_common(1)[0]
        raise ValueError(f"{path} has the {what} id {twice!r} twice; ids must be unique")
    return index


def _is_usable(segmentation):
    """RLE, or a polygon of three points; pycocotools would read four numbers as a box."""
    if isinstance(segmentation, list):
        return any(isinstance(points, list) and len(points) >= 6 for points in segmentation)
    # pycocotools decodes an RLE of no runs to whatever lies in memory.
    return isinstance(segmentation, dict) and bool(segmentation.get("counts"))

"""Masks in Pascal VOC's layout: PNG files of one value, or one colour, for each object or class.

In SegmentationObject a value k is the k-th object of the image's XML file; CVAT writes VOC's colour
number k instead of the value, and no XML. 0 is background. 255 is the seam around objects, in which
annotators were free, and left out of all masks. SegmentationClass has the class at each pixel, as
labelmap.txt (CVAT) or class_names.txt (labelme's tools) say; without them they are VOC's 20.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn.coco import masks
from mrcnn.core.files import open_regular
from mrcnn.core.problems import Place, Unusable
from mrcnn.importers.source import Item, class_name, read_lines

MOST_OBJECTS = 2000  # values in a mask; a photo has more
MOST_PIXELS = 2**26  # of a mask, of which several copies are made
ROWS = 256
VOID = 255
BACKGROUND = ("background", "_background_", "__ignore__")
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


def voc_colors() -> list[int]:
    """VOC's colours of the values 0 to 255 as 0xRRGGBB.

    The bits of a value go to red, green and blue in turn, and fill each from its highest bit on.
    """
    places = [(bit, 23 - 8 * (bit % 3) - bit // 3) for bit in range(8)]
    return [sum((value >> bit & 1) << place for bit, place in places) for value in range(256)]


class Legend:
    """Which class a value in SegmentationClass is.

    Attributes:
        names: the classes; () where no file says them.
    """

    def __init__(self, home: Path) -> None:
        self._colors: dict[int, str] = {}
        self._values: Sequence[str] = VOC_CLASSES
        self.names: Sequence[str] = ()
        if (home / "labelmap.txt").is_file():
            lines = [line for line in read_lines(home / "labelmap.txt") if line[0] != "#"]
            rows = [line.split(":") for line in lines]
            self._values = [row[0].strip() for row in rows]
            for row in rows:
                with contextlib.suppress(ValueError, IndexError):  # a line without a colour
                    red, green, blue = map(int, row[1].split(","))
                    self._colors[red << 16 | green << 8 | blue] = row[0].strip()
        elif (home / "class_names.txt").is_file():
            self._values = [n for n in read_lines(home / "class_names.txt") if n != "__ignore__"]
        if self._values is not VOC_CLASSES:
            self.names = [name for name in self._values if name not in BACKGROUND]

    def name(self, value: int, color: int | None) -> str | None:
        """The class of a value, by its colour if the mask has colours; None if there is none."""
        if color in self._colors:
            return self._colors[color]
        return self._values[value] if value < len(self._values) else None


class ObjectMasks:
    """The masks of one image.

    Raises:
        Unusable: if a file is no mask, or the two differ in size.
    """

    def __init__(self, objects: Path, classes: Path, legend: Legend) -> None:
        self._values, _, has_void = _read(objects)
        self._classes: np.ndarray | None = None
        self._colors: dict[int, int] = {}
        if classes.is_file():
            self._classes, self._colors, _ = _read(classes)
            if self._classes.shape != self._values.shape:
                raise Unusable("bad mask", f"{classes.name} differs from {objects} in size")
        self._legend = legend
        outside = (0, VOID) if has_void else (0,)
        self._numbers = [n for n in _distinct(self._values) if n not in outside]
        if len(self._numbers) > MOST_OBJECTS:
            detail = f"{objects.name} has {len(self._numbers)} values; is it a photo?"
            raise Unusable("bad mask", detail)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self._values.shape[1], self._values.shape[0]

    def items(self, declared: list[str | None], place: Place) -> Iterator[Item]:
        """The objects that have pixels.

        Args:
            declared: names of the classes in the order of the XML file.
        """
        for number in self._numbers:
            place.item = f"object {number}"
            with place.skipping("item skipped"):
                pixels = self._values == number
                name = declared[number - 1] if number <= len(declared) else None
                yield Item(self._class(name, pixels), mask=masks.encode(pixels))

    def has(self, number: int) -> bool:
        """Whether the object of this number in the XML file has pixels."""
        return number in self._numbers

    def _class(self, declared: str | None, pixels: np.ndarray) -> str:
        """What the XML file and SegmentationClass agree on, where both say a class."""
        painted = self._painted(pixels) if self._legend.names or declared is None else None
        if declared is None and painted is None:
            raise Unusable("no class", "neither the XML file nor SegmentationClass has its class")
        name = class_name(painted if declared is None else declared)
        if painted not in (None, name):
            detail = f"{name!r} in the XML file but {painted!r} in SegmentationClass"
            raise Unusable("class mismatch", detail)
        return name

    def _painted(self, pixels: np.ndarray) -> str | None:
        """The class of most pixels."""
        if self._classes is None:
            return None
        counts = np.bincount(self._classes[pixels])
        for value in np.argsort(-counts, stable=True)[: np.count_nonzero(counts)].tolist():
            name = self._legend.name(value, self._colors.get(value))
            if name is not None and name not in BACKGROUND:
                return name
        return None


def _distinct(values: np.ndarray) -> list[int]:
    """The values of a mask in order; not by sorting all, which takes memory."""
    found: list[int] = np.flatnonzero(np.bincount(values.ravel())).tolist()
    return found


def _read(file: Path) -> tuple[np.ndarray, dict[int, int], bool]:
    """A mask as values [H, W] int, colours of the values, and whether 255 is no object."""
    try:
        with open(open_regular(file), "rb") as opened, Image.open(opened, formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Unusable("bad mask", f"{file.name} has {image.width} x {image.height} pixels")
            image.load()
    except Unusable:
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise all sorts of errors
        raise Unusable("bad mask", f"{file.name} can't be read: {error}") from None
    if image.mode in ("RGB", "RGBA"):
        return *_from_colors(image.convert("RGB"), file), True
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind == "f":
        raise Unusable("bad mask", f"{file.name} is of mode {image.mode}; give values or colours")
    colors: dict[int, int] = {}
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), int).reshape(-1, 3) @ (1 << 16, 1 << 8, 1)
        colors = dict(enumerate(palette.tolist()))
    return values.astype(np.int32), colors, image.mode in ("P", "L")


def _from_colors(image: Image.Image, file: Path) -> tuple[np.ndarray, dict[int, int]]:
    """Values [H, W] int32 of an RGB image: the numbers of VOC's colours, and others for others."""
    known = {color: value for value, color in enumerate(voc_colors())}
    values: dict[int, int] = {}  # by colour
    found = np.empty((image.height, image.width), np.int32)
    for top in range(0, image.height, ROWS):  # a few at a time: sorting takes much memory
        strip = np.asarray(image.crop((0, top, image.width, min(top + ROWS, image.height))))
        codes = strip.astype(np.int32) @ np.array((1 << 16, 1 << 8, 1), np.int32)
        colors, places = np.unique(codes, return_inverse=True)
        for color in colors.tolist():
            values.setdefault(color, known.get(color, 256 + len(values)))
        if len(values) > MOST_OBJECTS:
            raise Unusable("bad mask", f"{file.name} has {len(values)} colours; is it a photo?")
        table = np.array([values[color] for color in colors.tolist()], np.int32)
        found[top : top + ROWS] = table[places].reshape(codes.shape)
    return found, {value: color for color, value in values.items()}

"""What was found in each image, kept in a file of its own until the run is complete.

`records/<output>.json` appears once all files of an image are written. A run that is cut off
loses no finished image and can go on; at the end the tables are made from the records. A record is
only believed as far as it is one that this program could have written for that image.
"""

import hashlib
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from mrcnn.coco.masks import TextRLE, area, bounds, to_rles
from mrcnn.core.files import read_regular
from mrcnn.core.reading import MAX_PIXELS
from mrcnn.core.text import printable
from mrcnn.inference.folder import OutputFolder
from mrcnn.inference.listing import InputImage
from mrcnn.inference.names import (
    FORMATS,
    cutout_file,
    link,
    mask_files,
    on_disk,
    overlay_file,
    record_file,
)
from mrcnn.inference.results import Result
from mrcnn.inference.writers import KINDS
from mrcnn.render.colors import COLORS, color_name

VERSION = 1
MOST_BYTES = 2**26  # of a record; many masks of a huge image take a tenth
_THUMBNAIL = re.compile("data:image/jpeg;base64,/9j/[A-Za-z0-9+/]*={0,2}")

_Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_PIXELS)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Box = Annotated[
    list[Annotated[float, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=4, max_length=4)
]


class Instance(msgspec.Struct, forbid_unknown_fields=True):
    """A garment: a row of COCO's results, with the mask's pixels and the name of its colour."""

    category_id: Annotated[int, msgspec.Meta(ge=1)]
    bbox: _Box
    score: Annotated[float, msgspec.Meta(ge=0, le=1)]
    segmentation: TextRLE
    area: _Count
    color: str


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """What is known of a finished image; the fields are the keys of its JSON file.

    Attributes:
        settings: text that changes with everything that changes the results.
        source: `source_state` of the image file before it was read.
        save: the kinds of output that were written.
        files: links to them, relative to the output folder.
        thumbnail: data URL, or None.
        width, height: of the image, pixels.
    """

    version: int
    settings: str
    source: Annotated[list[int], msgspec.Meta(max_length=2)]
    save: list[str]
    files: list[str]
    thumbnail: str | None
    width: _Side
    height: _Side
    instances: list[Instance]

    @property
    def pixels(self) -> int:
        """Number of pixels of the image."""
        return self.width * self.height


# Image id, the input file and its record: what tables and gallery are made of.
Entry = tuple[int, InputImage, Record]


def describe(result: Result) -> list[Instance]:
    """The garments of a result as they are recorded."""
    instances = []
    for i, row in enumerate(result.to_coco()):
        crop = result.crop(i)
        instances.append(
            Instance(
                row["category_id"],
                row["bbox"],
                row["score"],
                row["segmentation"],
                area=int(np.count_nonzero(crop)),
                color=color_name(result.image[result.window(i)][crop]),
            )
        )
    return instances


def check_record(record: Record, output: str, class_names: Sequence[str]) -> None:
    """Raises ValueError unless this program could have written it for an image.

    Args:
        output: `InputImage.output` of the image.
        class_names: by class id, background first.
    """
    if record.version != VERSION:
        raise ValueError(f"its version is {record.version}, not {VERSION}")
    if record.pixels > MAX_PIXELS:
        raise ValueError(f"an image of {record.width} x {record.height} pixels is too large")
    if not set(record.save) <= set(KINDS) or len(set(record.save)) < len(record.save):
        raise ValueError("it names outputs that there are not")
    if not _has_files(record, output, class_names):
        raise ValueError("it names files that aren't the image's")
    if not (_is_thumbnail(record) if "html" in record.save else record.thumbnail is None):
        raise ValueError("its thumbnail is no image")
    size = record.height, record.width
    masks = to_rles([i.segmentation for i in record.instances], [size] * len(record.instances))
    for instance, mask in zip(record.instances, masks, strict=True):
        x, y, width, height = instance.bbox
        if x + width > record.width or y + height > record.height:
            raise ValueError("a box lies outside the image")
        left, top, mask_width, mask_height = bounds(mask)
        fits = x <= left and y <= top
        fits &= left + mask_width <= x + width and top + mask_height <= y + height
        if instance.area != area(mask) or (instance.area and not fits):
            raise ValueError("a mask doesn't fit its area or its box")
        if instance.color not in COLORS and instance.color:
            raise ValueError("it names a colour that there is not")


def _is_thumbnail(record: Record) -> bool:
    return record.thumbnail is not None and bool(_THUMBNAIL.fullmatch(record.thumbnail))


def _has_files(record: Record, output: str, class_names: Sequence[str]) -> bool:
    """Whether the files of a record are those that its image gets."""
    if any(i.category_id >= len(class_names) for i in record.instances):
        return False
    expected = [*mask_files(output)] if "masks" in record.save else []
    if "cutouts" in record.save:
        expected += [
            cutout_file(output, number, class_names[i.category_id])
            for number, i in enumerate(record.instances, 1)
            if i.bbox[2] * i.bbox[3]
        ]
    links = [*map(link, expected)]
    if "overlay" in record.save:
        return record.files in [[link(overlay_file(output, kind)), *links] for kind in FORMATS]
    return record.files == links


def source_state(path: Path) -> list[int]:
    """What changes with a file: [bytes, time of the last change in nanoseconds]."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


class Records:
    """The records of an output folder.

    Args:
        folder: the output folder.
        settings: see `Record`.
        class_names: by class id, background first.

    Attributes:
        done: names of the files by output of images that are done in this run or were before.
        unusable: (name, reason) by output of images whose records are none.
    """

    def __init__(self, folder: OutputFolder, settings: str, class_names: Sequence[str]) -> None:
        self.folder, self.settings, self.class_names = folder, settings, class_names
        self.done: dict[str, list[str]] = {}
        self.unusable: dict[str, tuple[str, str]] = {}
        # Hash by output of records that were written or checked by this run: checked once only.
        self._sound: dict[str, bytes] = {}

    def write(self, image: InputImage, record: Record) -> None:
        """Writes the record of an image whose files are complete, and removes older ones."""
        data = msgspec.json.encode(record)
        self.folder.write(record_file(image.output), data)
        self._sound[image.output] = hashlib.sha256(data).digest()
        files = [on_disk(name) for name in record.files]
        for name in self.folder.notes.of_image(image.output) - set(files):
            self.folder.remove(name)
        self.done[image.output] = files

    def read(self, image: InputImage) -> Record | None:
        """The record of an image; None if there is none, or it is none, see `unusable`."""
        name = record_file(image.output)
        if name not in self.folder.notes:
            return None
        try:
            data = read_regular(self.folder.path / name, MOST_BYTES, links=False)
            record = msgspec.json.decode(data, type=Record)
            digest = hashlib.sha256(data).digest()
            if self._sound.get(image.output) != digest:
                check_record(record, image.output, self.class_names)
                self._sound[image.output] = digest
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            why = getattr(error, "strerror", None) or str(error)
            self.unusable[image.output] = image.name, why
            return None
        return record

    def entries(
        self, images: Iterable[InputImage], leave_out: Container[str] = ()
    ) -> Iterator[Entry]:
        """Yields the entries of images that are done with these settings; ids count from 1.

        Args:
            leave_out: outputs of images that have none.
        """
        for image_id, image in enumerate(images, 1):
            record = None if image.output in leave_out else self.read(image)
            if record is not None and record.settings == self.settings and self._has_all(record):
                yield image_id, image, record

    def is_complete(self, image: InputImage, save: Iterable[str]) -> bool:
        """Whether an image, as it is now, was done with these settings and outputs."""
        record = self.read(image)
        if (
            record is None
            or record.settings != self.settings
            or not _is_unchanged(image, record)
            or not set(save) <= set(record.save)
            or not self._has_all(record)
        ):
            return False
        self.done[image.output] = [on_disk(name) for name in record.files]
        return True

    def lost(self, image: InputImage) -> str:
        """The first file that is gone of an image that was done; "" if all are there."""
        record = record_file(image.output)
        if not (self.folder.path / record).is_file():
            return record
        return next((n for n in self.done[image.output] if not self.folder.has(n)), "")

    def discard_changed(self, images: Iterable[InputImage]) -> None:
        """Removes the results of images that have changed since and aren't done anew."""
        for image in images:
            record = None if image.output in self.done else self.read(image)
            if record is not None and not _is_unchanged(image, record):
                self.discard(image)

    def discard(self, image: InputImage) -> None:
        """Removes what was written for an image, its record first."""
        self.done.pop(image.output, None)
        self.folder.remove(record_file(image.output))
        for name in self.folder.notes.of_image(image.output):
            self.folder.remove(name)

    def _has_all(self, record: Record) -> bool:
        return all(self.folder.has(on_disk(name)) for name in record.files)

    def unusable_text(self) -> str:
        """What to tell of unusable records."""
        told = [f"{name} ({why})" for name, why in [*self.unusable.values()][:3]]
        more = len(self.unusable) - len(told)
        return printable(", ".join(told) + f" and {more} more" * bool(more))


def _is_unchanged(image: InputImage, record: Record) -> bool:
    try:
        return record.source == source_state(image.path)
    except (OSError, ValueError):
        return False

"""What was found in each image, kept in a file of its own until the run is complete.

`records/<output>.json` appears once all files of an image are written. A run that is cut off
loses no finished image and can go on; at the end the tables are made from the records.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import msgspec
import numpy as np

from mrcnn.coco.masks import TextRLE
from mrcnn.core.files import write_atomically
from mrcnn.inference.listing import FORMATS, RESERVED, TABLES, InputImage
from mrcnn.inference.results import Result
from mrcnn.render.colors import color_name

VERSION = 1
_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")


class Instance(msgspec.Struct):
    """A garment: a row of COCO's results, with the mask's pixels and the name of its colour."""

    category_id: int
    bbox: list[float]
    score: float
    segmentation: TextRLE
    area: int
    color: str


class Record(msgspec.Struct):
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
    source: list[int]
    save: list[str]
    files: list[str]
    thumbnail: str | None
    width: int
    height: int
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


def link(name: str) -> str:
    """A relative path as a URL: plain ASCII, whatever bytes the path holds."""
    return quote(os.fsencode(name))


def on_disk(url: str) -> str:
    """The path that `link` was given."""
    return os.fsdecode(unquote_to_bytes(url))


def source_state(path: Path) -> list[int]:
    """What changes with a file: [bytes, time of the last change in nanoseconds]."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


class Records:
    """The records of an output folder.

    Args:
        folder: the output folder.
        settings: see `Record`.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self.folder, self.settings = folder, settings

    def path(self, image: InputImage) -> Path:
        """Where the record of an image lies."""
        return self.folder / "records" / f"{image.output}.json"

    def write(self, image: InputImage, record: Record) -> None:
        """Writes the record of an image whose files are complete."""
        path = self.path(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, msgspec.json.encode(record))

    def read(self, image: InputImage) -> Record | None:
        """The record of an image; None if there is none, or none of this form."""
        try:
            record = msgspec.json.decode(self.path(image).read_bytes(), type=Record)
        except (OSError, ValueError):  # ValueError: malformed JSON, or no file can have this name
            return None
        return record if record.version == VERSION else None

    def entries(self, images: Iterable[InputImage]) -> Iterable[Entry]:
        """Yields the entries of images that are done with these settings; ids count from 1."""
        for image_id, image in enumerate(images, 1):
            record = self.read(image)
            if record is not None and record.settings == self.settings:
                yield image_id, image, record

    def is_complete(self, image: InputImage, save: Iterable[str]) -> bool:
        """Whether an image, as it is now, was done with these settings and outputs."""
        record = self.read(image)
        return (
            record is not None
            and record.settings == self.settings
            and _is_unchanged(image, record)
            and set(save) <= set(record.save)
            and all((self.folder / on_disk(name)).is_file() for name in record.files)
        )

    def discard_changed(self, images: Iterable[InputImage]) -> None:
        """Removes the results of images whose files have changed since.

        Otherwise a run that ends before it reaches them would list the old results.
        """
        for image in images:
            record = self.read(image)
            if record is not None and not _is_unchanged(image, record):
                self.discard(image)

    def discard(self, image: InputImage) -> None:
        """Removes what an earlier run wrote for an image, its record first."""
        record = self.read(image)
        names = {f"{image.output}.{ending}" for ending in FORMATS}
        names |= {on_disk(name) for name in record.files} if record else set()
        for path in (self.path(image), *(self.folder / name for name in names)):
            with suppress(OSError, ValueError):  # ValueError: no file can have this name
                path.unlink()

    def remove_tables(self, images: Iterable[InputImage]) -> None:
        """Removes the tables of an earlier run and half-written files of one that was cut off."""
        for name in TABLES:
            with suppress(OSError):
                (self.folder / name).unlink()
        parents = {Path(image.output).parent for image in images}
        for folder in [self.folder / kind / p for kind in ("", *RESERVED) for p in parents]:
            for path in folder.iterdir() if folder.is_dir() else ():
                if _LEFTOVER.fullmatch(path.name):
                    with suppress(OSError):
                        path.unlink()


def _is_unchanged(image: InputImage, record: Record) -> bool:
    try:
        return record.source == source_state(image.path)
    except (OSError, ValueError):
        return False

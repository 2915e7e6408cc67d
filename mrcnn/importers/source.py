"""What the readers of annotation formats give, and what they share.

A reader, `read(data, choices)` of `yolo`, `voc`, `labelme` and `via`, gives a `Source`: splits of
images, each with its items. Both are made while they are iterated over. What is wrong with one is noted
among the split's problems, and the next one follows.

Coordinates are pixels of the image as it was shown to whoever annotated it; see `AnnotatedImage`.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mrcnn.coco.masks import RLE
from mrcnn.core.files import read_regular
from mrcnn.core.problems import Place, Problem, Unusable, shown
from mrcnn.core.reading import ImageError, image_header

ROLES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LARGEST_LIST = 2**26  # bytes of a list of names
LONGEST_NAME = 100  # letters of a class name
MOST_FOLDERS = 20  # in the path of an image


class SourceError(ValueError):
    """A data set that can't be read at all; the message says what was found and what to do."""


@dataclass(frozen=True)
class Choices:
    """What the user decides.

    Attributes:
        image_dir: folder of the images; None for that of the data.
        class_name: one class for all items.
        class_attribute: which attribute of VIA's regions names the class.
    """

    image_dir: Path | None = None
    class_name: str | None = None
    class_attribute: str | None = None


class Item(NamedTuple):
    """An annotated object: polygons [x1, y1, x2, y2, ...] and a mask, or one of them; or a box."""

    name: str
    polygons: list[list[float]] | None = None
    mask: RLE | None = None
    box: list[float] | None = None  # [x, y, width, height]


class AnnotatedImage(NamedTuple):
    """An image and its items.

    Attributes:
        file_name: path in `Split.folder`, with slashes.
        size: (width, height) in pixels. For a file with an EXIF rotation this is the size of the
            upright image, which annotation tools show, unless the annotation itself gives that of
            the stored one.
        place: where its problems belong; `place.item` is the item that was given last.
    """

    file_name: str
    size: tuple[int, int]
    place: Place
    items: Iterable[Item]


@dataclass(frozen=True)
class Split:
    """Images that belong together.

    Attributes:
        name: "train", "validation" or "test".
        folder: of all images.
        count: number of images to be read, unusable ones included.
    """

    name: str
    folder: Path
    images: Iterator[AnnotatedImage]
    count: int
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A data set; `names` are the classes that it declares, in its order, whether used or not."""

    splits: Sequence[Split]
    names: Sequence[str] = ()


def split_folders(data: Path) -> dict[str, Path]:
    """Role of a split -> the folder in `data` that is named so: train, val, ...

    Raises:
        SourceError: if two have the same role, such as val/ and valid/.
    """
    found: dict[str, Path] = {}
    for name, role in ROLES.items():
        if (data / name).is_dir():
            if role in found:
                both = f"{found[role].name}/ and {name}/"
                raise SourceError(f"{data} has {both}, both for {role}; rename one")
            found[role] = data / name
    return found


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that aren't empty, without outer spaces.

    Raises:
        SourceError: if it can't be read, or is too large for a list of names.
    """
    try:
        lines = read_regular(file, LARGEST_LIST).decode("utf-8-sig", "replace").splitlines()
    except (OSError, ValueError) as error:
        raise SourceError(f"{file} can't be read: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def class_name(text: object) -> str:
    """A class's name in one line, without outer spaces.

    Raises:
        Unusable: if there is none.
    """
    name = " ".join(text.split()) if isinstance(text, str) else ""
    if not name:
        raise Unusable("no class", f"its class is {shown(text)}")
    if not name.isprintable() or len(name) > LONGEST_NAME:
        raise Unusable("bad class name", f"{shown(name)} is too long or not printable")
    return name


def open_image(
    place: Place, folder: Path, path: Path, declared: tuple[float, float] | None = None
) -> tuple[str, tuple[int, int]]:
    """`file_name` and `size` of an `AnnotatedImage`; reads the file's header only.

    Args:
        place: for a note if it can't be told whether the upright or the stored image was annotated.
        folder: of all images, which holds `path`.
        declared: (width, height) that the annotation gives; None if it doesn't.

    Raises:
        Unusable: if the image can't be used.
    """
    file_name = path.relative_to(folder).as_posix()
    try:
        file_name.encode()
    except UnicodeEncodeError:
        raise Unusable("bad file name", "it isn't UTF-8, which JSON needs; rename it") from None
    try:
        stored, orientation = image_header(path)
    except ImageError as error:
        raise Unusable("unreadable picture", str(error)) from None
    upright = (stored[1], stored[0]) if orientation >= 5 else stored
    if declared not in (None, upright, stored):
        actual = f"it is {upright[0]} x {upright[1]}"
        raise Unusable("size mismatch", f"annotated as {shown(declared)} (width, height); {actual}")
    if orientation > 1 and stored == upright:
        detail = (
            f"EXIF orientation {orientation}; its size doesn't tell if it was annotated upright"
        )
        place.note("turned picture", detail, "upright, unless other pictures tell otherwise")
    return file_name, stored if declared == stored else upright


def find_image(folders: Iterable[Path], name: object) -> Path:
    """The file that an annotation calls `name`, in the first of some folders that has it.

    Tools write paths of the machine they ran on. Of a path that isn't there, or would lead out of
    the folder, leading parts are dropped until it fits. Backslashes are Windows' slashes, and
    letters with accents may be written in two ways.

    Raises:
        Unusable: if there is none.
    """
    if not isinstance(name, str) or not name.strip("\0 ./\\"):
        raise Unusable("bad file name", "the annotation names no image")
    for text in dict.fromkeys((name, name.replace("\\", "/"))):
        parts = os.path.normpath(re.sub("^[A-Za-z]:", "", text)).split("/")[-MOST_FOLDERS:]
        parts = [part for part in parts if part not in ("", "..")]
        for start in range(len(parts)):
            short = "/".join(parts[start:])
            forms = (unicodedata.normalize(form, short) for form in ("NFC", "NFD"))
            for form in dict.fromkeys((short, *forms)):
                for folder in folders:
                    if os.path.isfile(os.path.join(folder, form)):
                        return folder / form
    raise Unusable("missing picture", f"no {shown(name)}")

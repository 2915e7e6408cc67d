"""JSON of the VGG Image Annotator (VIA), versions 1 and 2: exported annotations, or a project.

An export maps keys to images, each with `filename` and `regions`, a list or (version 1) a dict of numbers;
a project has such a map as `_via_img_metadata`. Regions: `via_regions`.

A region's class is an attribute of any name. Where regions have several, or none, as in matterport's
balloon data set, the user names it, or the class.
"""

import contextlib
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mrcnn.core.files import open_regular
from mrcnn.core.problems import Place, Problem, Unusable, shown
from mrcnn.importers.shapes import decode, read_json
from mrcnn.importers.source import (
    ROLES,
    AnnotatedImage,
    Choices,
    Source,
    SourceError,
    Split,
    find_image,
    open_image,
    split_folders,
)
from mrcnn.importers.via_regions import items, list_regions

LIKELY = ("class", "label", "name", "category", "type")  # attributes that name classes
MOST_OBJECTS = 5_000_000  # in a file


class _Attributes(msgspec.Struct):
    """A region, of which nothing but the names of its attributes matters."""

    region_attributes: dict[str, Raw] = {}


class _Image(msgspec.Struct):
    filename: str
    regions: Raw


class _Attribute(msgspec.Struct):
    options: dict[str, Raw] = {}


class _Declared(msgspec.Struct):
    region: dict[str, _Attribute] = {}


class _Project(msgspec.Struct):
    images: dict[str, Raw] | UnsetType = msgspec.field(default=UNSET, name="_via_img_metadata")
    attributes: Raw = msgspec.field(default=Raw(b"{}"), name="_via_attributes")


class _File:
    """A VIA file.

    Attributes:
        images: key -> JSON of an image.
        options: attribute -> the values that it can have, in the project's order.

    Raises:
        SourceError: if it isn't one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = read_json(path)
            if text.count(b"{") > MOST_OBJECTS:
                raise Unusable("too large", f"it holds more than {MOST_OBJECTS:,} objects")
            project = decode(text, _Project, "not VIA's JSON")
            is_export = project.images is UNSET
            self.images: dict[str, Raw] = (
                decode(text, dict[str, Raw], "not VIA's JSON") if is_export else project.images
            )
            declared = decode(project.attributes, _Declared, "bad attributes").region
        except Unusable as error:
            raise SourceError(f"{path} can't be used, {error}") from None
        self.options = {name: list(attribute.options) for name, attribute in declared.items()}

    def count_attributes(self) -> Counter[str]:
        """How many regions have an attribute of each name."""
        counts: Counter[str] = Counter()
        for text in self.images.values():
            with contextlib.suppress(Unusable):  # what can't be read is noted later
                for region in list_regions(decode(text, _Image, "bad entry").regions):
                    with contextlib.suppress(Unusable):
                        known = decode(region, _Attributes, "bad region").region_attributes
                        counts.update(known.keys())
        return counts


def read(data: Path, choices: Choices) -> Source:
    """The data set of a VIA file, or of a folder that has one in it or in train/, val/ and test/.

    Raises:
        SourceError: if there is none, or several; or it isn't known which attribute is the class.
    """
    home = data if data.is_dir() else data.parent
    files = {name: _File(path) for name, path in _paths(data).items()}
    if not files:
        raise SourceError(f"{data} has no JSON file of VIA 1 or 2; give the folder or the file")
    attribute = None if choices.class_name else _class_attribute(files.values(), choices)
    names = [name for file in files.values() for name in file.options.get(attribute or "", ())]
    root = choices.image_dir or home
    splits = [_split(name, file, home, root, attribute) for name, file in files.items()]
    return Source(splits, list(dict.fromkeys(names)))


def _paths(data: Path) -> dict[str, Path]:
    """Role of a split -> its file."""
    if data.is_file():
        return {ROLES.get(data.parent.name, "train"): data}
    inside = {name: _path(folder) for name, folder in split_folders(data).items()}
    found = {name: path for name, path in inside.items() if path}
    alone = None if found else _path(data)
    return {"train": alone} if alone else found


def _path(folder: Path) -> Path | None:
    found = [path for path in sorted(folder.glob("*.json")) if _looks_like_via(path)]
    usual = [path for path in found if path.name == "via_region_data.json"]
    if len(found) > 1 and not usual:
        names = ", ".join(path.name for path in found)
        raise SourceError(f"{folder} has several VIA files, {names}; give one as --data FILE")
    return next(iter(usual or found), None)


def _looks_like_via(file: Path) -> bool:
    try:
        with open(open_regular(file), "rb") as opened:
            text = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError: the file is empty
        return False
    with text:
        return all(text.find(key) >= 0 for key in (b'"filename"', b'"regions"'))


def _class_attribute(files: Iterable[_File], choices: Choices) -> str:
    counts = sum((file.count_attributes() for file in files), Counter[str]())
    if not counts:
        raise SourceError("no region has an attribute; name the class of all with --class_name")
    plain = {name.strip().lower(): name for name in counts}
    likely = [plain[name] for name in LIKELY if name in plain]
    chosen = choices.class_attribute or next(iter(counts if len(counts) == 1 else likely), None)
    if chosen is None or chosen not in counts:
        listed = ", ".join(f"{shown(name)} ({count})" for name, count in counts.most_common(10))
        raise SourceError(
            f"which attribute is the class? Regions have {listed}; choose one with "
            "--class_attribute, or name the class of all with --class_name"
        )
    return chosen


def _split(name: str, file: _File, home: Path, root: Path, attribute: str | None) -> Split:
    problems: list[Problem] = []
    folders = (root / file.path.parent.relative_to(home), root)
    return Split(
        name, root, _images(file, folders, attribute, problems), len(file.images), problems
    )


def _images(
    file: _File, folders: tuple[Path, Path], attribute: str | None, problems: list[Problem]
) -> Iterator[AnnotatedImage]:
    for key, text in file.images.items():
        place = Place(problems, key)
        with place.skipping("picture skipped"):
            entry = decode(text, _Image, "bad entry")
            place.file = entry.filename
            regions = list_regions(entry.regions)
            path = find_image(folders, entry.filename)
            file_name, size = open_image(place, folders[-1], path)
            yield AnnotatedImage(file_name, size, place, items(regions, attribute, place))

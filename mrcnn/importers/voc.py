"""Pascal VOC: an XML file for each image, perhaps with masks.

VOC's own layout has the folders Annotations, JPEGImages, SegmentationObject and SegmentationClass, and
lists of images, ImageSets/Segmentation/<split>.txt. Roboflow and labelImg put the XML files beside
the images, perhaps in a folder for each split.

Where there are masks (`voc_masks`), they are the objects. Others are the polygons that Roboflow adds,
or else boxes, whose corners count from 1 and are inside.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from mrcnn.core.files import read_regular
from mrcnn.core.problems import Place, Problem, Unusable
from mrcnn.core.reading import SUFFIXES
from mrcnn.importers.source import (
    ROLES,
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
from mrcnn.importers.voc_masks import Legend, ObjectMasks

LARGEST_XML = 2**24  # bytes


def read(data: Path, choices: Choices) -> Source:
    """The data set of a folder such as VOC2012, or of a VOCdevkit with one such folder.

    Raises:
        SourceError: if there are no annotations in it.
    """
    home = _home(data)
    root = choices.image_dir or home
    if any((home / name).is_dir() for name in ("Annotations", "SegmentationObject")):
        return _own_layout(home, root)
    folders = {n: f for n, f in split_folders(home).items() if _stems(f)} or {"train": home}
    if not any(map(_stems, folders.values())):
        raise SourceError(f"{data} has neither Annotations/ nor XML files; give VOC's folder")
    return Source(
        [
            _Layout(root, _inner(root, folder.relative_to(home)), folder).split(n, _stems(folder))
            for n, folder in folders.items()
        ]
    )


def _own_layout(home: Path, root: Path) -> Source:
    legend = Legend(home)
    images, masked = _inner(root, "JPEGImages"), home / "SegmentationObject"
    layout = _Layout(root, images, home / "Annotations", masked, legend)
    stems = _stems(masked, (".png",)) if masked.is_dir() else _stems(layout.annotations)
    sets = _image_sets(home / "ImageSets", masked.is_dir()) or {"train": stems}
    return Source([layout.split(name, stems) for name, stems in sets.items()], legend.names)


def _home(data: Path) -> Path:
    if not data.is_dir():
        raise SourceError(f"{data} is no folder; give the one that holds Annotations/")
    inner = sorted(p for p in data.glob("VOC*") if (p / "Annotations").is_dir())
    if (data / "Annotations").is_dir() or not inner:
        return data
    if len(inner) > 1:
        raise SourceError(f"{data} has {', '.join(p.name for p in inner)}; give one of them")
    return inner[0]


def _inner(folder: Path, name: str | Path) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _stems(folder: Path, suffixes: tuple[str, ...] = (".xml",)) -> list[str]:
    return sorted(_by_stem(folder, suffixes))


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files in a folder and those below, by their names without suffix."""
    paths = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in suffixes)
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in paths if p.name[0] != "."}


def _image_sets(folder: Path, has_masks: bool) -> dict[str, list[str]]:
    """Role of a split -> names of its images; {} without lists of them."""
    for kind in ("Segmentation",) if has_masks else ("Segmentation", "Main"):
        files = {f.stem: f for f in sorted((folder / kind).glob("*.txt"))}
        sets = {role: files[name] for name, role in ROLES.items() if name in files}
        if not sets and len(files) == 1:  # CVAT's default.txt
            sets = {"train": next(iter(files.values()))}
        if sets:
            return {role: sorted(set(read_lines(file))) for role, file in sets.items()}
    return {}


@dataclass(frozen=True)
class _Layout:
    """Where the files of an image are.

    Attributes:
        root: folder of all images. images: the folder in it that corresponds to `annotations`.
        masked: SegmentationObject, beside SegmentationClass.
    """

    root: Path
    images: Path
    annotations: Path
    masked: Path | None = None
    legend: Legend | None = None

    def split(self, name: str, stems: list[str]) -> Split:
        problems: list[Problem] = []
        return Split(name, self.root, self._images(stems, problems), len(stems), problems)

    def _images(self, stems: Iterable[str], problems: list[Problem]) -> Iterator[AnnotatedImage]:
        images = _by_stem(self.images, SUFFIXES)
        annotated = _by_stem(self.annotations, (".xml",))
        masked = _by_stem(self.masked, (".png",)) if self.masked else {}
        for stem in stems:
            place = Place(problems, stem)
            files = images.get(stem), annotated.get(stem), masked.get(stem)
            with place.skipping("picture skipped"):
                yield self._image(stem, *files, place)

    def _image(
        self,
        stem: str,
        path: Path | None,
        annotated: Path | None,
        masked: Path | None,
        place: Place,
    ) -> AnnotatedImage:
        if annotated is None and masked is None:
            raise Unusable("missing annotation", f"neither {stem}.xml nor a mask")
        xml = None if annotated is None else _parsed(annotated)
        if path is None:
            name = None if xml is None else xml.findtext("filename")
            path = find_image([self.images], name or f"{stem}.jpg")
        found = self._masks(stem, masked)
        declared = found.size if found else _size(xml)
        file_name, size = open_image(place, self.root, path, declared)
        objects = [] if xml is None else xml.findall("object")
        return AnnotatedImage(file_name, size, place, _items(objects, found, place))

    def _masks(self, stem: str, masked: Path | None) -> ObjectMasks | None:
        if masked is None or self.masked is None or self.legend is None:
            return None
        classes = self.masked.parent / "SegmentationClass" / f"{stem}.png"
        return ObjectMasks(masked, classes, self.legend)


def _parsed(file: Path) -> Element:
    try:
        # No entities, which may refer to other files or unfold to gigabytes.
        root: Element = fromstring(read_regular(file, LARGEST_XML), forbid_dtd=True)
        return root
    except DefusedXmlException:
        raise Unusable("broken XML", "it has a DTD, which may be harmful; remove it") from None
    except (ParseError, LookupError, ValueError, OSError) as error:
        raise Unusable("broken XML", str(error)) from None


def _size(xml: Element | None) -> tuple[int, int] | None:
    """(width, height) as the file says; tools that don't know write 0."""
    try:
        assert xml is not None
        size = int(xml.findtext("size/width", "")), int(xml.findtext("size/height", ""))
    except ValueError:
        return None
    return size if min(size) > 0 else None


def _items(objects: list[Element], found: ObjectMasks | None, place: Place) -> Iterator[Item]:
    if found:
        yield from found.items([entry.findtext("name") for entry in objects], place)
    for number, entry in enumerate(objects, 1):
        place.item = f"object {number}"
        if not (found and found.has(number)):
            with place.skipping("item skipped"):
                yield _item(entry)


def _item(entry: Element) -> Item:
    name = class_name(entry.findtext("name"))
    polygons = [_polygon(polygon) for polygon in entry.findall("polygon")]
    if polygons:
        return Item(name, polygons)
    corners = [_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    x1, y1, x2, y2 = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
    return Item(name, box=[x1, y1, x2 - x1, y2 - y1])


def _polygon(entry: Element) -> list[float]:
    """x1, y1, x2, y2, ... of children of these names."""
    count = sum(child.tag[0] == "x" for child in entry)
    return [_number(entry, f"{axis}{n}") for n in range(1, count + 1) for axis in "xy"]


def _number(entry: Element, path: str) -> float:
    text = entry.findtext(path)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Unusable("bad number", f"{path} is {(text or '')[:20]!r}, not a finite number")
    return value

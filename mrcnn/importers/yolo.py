"""YOLO's labels with outlines: a text file for each image, a line for each object.

A line is a class's number and values from 0 to 1, fractions of the image's width and height: x1 y1 x2
y2 x3 y3 ... of an outline; or centre x, centre y, width and height of a box, after which a score may
stand. Parts of one object are joined by bridges of no width. Where the files are: `yolo_files`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrcnn.core.files import open_regular
from mrcnn.core.problems import Place, Problem, Unusable, shown
from mrcnn.importers.source import AnnotatedImage, Choices, Item, Source, Split, open_image
from mrcnn.importers.yolo_files import DataSet, label_file, list_images, open_data

TOLERANCE = 0.01  # beyond 0 and 1, as in Ultralytics' package


def read(data: Path, choices: Choices) -> Source:
    """The data set of a data.yaml, or of the folder that holds it.

    Raises:
        SourceError: if it has no data.yaml, or that can't be used.
    """
    found = open_data(data, choices.image_dir)
    return Source([_split(found, name) for name in found.places], found.names)


def _split(data: DataSet, name: str) -> Split:
    problems: list[Problem] = []
    paths = list_images(data.places[name], data.root, problems)
    return Split(name, data.root, _images(data, paths, problems), len(paths), problems)


def _images(data: DataSet, paths: list[Path], problems: list[Problem]) -> Iterator[AnnotatedImage]:
    for path in paths:
        place = Place(problems, path.relative_to(data.root).as_posix())
        with place.skipping("picture skipped"):
            file_name, size = open_image(place, data.root, path)
            labels = _Labels(data.names, data.keypoints, size)
            file = label_file(data.root, path)
            yield AnnotatedImage(file_name, size, place, labels.items(file, place))


class _Labels(NamedTuple):
    """What a label file's numbers mean.

    Attributes:
        keypoints: number of values of keypoints that follow each box.
        size: (width, height) of the image.
    """

    names: list[str]
    keypoints: int
    size: tuple[int, int]

    def items(self, file: Path, place: Place) -> Iterator[Item]:
        """The items of a label file; an image without one has no objects."""
        try:
            handle = open_regular(file)
        except FileNotFoundError:
            place.note("no label file", f"no {file.name}", "taken as without objects")
            return
        except (OSError, ValueError) as error:
            place.note("unreadable labels", str(error), "taken as without objects")
            return
        with open(handle, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                place.item = f"line {number}"
                if values := line.split():
                    with place.skipping("item skipped"):
                        yield self._item(values)

    def _item(self, values: list[str]) -> Item:
        name = self._class_name(values[0])
        count = len(values) - 1
        if count in (4, 5) or (self.keypoints and count == 4 + self.keypoints):
            x, y, w, h = (_fractions(values[1:5]) * (self.size * 2)).tolist()
            return Item(name, box=[x - w / 2, y - h / 2, w, h])
        if count < 6 or count % 2:
            raise Unusable("bad line", f"{count} values after its class, not 4 or pairs of x and y")
        points = _fractions(values[1:]).reshape(-1, 2) * self.size
        return Item(name, [points.ravel().tolist()])

    def _class_name(self, text: str) -> str:
        try:
            number = float(text)  # some tools write 1.0
            if number < 0 or int(number) != number:
                raise ValueError
            return self.names[int(number)]
        except (ValueError, OverflowError, IndexError):
            detail = f"{shown(text)} is none of 0 to {len(self.names) - 1}"
            raise Unusable("unknown class", detail) from None


def _fractions(texts: list[str]) -> np.ndarray:
    """Values from 0 to 1; what is a little outside is cut off."""
    try:
        values = np.array(texts, float)
    except ValueError as error:
        raise Unusable("bad value", str(error)[:80]) from None
    inside = (values >= -TOLERANCE) & (values <= 1 + TOLERANCE)
    if not inside.all():
        worst = shown(texts[int(inside.argmin())])
        raise Unusable("bad value", f"{worst} is not from 0 to 1; is it in pixels?")
    return values.clip(0, 1)

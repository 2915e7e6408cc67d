"""The files that cover a whole run: results.json, images.json, results.csv and failures.csv.

They are written row by row, so a run of any length needs no more memory for them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

from mrcnn.core.classes import check_ids
from mrcnn.core.text import csv_lines, writable
from mrcnn.inference.folder import OutputFolder
from mrcnn.inference.records import Entry

COLUMNS = (
    *("file", "image_id", "class_id", "class", "score", "x", "y", "width", "height"),
    *("area_pixels", "area_percent", "color"),
)
# Adds an image to a file that is being written.
AddEntry = Callable[[Entry], None]


@contextmanager
def json_array(
    folder: OutputFolder,
    name: str,
    head: bytes = b"[",
    tail: bytes = b"]",
    encode: Callable[[Any], bytes] = orjson.dumps,
) -> Iterator[Callable[[Any], None]]:
    """Writes a JSON file item by item; it appears under its name once it is complete.

    Args:
        head, tail: what surrounds the items.

    Yields:
        the function that adds an item.
    """
    with folder.replacing(name) as temporary, open(temporary, "wb") as file:
        file.write(head)
        separator = b""

        def add(item: Any) -> None:
            nonlocal separator
            file.write(separator + encode(item))
            separator = b",\n"

        yield add
        file.write(tail)


@contextmanager
def coco_files(
    folder: OutputFolder, class_names: Sequence[str], category_ids: Sequence[int] | None = None
) -> Iterator[AddEntry]:
    """results.json in COCO's results format, and images.json, the images and classes it names.

    Args:
        category_ids: COCO's category id by class id; None: they are the same.
    """
    ids = check_ids(category_ids, len(class_names))
    categories = [{"id": ids[i], "name": name} for i, name in enumerate(class_names) if i]
    head = b'{"info":{"description":"pictures of results.json"},"images":['
    tail = b'],"annotations":[],"categories":' + orjson.dumps(categories) + b"}"
    with (
        json_array(folder, "results.json") as add_result,
        json_array(folder, "images.json", head, tail) as add_image,
    ):

        def add(entry: Entry) -> None:
            image_id, image, record = entry
            size = {"width": record.width, "height": record.height}
            add_image({"id": image_id, "file_name": writable(image.name), **size})
            for instance in record.instances:
                row = {
                    "image_id": image_id,
                    "category_id": ids[instance.category_id],
                    "bbox": instance.bbox,
                    "score": instance.score,
                    "segmentation": instance.segmentation,
                }
                add_result(row)

        yield add


@contextmanager
def csv_table(folder: OutputFolder, class_names: Sequence[str]) -> Iterator[AddEntry]:
    """results.csv: a line for each garment."""
    with folder.replacing("results.csv") as path, open(path, "wb") as file:
        file.write(csv_lines([COLUMNS]))

        def add(entry: Entry) -> None:
            image_id, image, record = entry
            rows = []
            for found in record.instances:
                class_id, percent = found.category_id, 100 * found.area / record.pixels
                rows.append(
                    [
                        *(image.name, image_id, class_id, class_names[class_id]),
                        *(f"{found.score:.4f}", *(round(v) for v in found.bbox)),
                        *(found.area, f"{percent:.3f}", found.color),
                    ]
                )
            file.write(csv_lines(rows))

        yield add


def write_failures(folder: OutputFolder, rows: Iterable[tuple[str, str]]) -> None:
    """Writes failures.csv: (file, reason) rows, sorted; the header alone if there are none."""
    folder.write("failures.csv", csv_lines([("file", "reason"), *sorted(rows)]))

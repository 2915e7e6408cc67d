"""The files that cover a whole run: results.json, images.json, results.csv and failures.csv.

They are written row by row, so that a run of any length needs no more memory for them.
"""

import csv
import io
from collections import Counter
from contextlib import ExitStack

import orjson

from mrcnn.core.files import replacing, write_atomically

COLUMNS = (
    *("file", "image_id", "class_id", "class", "score", "x", "y", "width", "height"),
    *("area_pixels", "area_percent", "color"),
)
_COCO = ("category_id", "bbox", "score", "segmentation")


def writable(text):
    """Text without the stand-ins for bytes that aren't UTF-8, which file names may hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_tables(folder, entries, class_names, save):
    """Makes the tables of the images that were done.

    Args:
        folder: Path.
        entries: iterable of (image_id, `listing.Picture`, record), see `records`.
        class_names: by class id, background first.
        save: kinds of output: "json" gives results.json and images.json, "csv" results.csv.

    Returns:
        number of images, and a Counter of garments by class id.
    """
    counts: Counter[int] = Counter()
    pictures = 0
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names) if i]
    head = b'{"info":{"description":"pictures of results.json"},"images":['
    tail = b'],"annotations":[],"categories":' + orjson.dumps(categories) + b"}"
    with ExitStack() as stack:
        results = images = table = None
        if "json" in save:
            results = stack.enter_context(JsonArray(folder / "results.json", b"[", b"]"))
            images = stack.enter_context(JsonArray(folder / "images.json", head, tail))
        if "csv" in save:
            path = stack.enter_context(replacing(folder / "results.csv"))
            # Opened later than the renaming is planned, so closed before it takes place.
            file = stack.enter_context(open(path, "w", encoding="utf-8", newline=""))
            table = csv.writer(file)
            table.writerow(COLUMNS)
        for image_id, picture, record in entries:
            pictures += 1
            counts.update(row["category_id"] for row in record["instances"])
            name, width, height = writable(picture.name), record["width"], record["height"]
            if images and results:
                row = {"id": image_id, "file_name": name, "width": width, "height": height}
                images.add(row)
                for row in record["instances"]:
                    results.add({"image_id": image_id, **{k: row[k] for k in _COCO}})
            if table:
                for row in record["instances"]:
                    cells = _cells(row, width * height, class_names)
                    table.writerow([name, image_id, *cells])
    return pictures, counts


def _cells(row, pixels, class_names):
    class_id, percent = row["category_id"], 100 * row["area"] / pixels
    box = [round(v) for v in row["bbox"]]
    name, score = class_names[class_id], f"{row['score']:.4f}"
    return [class_id, name, score, *box, row["area"], f"{percent:.3f}", row["color"]]


class JsonArray:
    """A JSON file written item by item, which takes its name when it is complete."""

    def __init__(self, path, head, tail):
        self._path, self._head, self._tail = path, head, tail

    def __enter__(self):
        self._stack = ExitStack()
        self._file = self._stack.enter_context(
            open(self._stack.enter_context(replacing(self._path)), "wb")
        )
        self._file.write(self._head)
        self._is_first = True
        return self

    def add(self, item):
        self._file.write((b"" if self._is_first else b",\n") + orjson.dumps(item))
        self._is_first = False

    def __exit__(self, *error):
        if error[0] is None:
            self._file.write(self._tail)
        return self._stack.__exit__(*error)


def write_failures(folder, rows):
    """Writes failures.csv: (file, reason) rows, sorted; the header alone if there are none."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("file", "reason"), *sorted(rows)])
    write_atomically(folder / "failures.csv", text.getvalue().encode())

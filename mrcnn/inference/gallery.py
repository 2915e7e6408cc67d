"""The gallery of a run: index.html, one file to search and compare its images, offline.

Thumbnails are embedded, so thousands of images show at once. Overlays and images at full size
are links relative to the output folder. Without these files the page shows what it has.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from mrcnn.core.text import writable
from mrcnn.inference.folder import OutputFolder
from mrcnn.inference.names import FORMATS, link, overlay_file
from mrcnn.inference.records import Entry
from mrcnn.inference.tables import AddEntry, json_array
from mrcnn.render.drawing import color_for
from mrcnn.render.html import render

# Where the data of the images go in the rendered page; they are written one by one, as thousands
# of embedded thumbnails would take much memory.
_PLACE = "[@images@]"


@contextmanager
def gallery_page(
    folder: OutputFolder, class_names: Sequence[str], failures: Sequence[tuple[str, str]]
) -> Iterator[AddEntry]:
    """index.html.

    Args:
        folder: the output folder.
        class_names: by class id, background first.
        failures: (file, reason) of what has no results.
    """
    classes = [
        {"name": name.replace("_", " "), "color": "#" + bytes(color_for(i)).hex()}
        for i, name in enumerate(class_names)
    ]
    page = render("gallery.html.j2", classes=classes, failures=failures, place=_PLACE)
    head, tail = page.rsplit(_PLACE, 1)  # a failed file may have this name, too
    ends = head.encode() + b"[\n", b"]" + tail.encode()
    with json_array(folder, "index.html", *ends, encode=_for_script) as add_card:
        yield lambda entry: add_card(_card(folder.path, entry))


def _for_script(card: dict[str, Any]) -> bytes:
    """JSON without "<", which would let a file name end the script that holds the data."""
    return orjson.dumps(card).replace(b"<", b"\\u003c")


def _card(folder: Path, entry: Entry) -> dict[str, Any]:
    """The data of an image for the page's script."""
    _, image, record = entry
    overlays = {link(overlay_file(image.output, kind)) for kind in FORMATS}
    found = [
        [
            instance.category_id,
            round(instance.score, 3),
            instance.color,
            round(100 * instance.area / record.pixels, 1),
        ]
        for instance in record.instances
    ]
    return {
        "name": writable(image.name),
        "original": _url(folder, image.path),
        "overlay": next((name for name in record.files if name in overlays), None),
        "thumbnail": record.thumbnail,
        "size": [record.width, record.height],
        "found": found,
    }


def _url(folder: Path, path: Path) -> str:
    """A link from the output folder to a file, relative where possible."""
    path = Path(os.path.abspath(path))
    try:
        return link(Path(os.path.relpath(path, os.path.abspath(folder))).as_posix())
    except ValueError:  # on another drive
        return path.as_uri()

"""The gallery of a run: index.html, one file to look through and compare, offline.

Small overlays are embedded, so thousands of images show at once; overlay and image at full
size are links relative to the output folder. Without these files the page shows what it has.
"""

import os
from pathlib import Path

import orjson

from mrcnn.core.files import replacing
from mrcnn.inference.records import link
from mrcnn.inference.tables import writable
from mrcnn.render.drawing import color_for
from mrcnn.render.html import render

# Where the images' data go in the rendered page; they are written one by one, as thousands
# of embedded images would be much memory.
_PLACE = "[@pictures@]"


def write_gallery(folder, entries, class_names, failures):
    """Writes index.html.

    Args:
        folder: Path of the output folder.
        entries: iterable of (image_id, `listing.Picture`, record), see `records`.
        class_names: by class id, background first.
        failures: (file, reason) of what has no results.
    """
    classes = [
        {"name": name.replace("_", " "), "color": "#" + bytes(color_for(i)).hex()}
        for i, name in enumerate(class_names)
    ]
    page = render("gallery.html.j2", classes=classes, failures=failures, place=_PLACE)
    head, tail = page.rsplit(_PLACE, 1)  # a file that failed may be called so, too
    with replacing(folder / "index.html") as path, open(path, "wb") as file:
        file.write(head.encode() + b"[")
        for number, (_, picture, record) in enumerate(entries):
            # "<" would let a file name end the script that holds the data.
            data = orjson.dumps(_card(folder, picture, record)).replace(b"<", b"\\u003c")
            file.write((b",\n" if number else b"\n") + data)
        file.write(b"]" + tail.encode())


def _card(folder, picture, record):
    overlays = {link(f"{picture.output}.{ending}") for ending in ("png", "jpg")}
    found = [
        [
            row["category_id"],
            round(row["score"], 3),
            row["color"],
            round(100 * row["area"] / (record["width"] * record["height"]), 1),
        ]
        for row in record["instances"]
    ]
    return {
        "name": writable(picture.name),
        "picture": _address(folder, picture.path),
        "overlay": next((name for name in record["files"] if name in overlays), None),
        "thumbnail": record["thumbnail"],
        "size": [record["width"], record["height"]],
        "found": found,
    }


def _address(folder, path):
    """A link from the output folder to a file, relative where that can be."""
    try:
        return link(
            Path(os.path.relpath(os.path.abspath(path), os.path.abspath(folder))).as_posix()
        )
    except ValueError:  # on another drive
        return Path(os.path.abspath(path)).as_uri()

"""Names of the files in an output folder, and of which image a file is a result.

Names are relative to the output folder, with "/". An image's output is what its files' names begin
with, see `listing.InputImage`.
"""

import os
import re
from collections.abc import Collection, Sequence
from urllib.parse import quote, unquote_to_bytes

# Folders and files of the output that belong to the run; see `pipeline.run_images`.
RESERVED = ("records", "masks", "cutouts")
TABLES = ("results.json", "images.json", "results.csv", "failures.csv", "index.html")
FORMATS = ("png", "jpg")  # of overlays
NOTES, LOCK = "records/written.jsonl", "records/run.lock"

_OF_IMAGE = (
    re.compile(r"masks/(.+)\.(?:classes|instances)\.png", re.DOTALL),
    re.compile(r"cutouts/(.+)\.[0-9]+_[^/.]*\.png", re.DOTALL),
    re.compile(r"(?!(?:masks|cutouts|records)/)(.+)\.(?:png|jpg)", re.DOTALL),
)


def record_file(output: str) -> str:
    """The record of an image."""
    return f"records/{output}.json"


def overlay_file(output: str, kind: str) -> str:
    """The overlay of an image; kind: one of `FORMATS`."""
    return f"{output}.{kind}"


def mask_files(output: str) -> tuple[str, str]:
    """The label images of classes and instances."""
    return f"masks/{output}.classes.png", f"masks/{output}.instances.png"


def cutout_file(output: str, number: int, class_name: str) -> str:
    """A garment's cut-out; number: from 1. A class name has 30 bytes in it (`listing.MAX_NAME`),
    and no dot, so that no two images can have a cut-out of one name."""
    part = re.sub("[/.]", "_", class_name).encode(errors="ignore")[:30].decode(errors="ignore")
    return f"cutouts/{output}.{number}_{part}.png"


def output_of(name: str) -> str | None:
    """The output of the image of which a file is a result; None for records and other files."""
    for pattern in _OF_IMAGE:
        if match := pattern.fullmatch(name):
            return match[1]
    return None


def table_files(save: Collection[str]) -> Sequence[str]:
    """The tables of a run; save: as of `writers.Outputs`."""
    kinds = dict(zip(TABLES, ("json", "json", "csv", "", "html"), strict=True))
    return [name for name, kind in kinds.items() if not kind or kind in save]


def link(name: str) -> str:
    """A relative path as a URL: plain ASCII, whatever bytes the path holds."""
    return quote(os.fsencode(name))


def on_disk(url: str) -> str:
    """The path that `link` was given."""
    return os.fsdecode(unquote_to_bytes(url))

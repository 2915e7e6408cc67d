"""What was found in each image, kept in a file of its own until all are done.

`records/<output>.json` appears when an image's files are complete, so a run that is cut off
loses no finished image and can go on. In the end the tables are made of all records.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import orjson

from mrcnn.core.files import write_atomically
from mrcnn.inference.listing import RESERVED, TABLES

VERSION = 1
_KEYS = {
    "version",
    "settings",
    "source",
    "save",
    "files",
    "thumbnail",
    "width",
    "height",
    "instances",
}
_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")


def link(name):
    """A relative path as an address, which is plain ASCII whatever bytes the path holds."""
    return quote(os.fsencode(name))


def on_disk(address):
    """The path that `link` was given."""
    return os.fsdecode(unquote_to_bytes(address))


def source_state(path):
    """What changes with a file: [bytes, time of its last change in nanoseconds].

    Raises:
        OSError: if it can't be asked.
    """
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


class Records:
    """The records of an output folder.

    Args:
        folder: Path, made if need be.
        settings: text that changes with everything that changes the results.
    """

    def __init__(self, folder, settings):
        self.folder, self.settings = Path(folder), settings

    def path(self, picture):
        """Where the record of a `listing.Picture` lies."""
        return self.folder / "records" / f"{picture.output}.json"

    def write(self, picture, source, content, save):
        """Writes the record of an image whose files are complete.

        Args:
            image: `listing.Picture`.
            source: `source_state` of its file, taken before it was read.
            content: dict of `writers.write_picture`.
            save: kinds of output that were written.
        """
        record = {
            "version": VERSION,
            "settings": self.settings,
            "source": source,
            "save": list(save),
            **content,
            "files": [link(name) for name in content["files"]],
        }
        path = self.path(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, orjson.dumps(record))

    def read(self, picture):
        """The record of an image as a dict, None without a sound one."""
        try:
            record = orjson.loads(self.path(picture).read_bytes())
        except (OSError, ValueError):
            return None
        is_sound = isinstance(record, dict) and record.keys() >= _KEYS
        is_sound = is_sound and record["version"] == VERSION
        return record if is_sound else None

    def is_complete(self, picture, save):
        """Whether an image, as it lies there now, was done with these settings and outputs."""
        record = self.read(picture)
        if record is None or record["settings"] != self.settings:
            return False
        return (
            _is_unchanged(picture, record)
            and set(save) <= set(record["save"])
            and all((self.folder / on_disk(name)).is_file() for name in record["files"])
        )

    def forget_changed(self, pictures):
        """Discards the results of images that are no longer what they were, so that they aren't
        taken for theirs if this run ends before it gets there."""
        for picture in pictures:
            record = self.read(picture)
            if record is not None and not _is_unchanged(picture, record):
                self.discard(picture)

    def discard(self, picture):
        """Removes what an earlier run wrote for an image, its record first."""
        record = self.read(picture)
        with suppress(OSError, ValueError):  # ValueError: no file can be called so
            self.path(picture).unlink()
        names = {f"{picture.output}.{ending}" for ending in ("png", "jpg")}
        names |= {on_disk(name) for name in (record or {"files": []})["files"]}
        for name in names:
            with suppress(OSError, ValueError):
                (self.folder / name).unlink()

    def forget_tables(self, pictures):
        """Removes the tables of an earlier run, which no longer tell what lies in the folder,
        and what a run that was cut off left half written."""
        for name in TABLES:
            with suppress(OSError):
                (self.folder / name).unlink()
        parents = {Path(p.output).parent for p in pictures}
        for folder in [self.folder / kind / p for kind in ("", *RESERVED) for p in parents]:
            for path in folder.iterdir() if folder.is_dir() else ():
                if _LEFTOVER.fullmatch(path.name):
                    with suppress(OSError):
                        path.unlink()


def _is_unchanged(picture, record):
    try:
        return record["source"] == source_state(picture.path)
    except (OSError, ValueError):
        return False

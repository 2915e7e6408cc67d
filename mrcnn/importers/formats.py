"""The readers of annotation formats, by name."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mrcnn.importers.source import Choices, Source, SourceError

FORMATS = ("yolo", "voc", "labelme", "via")


def open_source(name: str, data: Path, choices: Choices) -> Source:
    """The data set in a folder or a file.

    Args:
        name: one of `FORMATS`.

    Raises:
        SourceError: if it can't be read at all; the message says why.
    """
    images = choices.image_dir
    for path in (data, images):
        if path is not None and not os.path.exists(path):
            raise SourceError(f"there is no {path}")
    choices = replace(choices, image_dir=images and Path(os.path.abspath(images)))
    return _readers()[name](Path(os.path.abspath(data)), choices)


def _readers() -> dict[str, Callable[[Path, Choices], Source]]:
    # Not before they are needed: --help shouldn't wait for their parsers.
    from mrcnn.importers import labelme, via, voc, yolo

    return {"yolo": yolo.read, "voc": voc.read, "labelme": labelme.read, "via": via.read}

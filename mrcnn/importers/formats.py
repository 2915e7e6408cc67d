"""The readers of annotation formats, by name; each is imported when it is used."""

import importlib
import os
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
    for path in (data, choices.image_dir):
        if path is not None and not os.path.exists(path):
            raise SourceError(f"there is no {path}")
    images = choices.image_dir and Path(os.path.abspath(choices.image_dir))
    reader = importlib.import_module(f"mrcnn.importers.{name}")
    choices = Choices(images, choices.class_name, choices.class_attribute)
    source: Source = reader.read(Path(os.path.abspath(data)), choices)
    return source

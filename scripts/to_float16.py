"""Converts a weights file to float16: half the size, the same layers, names and configuration.

    python scripts/to_float16.py logs/compact.../mask_rcnn_compact_0030.h5 weights/mask_rcnn_compact.h5

`--set` changes settings in the file, such as the score from which detections are shown:
`--set DETECTION_MIN_CONFIDENCE=0.75 DETECTION_PER_CLASS=true`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
import numpy as np

from mrcnn.config import Config
from mrcnn.core.files import replacing
from mrcnn.network.metadata import inspect
from mrcnn.network.weights_file import open_weights
from mrcnn.siblings.head import GROUP


def read_changes(texts: list[str]) -> dict[str, Any]:
    """["NAME=JSON", ...] -> values by name; exits at unknown names and values that aren't JSON."""
    changes = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in Config().to_dict():
            sys.exit(f"--set {text}: {name!r} is no setting; see mrcnn/config.py")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            sys.exit(f"--set {text}: {value!r} is not JSON; write 0.75, true or [32, 64], say")
    return changes


def convert(source: Path, target: Path, changes: dict[str, Any]) -> None:
    """Writes the copy.

    Raises:
        OSError, ValueError: if the file or the changes can't be used.
    """
    config = inspect(source).config
    with open_weights(source) as weights, replacing(target) as path, h5py.File(path, "w") as file:
        file.attrs.update(weights.hdf5.attrs)
        head = weights.part(GROUP)
        for part in [*weights.layers.values(), *([head] if head else [])]:
            copy = file.create_group(part.name)
            copy.attrs.update(part.group.attrs)
            for name, array in zip(part.datasets, part.arrays(), strict=True):
                copy.create_dataset(name, data=array.astype(np.float16))
        if changes:
            changed = Config.from_dict((config or {}) | changes)
            changed.validate()
            file.attrs["config"] = json.dumps(changed.to_dict())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=JSON", dest="changes")
    args = parser.parse_args()
    changes = read_changes(args.changes)
    try:
        convert(args.source, args.target, changes)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

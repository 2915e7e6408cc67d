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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=JSON", dest="changes")
    args = parser.parse_args()
    changes = read_changes(args.changes)
    with (
        replacing(args.target) as temporary,
        h5py.File(args.source) as source,
        h5py.File(temporary, "w") as target,
    ):
        target.attrs.update(source.attrs)
        if changes:
            config = Config.from_dict(json.loads(source.attrs["config"]) | changes)
            config.validate()
            target.attrs["config"] = json.dumps(config.to_dict())
        for layer, group in source.items():
            copy = target.create_group(layer)
            copy.attrs.update(group.attrs)
            for name in group.attrs["weight_names"]:
                copy.create_dataset(name, data=np.asarray(group[name], np.float16))
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

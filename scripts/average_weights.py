"""Averages weights files of one model, as model soups do (Wortsman et al., arXiv:2203.05482).

    python scripts/average_weights.py first.h5 second.h5 average.h5

The files must hold the same layers and come from the same training: a model and its fine-tuned
version, say. Configuration and class names are those of the last file that is averaged.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
import numpy as np

from mrcnn.core.files import replacing
from mrcnn.network import formats
from mrcnn.network.weights_file import WeightsError, check_plain


def arrays_of(path: Path) -> dict[str, tuple[np.ndarray, np.dtype]]:
    """{name: (values in float32, dtype)} of all weights in a file."""
    found: dict[str, tuple[np.ndarray, np.dtype]] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
            check_plain(item)
            found[name] = np.asarray(item, np.float32), item.dtype

    if other := formats.describe(path):
        raise WeightsError(f"{path} {other}")
    with h5py.File(path) as file:
        file.visititems(note)  # which follows no links
    return found


def average(paths: list[Path]) -> dict[str, np.ndarray]:
    """{name: mean of the files' values, in the last one's dtype}; exits if files don't fit."""
    files = [arrays_of(path) for path in paths]
    last = files[-1]
    for path, other in zip(paths, files, strict=True):
        shapes = [{name: values.shape for name, (values, _) in f.items()} for f in (other, last)]
        if not last or shapes[0] != shapes[1]:
            sys.exit(f"{path} and {paths[-1]} hold other weights; give files of the same model")
    return {
        name: np.mean([file[name][0] for file in files], axis=0).astype(dtype)
        for name, (_, dtype) in last.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", type=Path, nargs="+", help="two files or more")
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    if len(args.sources) < 2:
        parser.error("give two files or more to average, then the file to write")
    try:
        mean = average(args.sources)
    except (OSError, WeightsError) as error:
        sys.exit(str(error))
    with (
        replacing(args.target) as temporary,
        h5py.File(args.sources[-1]) as source,
        h5py.File(temporary, "w") as target,
    ):
        target.attrs.update(source.attrs)
        for name in source:
            source.copy(name, target)
        for name, values in mean.items():
            target[name][...] = values
    print(f"{args.target}: {len(mean)} weights of {len(args.sources)} files averaged")


if __name__ == "__main__":
    main()

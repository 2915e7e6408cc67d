"""DeepFashion2 annotations -> COCO JSON, one file for each split.

    python convert_to_coco.py --data data/deepfashion2 --splits train validation

reads `<data>/<split>/image/*.jpg` and `<data>/<split>/annos/*.json` and writes
`<split>_coco.json` and `<split>.problems.csv` into `<data>` or `--output_dir`. What a record holds
and how it is checked: mrcnn/deepfashion2/records.py.

    python convert_to_coco.py --make_demo data/demo --images 200

makes a small data set of the same layout with drawn garments, to try the commands with.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from mrcnn.deepfashion2.converter import ANNOTATED_SPLITS, Summary, convert_split, has_split
from mrcnn.deepfashion2.records import Form

DEFAULT_DATA = "data/deepfashion2"
# Each process takes about 55 MB: a machine with many cores shouldn't pay for idle ones.
MOST_WORKERS = 8


def missing_data_message(folder: str | os.PathLike[str]) -> str:
    """What to tell a user whose DeepFashion2 folder is missing or laid out otherwise.

    Args:
        folder: where the data set was looked for.
    """
    return f"""\
No DeepFashion2 images and annotations were found in {os.fspath(folder)!r}.

DeepFashion2 is a data set of 491,000 clothing photos with boxes, landmarks and masks for 13
kinds of garments. It can't be shipped with this project. To get it:
  1. Follow https://github.com/switchablenorms/DeepFashion2: fill in the form linked there;
     its authors send you the password of the zip files.
  2. Download train.zip and validation.zip and unzip them into {os.fspath(folder)!r}.
  3. The folder must then look like this:
       {Path(folder) / "train" / "image" / "000001.jpg"}
       {Path(folder) / "train" / "annos" / "000001.json"}
       {Path(folder) / "validation" / "image" / "000001.jpg"}
       {Path(folder) / "validation" / "annos" / "000001.json"}
If it lies elsewhere, give its folder with --data. To try the commands without it, make drawn
images of the same layout: python convert_to_coco.py --make_demo data/demo --images 200"""


def usable_cpus() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Converts DeepFashion2 annotations to COCO JSON, one file for each split.",
        epilog="Exit status: 0; 1 if a split has nothing usable, or with --strict any problem; 2 "
        "if there is nothing to convert or the results can't be written; 130 after Ctrl-C.",
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        default=Path(DEFAULT_DATA),
        metavar="DIR",
        help="folder that holds the splits; each holds image/ and annos/ (default: %(default)s)",
    )
    add(
        "--splits",
        nargs="+",
        default=list(ANNOTATED_SPLITS),
        metavar="SPLIT",
        help="folders to convert; one without annos/, such as test, gives an images-only file "
        "(default: train validation)",
    )
    add("--output_dir", type=Path, metavar="DIR", help="for the results (default: that of --data)")
    add("--keypoints", action="store_true", help="add the landmarks as COCO keypoints, 294 points")
    add("--limit", type=_positive, metavar="N", help="the first N images of each split only")
    add(
        "--workers",
        type=_positive,
        metavar="N",
        default=min(usable_cpus(), MOST_WORKERS),
        help="processes; the results are the same for any number (default here: %(default)s)",
    )
    add("--dry_run", action="store_true", help="check all and write nothing")
    add("--strict", action="store_true", help="exit with 1 if there is any problem in the data")
    add(
        "--compat",
        choices=["official"],
        help="official: the fields and values of the data set's own converter (area = w*h, boxes "
        "and polygons as annotated, keypoints), to compare with published numbers",
    )
    demo = parser.add_argument_group("drawn images, to try the commands without the data set")
    demo.add_argument(
        "--make_demo", type=Path, metavar="DIR", help="make such a data set in DIR and stop"
    )
    demo.add_argument("--images", type=_positive, default=200, help="how many (default: 200)")
    demo.add_argument("--seed", type=int, default=0, help="another one draws others (default: 0)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}; give 1 or more")
    return value


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        Exit status: 0; 1 if a split has nothing usable, or with --strict any problem; 2 if
        there is nothing to convert or the results can't be written; 130 after Ctrl-C.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    for split in args.splits:
        if Path(split).name != split:
            parser.error(f"--splits got {split!r}; give the names of folders in --data")
    try:
        with _ended_by_sigterm():
            return _make_demo(args) if args.make_demo else _convert(args)
    except KeyboardInterrupt:
        print("Interrupted; unfinished files were removed.", file=sys.stderr)
        return 130
    except BrokenProcessPool:
        text = "A worker process was killed, perhaps for want of memory; try --workers 1."
        print(text, file=sys.stderr)
        return 2
    except OSError as error:
        where = "--make_demo" if args.make_demo else "--output_dir"
        print(f"Cannot write: {error}. Choose a folder with {where}.", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Makes a polite kill clean up like Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where Python forbids it
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _convert(args: argparse.Namespace) -> int:
    splits = [s for s in dict.fromkeys(args.splits) if has_split(args.data / s)]
    if not splits:
        print(missing_data_message(args.data), file=sys.stderr)
        return 2
    for split in args.splits:
        if split not in splits:
            print(f"{split}: skipped, no images in image/ and annos/ in {args.data / split}")
    output = args.output_dir or args.data
    if not args.dry_run:
        output.mkdir(parents=True, exist_ok=True)
    form = Form(args.keypoints, args.compat == "official")
    options = {"limit": args.limit, "workers": args.workers, "dry_run": args.dry_run}
    status = 0
    for split in splits:
        summary = convert_split(args.data / split, output, form, **options)
        status = max(status, _report(summary, args, output))
    return status


def _report(summary: Summary, args: argparse.Namespace, output: Path) -> int:
    """Prints a split's summary; returns its exit status."""
    print(summary)
    split = summary.split
    table = output / f"{split}.problems.csv"
    if args.dry_run:
        print("nothing written, as asked for\n")
    else:
        print(f"written: {output / f'{split}_coco.json'}, {table}\n")
    listed = "" if args.dry_run else f"; see {table}"
    if not summary.images or (not summary.items and (args.data / split / "annos").is_dir()):
        print(f"{split} has no usable item{listed}", file=sys.stderr)
        return 1
    if args.strict and summary.problems:
        print(f"{split} has problems, and --strict was given{listed}", file=sys.stderr)
        return 1
    return 0


def _make_demo(args: argparse.Namespace) -> int:
    from mrcnn.deepfashion2.demo.scenes import make_demo

    try:
        counts = make_demo(args.make_demo, args.images, args.seed)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    made = ", ".join(f"{count} of {split}" for split, count in counts.items())
    print(f"Drawn images: {made}, in {args.make_demo}. Next:")
    print(f"  python convert_to_coco.py --data {args.make_demo}")
    return 0

"""`convert_to_coco.py`: DeepFashion2 annotations -> COCO JSON, one file for each split.

Reads `<data>/<split>/image/*.jpg` and `<data>/<split>/annos/*.json`, writes `<split>_coco.json`
and `<split>.problems.csv`. What a record holds and how it is checked:
mrcnn/deepfashion2/records.py. With --make_demo it draws a small data set of the same layout.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from mrcnn.commands.arguments import Help, UsageError, add_debug, add_options, from_arguments
from mrcnn.commands.importing import ImportOptions, run_import
from mrcnn.commands.terminal import run, use_streams
from mrcnn.core.options import changed, option, positive
from mrcnn.core.processes import sigterm_interrupts, usable_cpus
from mrcnn.core.text import printable
from mrcnn.deepfashion2.converter import ANNOTATED_SPLITS, Summary, convert_split, has_split
from mrcnn.deepfashion2.records import Form
from mrcnn.importers.source import SourceError

# Each process takes about 55 MB: a machine with many cores shouldn't pay for idle ones.
MOST_WORKERS = 8
EPILOG = """\
examples:
  python convert_to_coco.py --data data/deepfashion2 --splits train validation
  python convert_to_coco.py --make_demo data/demo --images 200

exit status: 0; 3 if a split has nothing usable, or with --strict any problem; 2 if there is
nothing to convert or the results can't be written; 130 after Ctrl-C"""

_DEMO = "demo data: drawn images, to try the commands without the data set"


@dataclass(frozen=True)
class ConvertOptions(ImportOptions):
    """What is converted, into which form; or which demo data are made."""

    data: Path = option(
        Path("data/deepfashion2"),
        "folder that holds the splits; each holds image/ and annos/",
        metavar="DIR",
    )
    splits: tuple[str, ...] = option(
        ANNOTATED_SPLITS,
        "folders to convert; one without annos/, such as test, gives an images-only file",
        nargs="+",
        metavar="SPLIT",
    )
    output_dir: Path | None = option(
        None, "folder for the results; if not given, --data", metavar="DIR"
    )
    keypoints: bool = option(False, "add the landmarks as COCO keypoints, 294 points")
    limit: int | None = option(None, "convert only the first N images of each split", type=positive)
    workers: int | None = option(
        None,
        "processes; the results are the same for any number; if not given, one for each CPU, "
        f"{MOST_WORKERS} at most",
        type=positive,
    )
    dry_run: bool = option(False, "check everything and write nothing")
    strict: bool = option(False, "exit with 3 if there is any problem in the data")
    compat: str | None = option(
        None,
        "official: the fields and values of the data set's own converter (area = w*h, boxes and "
        "polygons as annotated, keypoints), to compare with published numbers",
        choices=["official"],
    )
    make_demo: Path | None = option(
        None, "make such a data set in DIR and stop", metavar="DIR", group=_DEMO
    )
    images: int = option(200, "number of images", type=positive, group=_DEMO)
    seed: int = option(0, "another seed draws other images", group=_DEMO)
    layout: str = option(
        "deepfashion2",
        "deepfashion2, for this converter; coco: three classes of its own, ready to train",
        choices=("deepfashion2", "coco"),
        group=_DEMO,
    )


def missing_data_message(folder: str | os.PathLike[str]) -> str:
    """What to tell a user whose DeepFashion2 folder is missing or laid out otherwise."""
    train, validation = Path(folder) / "train", Path(folder) / "validation"
    return f"""\
No DeepFashion2 images and annotations were found in {os.fspath(folder)!r}.

DeepFashion2 is a data set of 491,000 clothing photos with boxes, landmarks and masks for 13
kinds of garments. It can't be shipped with this project. To get it:
  1. Follow https://github.com/switchablenorms/DeepFashion2: fill in the form linked there;
     its authors send you the password of the zip files.
  2. Download train.zip and validation.zip and unzip them into {os.fspath(folder)!r}.
  3. The folder must then look like this:
       {train / "image" / "000001.jpg"}
       {train / "annos" / "000001.json"}
       {validation / "image" / "000001.jpg"}
       {validation / "annos" / "000001.json"}
If it lies elsewhere, give its folder with --data. To try the commands without it, make drawn
images of the same layout: python convert_to_coco.py --make_demo data/demo --images 200"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of convert_to_coco.py."""
    parser = argparse.ArgumentParser(
        description="Converts DeepFashion2 annotations to COCO JSON, one file for each split.",
        epilog=EPILOG,
        formatter_class=Help,
    )
    add_options(parser, ConvertOptions)
    add_debug(parser)
    return parser


def main(argv: Sequence[str] | None = None, own_process: bool = False) -> int:
    """Runs the command line `argv`, or this process's; returns the exit status.

    own_process: whether nothing else uses the streams of this process.
    """
    if own_process:
        use_streams()
    arguments = build_parser().parse_args(argv)
    options = from_arguments(ConvertOptions, arguments)
    return run("convert_to_coco.py", lambda: run_convert(options), arguments.debug)


def run_convert(options: ConvertOptions) -> int:
    """Converts or makes demo data, and says what happened; returns the exit status, see EPILOG."""
    if mixed := _mixed_options(options):
        return _fail(mixed)
    for split in options.splits:
        if Path(split).name != split or split == "..":
            return _fail(f"--splits got {split!r}; give the names of folders in --data")
    try:
        with sigterm_interrupts():
            if options.source_format:
                return _import(options)
            return _make_demo(options) if options.make_demo else _convert(options)
    except (UsageError, SourceError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("Interrupted; unfinished files were removed.", file=sys.stderr)
        return 130
    except BrokenProcessPool:
        return _fail("A worker process was killed, perhaps for lack of memory; try --workers 1.")
    except ValueError as error:
        return _fail(str(error))
    except OSError as error:
        where = "--make_demo" if options.make_demo else "--output_dir"
        return _fail(f"Cannot write: {error}. Choose a folder with {where}.")


def _fail(message: str, status: int = 2) -> int:
    print(printable(message, lines=True), file=sys.stderr)
    return status


def _mixed_options(options: ConvertOptions) -> str:
    """What to say of options that do nothing with the others; "" if there are none."""
    others = [name for name in changed(options, ImportOptions) if name != "source_format"]
    if others and not options.source_format:
        return f"--{others[0]} goes with --from; leave it out"
    unfit = ("splits", "keypoints", "workers", "compat", "make_demo", "images", "seed", "layout")
    given = [name for name in changed(options, ConvertOptions) if name in unfit]
    if given and options.source_format:
        return f"--{given[0]} doesn't go with --from; leave it out"
    return ""


def _import(options: ConvertOptions) -> int:
    home = options.data.parent if options.data.is_file() else options.data
    return run_import(
        options,
        options.data,
        options.output_dir or home,
        limit=options.limit,
        dry_run=options.dry_run,
        strict=options.strict,
    )


def _convert(options: ConvertOptions) -> int:
    try:
        splits = [s for s in dict.fromkeys(options.splits) if has_split(options.data / s)]
    except OSError as error:
        return _fail(f"--data cannot be read: {error}")
    if not splits:
        return _fail(missing_data_message(options.data))
    for split in options.splits:
        if split not in splits:
            print(f"{split}: skipped, no images in image/ and annos/ in {options.data / split}")
    output = options.output_dir or options.data
    if not options.dry_run:
        output.mkdir(parents=True, exist_ok=True)
    status = 0
    for split in splits:
        summary = convert_split(
            options.data / split,
            output,
            Form(options.keypoints, options.compat == "official"),
            limit=options.limit,
            workers=options.workers or min(usable_cpus(), MOST_WORKERS),
            dry_run=options.dry_run,
        )
        status = max(status, _report(summary, options, output))
    return status


def _report(summary: Summary, options: ConvertOptions, output: Path) -> int:
    """Prints a split's summary; returns its exit status."""
    split = summary.split
    table = output / f"{split}.problems.csv"
    written = f"written: {output / f'{split}_coco.json'}, {table}"
    print(f"{summary}\n{'dry run: nothing written' if options.dry_run else written}\n")
    listed = "" if options.dry_run else f"; see {table}"
    has_items = summary.items or not (options.data / split / "annos").is_dir()
    if not (summary.images and has_items):
        return _fail(f"{split} has no usable item{listed}", 3)
    if options.strict and summary.problems:
        return _fail(f"{split} has problems, and --strict was given{listed}", 3)
    return 0


def _make_demo(options: ConvertOptions) -> int:
    from mrcnn.deepfashion2.demo.scenes import make_demo

    assert options.make_demo
    counts = make_demo(options.make_demo, options.images, options.seed, layout=options.layout)
    made = ", ".join(f"{count} of {split}" for split, count in counts.items())
    print(f"Drawn images: {made}, in {options.make_demo}. Next:")
    next_step = "convert_to_coco.py" if options.layout == "deepfashion2" else "model.py train"
    print(f"  python {next_step} --data {options.make_demo}")
    return 0

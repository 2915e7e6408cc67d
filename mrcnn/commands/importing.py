"""`model.py convert --from FORMAT`: annotations of other tools -> COCO JSON and a data.toml."""

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mrcnn.commands.arguments import UsageError
from mrcnn.core.options import option
from mrcnn.core.problems import Unusable
from mrcnn.core.reading import quiet_pillow
from mrcnn.importers.formats import FORMATS, open_source
from mrcnn.importers.source import Choices, class_name
from mrcnn.importers.writer import Summary, write

_GROUP = "other formats: convert another tool's annotations, not DeepFashion2's"


@dataclass(frozen=True)
class ImportOptions:
    """What only --from uses."""

    source_format: str | None = option(
        None,
        "YOLO segmentation, Pascal VOC with masks, labelme's JSON, or JSON of the VGG Image "
        "Annotator (VIA); --data is its folder or file",
        "--from",
        choices=FORMATS,
        group=_GROUP,
    )
    image_dir: Path | None = option(
        None, "folder of the images; if not given, that of --data", metavar="DIR", group=_GROUP
    )
    class_name: str | None = option(
        None, "give all objects this one class", metavar="NAME", group=_GROUP
    )
    class_attribute: str | None = option(
        None,
        "via: the attribute of regions that is the class; if not given, the only one, or class, "
        "label, name, category or type",
        metavar="NAME",
        group=_GROUP,
    )


def run_import(
    options: ImportOptions,
    data: Path,
    output: Path,
    *,
    limit: int | None,
    dry_run: bool,
    strict: bool,
) -> int:
    """Converts annotations of `options.source_format` and says what happened.

    Returns:
        Exit status: 0; 3 if a split has nothing usable, or with `strict` any problem.

    Raises:
        UsageError: for options that don't fit, or folders that can't be read.
        SourceError: if the data set can't be used at all, or files of others would be replaced.
    """
    choices = Choices(options.image_dir, _one_class(options), options.class_attribute)
    assert options.source_format
    try:
        source = open_source(options.source_format, data, choices)
    except OSError as error:
        raise UsageError(f"{data} cannot be read: {error}") from None
    if not dry_run:
        output.mkdir(parents=True, exist_ok=True)
    with quiet_pillow():
        summaries = write(
            source,
            output,
            options.source_format,
            class_name=choices.class_name,
            limit=limit,
            dry_run=dry_run,
        )
    for summary in summaries:
        print(f"{summary}\n")
    status = max(_status(summary, strict) for summary in summaries)
    if dry_run:
        print("dry run: nothing written")
    else:
        print(f"written to {output}: {', '.join(_written(summaries))}")
        if status == 0:
            print(f"Next:\n  {_next_command(summaries, output)}")
    return status


def _one_class(options: ImportOptions) -> str | None:
    if options.class_attribute is not None and options.source_format != "via":
        raise UsageError("--class_attribute is for --from via; leave it out")
    if options.class_name is None:
        return None
    if options.class_attribute is not None:
        raise UsageError("--class_name and --class_attribute exclude each other; give one of them")
    try:
        return class_name(options.class_name)
    except Unusable as error:
        raise UsageError(f"--class_name: {error}") from None


def _status(summary: Summary, strict: bool) -> int:
    if not summary.items:
        print(f"{summary.split} has no usable item", file=sys.stderr)
        return 3
    if strict and summary.problems:
        print(f"{summary.split} has problems, and --strict was given", file=sys.stderr)
        return 3
    return 0


def _written(summaries: Iterable[Summary]) -> list[str]:
    names = [f"{s.split}{end}" for s in summaries for end in ("_coco.json", ".problems.csv")]
    return ["data.toml", *names]


def _next_command(summaries: list[Summary], output: Path) -> str:
    """The command that trains on what was written."""
    script = Path(__file__).parents[2] / "model.py"
    program = "python model.py" if script.is_file() else "python -m mrcnn"
    options = ["--data", shlex.quote(str(output))]
    if not any(summary.split == "validation" for summary in summaries):
        options.append("--val_split 0.1")
    return " ".join([program, "train", *options])

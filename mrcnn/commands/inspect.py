"""`model.py inspect`: count what is annotated and show it, as a page."""

from dataclasses import dataclass
from pathlib import Path

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.shared import DataOptions, data_folders, split_files
from mrcnn.core.options import option, positive, whole


@dataclass(frozen=True)
class InspectOptions(DataOptions):
    annotations: Path | None = option(
        None,
        "folder of the converted annotations, <split>_coco.json, or a COCO file; if not given, "
        "--data",
        group="data",
    )
    split: str | None = option(
        None,
        "split to inspect; if not given, train, or as the file --annotations is named",
        group="data",
    )
    images: Path | None = option(
        None, "folder of the images; if not given, searched for", group="data"
    )
    output_folder: Path | None = option(
        None, "folder for the page; if not given, output_folder/inspect_<split>"
    )
    pictures: int = option(24, "number of images on the contact sheet", type=positive)
    seed: int = option(0, "seed of the choice of these images", type=whole)


def run_inspect(options: InspectOptions) -> int:
    """Writes counts of the annotations and a page that shows them; returns the exit status."""
    from mrcnn.reports.inspection import inspect_coco, summary

    annotations, folders, split = _find(options)
    if options.images:
        if not options.images.is_dir():
            raise UsageError(f"no folder {options.images}; give the folder of the images")
        folders = [options.images]
    output_folder = options.output_folder or Path("output_folder") / f"inspect_{split}"
    found = inspect_coco(
        annotations,
        folders,
        output_folder,
        split,
        options.limit,
        options.pictures,
        options.seed,
    )
    print(summary(found))
    return 0


def _find(options: InspectOptions) -> tuple[Path, list[Path], str]:
    """The COCO file, the folders where its images may be, and the split."""
    from mrcnn.reports.inspection import likely_folders, split_name

    given = options.annotations
    if given and (given.is_file() or given.suffix == ".json"):
        if not given.is_file():
            raise UsageError(f"no file {given}; give a COCO file or a folder of them")
        split = options.split or split_name(given)
        return given, likely_folders(given, split, options.data), split
    split = options.split or "train"
    (folder,) = data_folders(options)
    annotations, images = split_files(*folder, split)
    return annotations, [images], split

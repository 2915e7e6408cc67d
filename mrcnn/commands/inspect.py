"""`model.py inspect`: count what is annotated and show it, as a page."""

from dataclasses import dataclass
from pathlib import Path

from mrcnn.commands.data_sets import DataOptions, data_paths, find_data, take_part
from mrcnn.core.options import option, positive, whole


@dataclass(frozen=True)
class InspectOptions(DataOptions):
    split: str | None = option(
        None,
        "split to inspect; if not given, the only one, or train",
        group="data",
    )
    output_folder: Path | None = option(
        None, "folder for the page; if not given, output_folder/inspect_<split>"
    )
    pictures: int = option(24, "number of images on the contact sheet", type=positive)
    seed: int = option(0, "seed of the choice of these images", type=whole)


def run_inspect(options: InspectOptions) -> int:
    """Writes counts of the annotations and a page that shows them; returns the exit status."""
    from mrcnn.reports.inspection import inspect_coco, summary

    (paths,) = data_paths(options)
    data_set = find_data(paths, options.split or "train")
    source = data_set.sources[0]
    if options.split or len(data_set.sources) > 1:
        source = take_part(paths, data_set, options.split or "train").source
    split = options.split or source.name
    found = inspect_coco(
        source.file,
        source.folders,
        options.output_folder or Path("output_folder") / f"inspect_{split}",
        split,
        options.limit,
        options.pictures,
        options.seed,
    )
    print(summary(found))
    return 0

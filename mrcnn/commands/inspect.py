"""`model.py inspect`."""

from pathlib import Path

from mrcnn.commands.shared import UsageError, data_folders, split_files


def run_inspect(args):
    """Writes counts of the annotations and a page that shows them; returns the exit status."""
    from mrcnn.reports.inspection import inspect_coco, likely_folders, split_name, summary

    if args.annotations and (args.annotations.is_file() or args.annotations.suffix == ".json"):
        if not args.annotations.is_file():
            raise UsageError(f"no file {args.annotations}; give a COCO file or a folder of them")
        annotations, split = args.annotations, args.split or split_name(args.annotations)
        folders = likely_folders(annotations, split, args.data)
    else:
        split = args.split or "train"
        data, coco_folder = data_folders(args)[0]
        annotations, pictures = split_files(data, coco_folder, split)
        folders = [pictures]
    if args.images:
        if not args.images.is_dir():
            raise UsageError(f"no folder {args.images}; give the folder of the images")
        folders = [args.images]
    output_folder = args.output_folder or Path("output_folder") / f"inspect_{split}"
    found = inspect_coco(
        annotations, folders, output_folder, split, args.limit, args.pictures, args.seed
    )
    print(summary(found))
    return 0

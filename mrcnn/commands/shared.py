"""Options, checks and data folders that several commands share."""

import argparse
from pathlib import Path


class UsageError(Exception):
    """Something that the user can put right; the message says how."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, but not that nothing is given or a switch is off."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def words(text):
    return tuple(word.strip() for word in text.split(",") if word.strip())


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}; give 1 or more")
    return value


def factor(text):
    value = float(text)
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {value}; give 1 or more")
    return value


def share(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {value}; give 0 to 1")
    return value


def whole(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"got {value}; give 0 or more")
    return value


def add_data(command, file_too="", several=False):
    folder = Path("data/deepfashion2")
    count: dict = {"nargs": "+"} if several else {}
    command.add_argument(
        "--data",
        type=Path,
        default=[folder] if several else folder,
        help="folder in DeepFashion2's layout"
        + ("; of several the training images are joined, and the first validates" * several),
        **count,
    )
    command.add_argument(
        "--annotations",
        type=Path,
        help=f"folder of the COCO files that convert_to_coco.py wrote{file_too}; --data if not given",
        **count,
    )
    command.add_argument("--limit", type=positive, help="use the first images only")


def add_weights(command):
    command.add_argument(
        "--weights", default="weights", help="a file, a folder (its newest .h5), or coco"
    )


def add_refine(command):
    command.add_argument(
        "--refine",
        action=argparse.BooleanOptionalAction,
        help="fit masks to edges in the image (slower; needs OpenCV); if not given, as the weights "
        "file says",
    )


def add_sleeve_refine(command):
    command.add_argument(
        "--sleeve_refine",
        action=argparse.BooleanOptionalAction,
        help="let the weights file's sleeve head overrule classes among siblings, such as short "
        "and long sleeves; if not given, as the file says",
    )


def data_folders(args):
    """[(folder of images, folder of COCO files)] of --data and --annotations, one each or several.

    Raises:
        UsageError: if they aren't equally many.
    """
    pictures = args.data if isinstance(args.data, list) else [args.data]
    annotations = args.annotations or pictures
    annotations = annotations if isinstance(annotations, list) else [annotations]
    if len(annotations) != len(pictures):
        raise UsageError(
            f"--data has {len(pictures)} folders but --annotations {len(annotations)}; give one "
            "folder of COCO files for each"
        )
    return list(zip(pictures, annotations, strict=True))


def split_files(data, annotations, split):
    """The COCO file of a split, and the folder where its images should be.

    Raises:
        UsageError: if there is no such file.
    """
    from mrcnn.commands.convert import missing_data_message

    pictures, path = data / split / "image", annotations / f"{split}_coco.json"
    if not path.is_file():
        if not pictures.is_dir():
            raise UsageError(missing_data_message(data))
        raise UsageError(
            f"no COCO annotations at {path}; make them with\n"
            f"  python convert_to_coco.py --data {data}"
            + (f" --output_dir {annotations}" if annotations != data else "")
        )
    return path, pictures


def load_folders(folders, split, limit=None):
    """A split of one or several data folders, converted before with convert_to_coco.py.

    Args:
        folders: as from `data_folders`; their images are joined in this order.
        split: "train" or another.
        limit: of each folder only so many images, None for all.

    Returns:
        `CocoDataset`, and the number of images of each folder.

    Raises:
        UsageError: if the images or the COCO file are missing.
    """
    from mrcnn.commands.convert import missing_data_message
    from mrcnn.data.dataset import CocoDataset

    dataset = CocoDataset()
    counts: list[int] = []
    for data, annotations in folders:
        path, pictures = split_files(data, annotations, split)
        if not pictures.is_dir():
            raise UsageError(missing_data_message(data))
        dataset.load_coco(path, pictures, limit=limit)
        counts.append(len(dataset.image_info) - sum(counts))
    dataset.prepare()
    return dataset, counts


def load_split(folders, split, limit=None):
    """As `load_folders`, the data set alone."""
    return load_folders(folders, split, limit)[0]

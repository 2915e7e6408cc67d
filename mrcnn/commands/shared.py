"""Options that several commands share, and the data folders that they name."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.environment import import_tensorflow
from mrcnn.core.options import option, positive

if TYPE_CHECKING:
    from mrcnn.data.dataset import CocoDataset
    from mrcnn.predictor import Predictor

_model = functools.partial(option, group="model")
DATA = Path("data/deepfashion2")
# (folder of <split>/image, folder of <split>_coco.json)
DataFolder = tuple[Path, Path]


@dataclass(frozen=True)
class PrecisionOptions:
    precision: str = _model(
        "auto",
        "number format of the computation; auto: the fastest that the device supports well",
        choices=["auto", "float32", "bfloat16", "float16"],
    )


@dataclass(frozen=True)
class ModelOptions(PrecisionOptions):
    """Which model runs, and how: keywords of `Predictor.load`, where `weights` is `path`."""

    weights: str = _model(
        "weights",
        "a weights file, a folder (its newest .h5 file), or coco (matterport's COCO weights, "
        "downloaded once)",
    )
    size: int | None = _model(
        None,
        "side of the network's input in pixels, a multiple of 64; if not given, as in the weights "
        "file",
    )
    tta: bool = _model(False, "also run on the mirrored image and average (takes twice as long)")
    refine: bool | None = _model(
        None,
        "fit masks to edges in the image (slower, needs OpenCV); if not given, as the weights file "
        "says",
    )
    sleeve_refine: bool | None = _model(
        None,
        "let the sleeve classifier of the weights file correct similar classes, such as short and "
        "long sleeves; if not given, as the weights file says",
    )


def load_predictor(weights: str, **settings: Any) -> "Predictor":
    """The predictor of a weights file; `settings` are keywords of `Predictor.load`."""
    import_tensorflow()
    from mrcnn.predictor import Predictor

    predictor = Predictor.load(weights, **settings)
    config = predictor.model.config
    print(f"Weights: {predictor.weights} ({config.BACKBONE}, {config.NUM_CLASSES - 1} classes)")
    return predictor


@dataclass(frozen=True)
class LimitOptions:
    limit: int | None = option(None, "use only the first N images", group="data", type=positive)


@dataclass(frozen=True)
class DataOptions(LimitOptions):
    data: Path = option(DATA, "folder in DeepFashion2's layout", group="data")
    annotations: Path | None = option(
        None,
        "folder of the converted annotations, <split>_coco.json; if not given, --data",
        group="data",
    )


@dataclass(frozen=True)
class DataFoldersOptions(LimitOptions):
    data: tuple[Path, ...] = option(
        (DATA,),
        "one or more folders in DeepFashion2's layout; the training images of all are used, and "
        "the validation images of the first",
        group="data",
        nargs="+",
    )
    annotations: tuple[Path, ...] | None = option(
        None,
        "folders of the converted annotations, <split>_coco.json, one for each --data; if not "
        "given, --data",
        group="data",
        nargs="+",
    )


def data_folders(options: DataOptions | DataFoldersOptions) -> list[DataFolder]:
    """The folders of --data and --annotations in pairs.

    Raises:
        UsageError: if they aren't equally many.
    """
    data = [options.data] if isinstance(options.data, Path) else list(options.data)
    annotations = options.annotations or data
    annotations = [annotations] if isinstance(annotations, Path) else list(annotations)
    if len(annotations) != len(data):
        raise UsageError(
            f"--data has {len(data)} folders but --annotations {len(annotations)}; give one "
            "folder of COCO files for each"
        )
    return list(zip(data, annotations, strict=True))


def split_files(
    data: Path, annotations: Path, split: str, images_needed: bool = True
) -> tuple[Path, Path]:
    """The COCO file of a split, and the folder where its images should be.

    Raises:
        UsageError: if there is no such file.
    """
    images, path = data / split / "image", annotations / f"{split}_coco.json"
    if path.is_file():
        return path, images
    if images_needed and not images.is_dir():
        raise UsageError(_missing_data(data))
    output = f" --output_dir {annotations}" if annotations != data else ""
    raise UsageError(
        f"no COCO annotations at {path}; give their folder with --annotations, or make them with\n"
        f"  {convert_command()} --data {data}{output}"
    )


def load_folders(
    folders: Iterable[DataFolder], split: str, limit: int | None = None
) -> tuple["CocoDataset", list[int]]:
    """The images of a split of one or several data folders, one folder after the other.

    Args:
        limit: use only the first so many images of each folder.

    Returns:
        The data set, and the number of images of each folder.

    Raises:
        UsageError: if the images or the COCO file are missing.
    """
    from mrcnn.data.dataset import CocoDataset

    dataset = CocoDataset()
    counts: list[int] = []
    for data, annotations in folders:
        path, images = split_files(data, annotations, split)
        if not images.is_dir():
            raise UsageError(_missing_data(data))
        dataset.load_coco(path, images, limit=limit)
        counts.append(len(dataset.image_info) - sum(counts))
    dataset.prepare()
    return dataset, counts


def load_split(
    folders: Iterable[DataFolder], split: str, limit: int | None = None
) -> "CocoDataset":
    """As `load_folders`, the data set alone."""
    return load_folders(folders, split, limit)[0]


def convert_command() -> str:
    """How the converter is called: an installed package has no script beside it."""
    script = Path(__file__).parents[2] / "convert_to_coco.py"
    return "python convert_to_coco.py" if script.is_file() else "python -m mrcnn convert"


def _missing_data(data: Path) -> str:
    from mrcnn.commands.convert import missing_data_message

    return missing_data_message(data)

"""Weights to start from: which file is meant, what model it belongs to, where to fetch it."""

import os
import urllib.request
import warnings
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import keras
from tqdm import tqdm

from mrcnn.config import Config
from mrcnn.core.files import PathLike, replacing
from mrcnn.network import weights
from mrcnn.network.formats import describe_folder
from mrcnn.network.metadata import FileInfo, inspect, stored_config
from mrcnn.network.weights import LoadReport
from mrcnn.network.weights_file import STATE, WeightsError, open_weights

COCO_MODEL_URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5"
COCO_BYTES = 257_557_808
IMAGENET_URL = (
    "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
# Where the commands look unless told otherwise; see `find_weights`.
DEFAULT_FOLDER = "weights"
# Files that ship; see `shipped`. The second: COCO-trained weights of MobileNetV2 alone.
COMPACT = "mask_rcnn_compact.h5"
MOBILENET_COCO = "backbones/mobilenet_v2_coco.weights.h5"


def shipped(name: str) -> Path:
    """The path of a file that ships: `COMPACT` or `MOBILENET_COCO`.

    It is looked for in ./weights, in the checkout beside the package, and inside the installed
    package.

    Raises:
        FileNotFoundError: if it is in none of them.
    """
    package = Path(__file__).resolve().parents[1]
    folders = [Path(DEFAULT_FOLDER), package.parent / "weights", package / "weights"]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    places = ", ".join(str(folder.resolve()) for folder in folders)
    raise FileNotFoundError(
        f"{name}, which ships with this package, is in none of {places}; install the package "
        "again or give another weights file"
    )


def find_weights(path: PathLike, fetch_to: PathLike = DEFAULT_FOLDER) -> Path:
    """The weights file that a command line means.

    Args:
        path: a file; a folder, for the newest Mask R-CNN file in it; or "coco", for
            matterport's COCO weights, fetched to the folder `fetch_to` at the first call. The
            default "weights" means the shipped compact model where no such folder is.

    Raises:
        FileNotFoundError: if there is no such file, or none in the folder.
        WeightsError: if the COCO weights can't be fetched, or the folder is one of TensorFlow's.
    """
    if str(path) == "coco":
        file = Path(fetch_to) / "mask_rcnn_coco.h5"
        if not file.exists():
            download_trained_weights(file)
        return file
    path = Path(path)
    if path.exists() and not path.is_dir():
        return path
    if not path.exists():
        if str(path) == DEFAULT_FOLDER:
            return shipped(COMPACT)
        raise FileNotFoundError(f"no weights at {path}; give a file, a folder or coco")
    return _newest(path)


def _newest(folder: Path) -> Path:
    """The newest file of a whole Mask R-CNN in a folder; a warning names newer broken ones."""
    files = [f for f in folder.glob("*.h5") if f.is_file() and not f.name.endswith(STATE)]
    broken: list[str] = []
    for file in sorted(files, key=lambda p: (p.stat().st_mtime, p.name), reverse=True):
        try:
            if _is_whole(file):
                break
        except (OSError, WeightsError) as error:
            broken.append(str(error).split("\n")[0])
    else:
        if not files and (kind := describe_folder(folder)):
            raise WeightsError(f"{folder} {kind}")
        found = f"{len(files)} .h5 files, none of a Mask R-CNN" if files else "no .h5 file"
        raise FileNotFoundError(
            "\n".join([f"{folder} holds {found}; train a model or give another folder", *broken])
        )
    for text in broken:
        warnings.warn(f"{text}; {file.name} is used", stacklevel=3)
    return file


def _is_whole(path: Path) -> bool:
    """Whether a weights file is one of a Mask R-CNN; raises as `stored_config`, or if it is broken."""
    info = inspect(path)
    if not info.num_classes:
        return False
    if not info.backbone:  # it is of a backbone of somebody's own, with other bounds
        return True
    stored_config(info)
    with open_weights(path) as file:
        for part in file.layers.values():
            part.arrays()
    return True


def config_for(info: FileInfo, **overrides: Any) -> Config:
    """The configuration that a weights file's model was built with, but for the overrides.

    Files of this package carry it. For others, backbone, class count and sizes follow from the
    layers, and the input size is the original's default.

    Raises:
        WeightsError: as `stored_config`.
    """
    return Config.from_dict({**stored_config(info), **overrides})


def download(url: str, path: PathLike, size: int | None = None, layers: Iterable[str] = ()) -> None:
    """Fetches a weights file, checks its size and layers, and only then gives it its name.

    Raises:
        WeightsError: if it can't be fetched or isn't what was expected; the message says where
            to put a file fetched by hand.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"Fetch {url} by hand and save it as {path.resolve()}"
    with replacing(path) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=60) as source, open(temporary, "wb") as out:
                total = int(source.headers.get("Content-Length") or size or 0) or None
                with tqdm(total=total, unit="B", unit_scale=True, desc=path.name) as bar:
                    while chunk := source.read(1 << 20):
                        out.write(chunk)
                        bar.update(len(chunk))
        except (HTTPException, OSError, ValueError) as error:  # ValueError: strange headers
            raise WeightsError(f"{url} could not be fetched ({error}). {by_hand}.") from error
        found = os.path.getsize(temporary)
        if size is not None and found != size:
            raise WeightsError(f"{url} gave {found} bytes, expected {size}. {by_hand}.")
        try:
            with open_weights(temporary) as file:
                lacking = sorted(set(layers) - set(file.layers))
        except WeightsError as error:
            text = str(error).replace(str(temporary), "what it gave")
            raise WeightsError(f"{url}: {text}\n{by_hand}.") from error
        if lacking:
            raise WeightsError(f"{url} lacks the layers {lacking}. {by_hand}.")


def download_trained_weights(coco_model_path: PathLike, verbose: int = 1) -> None:
    """Fetches matterport's COCO weights (ResNet-101, 81 classes, 258 MB) to a path."""
    if verbose:
        print(f"Fetching the COCO weights to {coco_model_path} ...")
    download(COCO_MODEL_URL, coco_model_path, COCO_BYTES, ("conv1", "rpn_model", "mrcnn_mask"))
    if verbose:
        print("... done.")


def load_mobilenet_v2(model: keras.Model, path: PathLike) -> LoadReport:
    """Loads a keras.applications.MobileNetV2 (no top, ".weights.h5") into a model's backbone."""
    return weights.load(model, path, by_name=True)

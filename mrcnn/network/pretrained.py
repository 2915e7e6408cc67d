"""Weights to start from: which file is meant, what model it belongs to, where to fetch it."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
from tqdm import tqdm

from mrcnn.config import Config
from mrcnn.core.files import PathLike, replacing
from mrcnn.network import weights
from mrcnn.network.backbone import keras_mobilenet_v2
from mrcnn.network.weights import FileInfo, LoadReport, WeightsError

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
        WeightsError: if the COCO weights can't be fetched.
    """
    if str(path) == "coco":
        file = Path(fetch_to) / "mask_rcnn_coco.h5"
        if not file.exists():
            download_trained_weights(file)
        return file
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        if str(path) == DEFAULT_FOLDER:
            return shipped(COMPACT)
        raise FileNotFoundError(f"no weights at {path}; give a file, a folder or coco")
    files = sorted(path.glob("*.h5"), key=lambda p: (p.stat().st_mtime, p.name), reverse=True)
    for file in files:
        try:
            if weights.inspect(file).num_classes:
                return file
        except WeightsError:
            continue
    found = f"{len(files)} .h5 files, none of a Mask R-CNN" if files else "no .h5 file"
    raise FileNotFoundError(f"{path} holds {found}; train a model or give another folder")


def config_for(info: FileInfo, **overrides: Any) -> Config:
    """The configuration that a weights file's model was built with, but for the overrides.

    Files of this package carry it. For others, backbone and class count follow from the
    layers, and the input size is the original's default.

    Raises:
        WeightsError: if the file isn't one of a whole Mask R-CNN of a known backbone.
    """
    values = dict(info.config or {})
    if not values:
        if not (info.num_classes and info.backbone):
            raise WeightsError(
                f"the file holds no whole Mask R-CNN of a known backbone (class head: "
                f"{'yes' if info.num_classes else 'no'}, backbone: {info.backbone})"
            )
        values = {"NAME": "mask_rcnn", "NUM_CLASSES": info.num_classes, "BACKBONE": info.backbone}
    return Config.from_dict({**values, **overrides})


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
        except (urllib.error.URLError, OSError) as error:
            raise WeightsError(f"{url} could not be fetched ({error}). {by_hand}.") from error
        found = os.path.getsize(temporary)
        if size is not None and found != size:
            raise WeightsError(f"{url} gave {found} bytes, expected {size}. {by_hand}.")
        with weights.open_weights(temporary) as root:
            names = {weights.text(n) for n in root.attrs["layer_names"]}
        if not set(layers) <= names:
            raise WeightsError(f"{url} lacks the layers {sorted(set(layers) - names)}. {by_hand}.")


def download_trained_weights(coco_model_path: PathLike, verbose: int = 1) -> None:
    """Fetches matterport's COCO weights (ResNet-101, 81 classes, 258 MB) to a path."""
    if verbose:
        print(f"Fetching the COCO weights to {coco_model_path} ...")
    download(COCO_MODEL_URL, coco_model_path, COCO_BYTES, ("conv1", "rpn_model", "mrcnn_mask"))
    if verbose:
        print("... done.")


def load_mobilenet_v2(model: keras.Model, path: PathLike) -> LoadReport:
    """Copies a keras.applications.MobileNetV2 (no top, ".weights.h5") into a model's backbone."""
    source = keras_mobilenet_v2()
    try:
        source.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} does not hold the weights of a MobileNetV2: {error}") from error
    targets, report = weights.weighted_layers(model), LoadReport()
    for name, pairs in weights.weighted_layers(source).items():
        for (_, variable), (_, value) in zip(targets[name], pairs, strict=True):
            variable.assign(value)
        report.loaded.append(name)
    report.missing = [n for n in targets if n not in report.loaded]
    return report

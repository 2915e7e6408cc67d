"""Weights from a model to a file and back.

Files are written in Keras 2's HDF5 layout (`mrcnn.network.weights_file`), which is what
matterport's programs read and write. Ours carry three more root attributes: `class_names` (JSON
list, background first), `category_ids` (JSON list of the data set's ids of these classes) and
`config` (JSON of `Config.to_dict`), so that a model's labels and sizes can't get lost or mixed up;
other readers ignore them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from mrcnn.core import hdf5
from mrcnn.core.files import PathLike
from mrcnn.network.metadata import FileInfo, inspect
from mrcnn.network.weights_file import WeightsError, open_weights

__all__ = [
    "CLASS_LAYERS",
    "FileInfo",
    "LoadReport",
    "WeightsError",
    "inspect",
    "load",
    "open_weights",
    "save",
    "weighted_layers",
]

# Layers whose shapes depend on the number of classes.
CLASS_LAYERS = ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask")
# The layout's version, not the version of the Keras that runs.
LAYOUT_VERSION = "2.2.5"


@dataclass
class LoadReport:
    """What a load did, by layer name."""

    loaded: list[str] = field(default_factory=list)
    # Layers of the model that the file had nothing for.
    missing: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    # Layers of the file that the model has no place for.
    unused: list[str] = field(default_factory=list)
    # Of the file, background first, if all class layers were loaded from it.
    class_names: tuple[str, ...] | None = None
    # The data set's ids of these classes; None where the file carries none.
    category_ids: tuple[int, ...] | None = None


# A layer's weights: pairs of a name, such as "conv1/kernel:0", and the variable.
Weights = list[tuple[str, keras.Variable]]


def weighted_layers(model: keras.Model) -> dict[str, Weights]:
    """The layers of a model that have weights, by name; nested models count as one."""
    found = {}
    for layer in model.layers:
        inner = layer.layers if isinstance(layer, keras.Model) else [layer]
        pairs = [(f"{part.name}/{v.name}:0", v) for part in inner for v in part.weights]
        if pairs:
            found[layer.name] = pairs
    return found


def save(
    model: keras.Model,
    path: PathLike,
    overwrite: bool = True,
    class_names: Sequence[str] | None = None,
    config: dict[str, Any] | None = None,
    dtype: str = "float32",
    category_ids: Sequence[int] | None = None,
) -> None:
    """Writes all weights of a model, under a temporary name until they are complete.

    Args:
        path: of the file, ".h5".
        overwrite: False raises FileExistsError if there is a file.
        class_names: background first, or None to leave them out.
        config: as of `Config.to_dict`, or None.
        dtype: "float32", or "float16" for files half the size.
        category_ids: as of `classes.check_ids`, or None to leave them out.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    groups = weighted_layers(model)
    with hdf5.writing(path) as file:
        names = [layer.name for layer in model.layers]
        file.attrs["layer_names"] = np.array([n.encode() for n in names])
        file.attrs["backend"] = np.bytes_(b"tensorflow")
        file.attrs["keras_version"] = np.bytes_(LAYOUT_VERSION)
        if class_names is not None:
            file.attrs["class_names"] = json.dumps(list(class_names))
        if category_ids is not None:
            file.attrs["category_ids"] = json.dumps([int(number) for number in category_ids])
        if config is not None:
            file.attrs["config"] = json.dumps(config)
        for name in names:
            group, pairs = file.create_group(name), groups.get(name, [])
            group.attrs["weight_names"] = np.array([n.encode() for n, _ in pairs], dtype="S")
            for weight_name, variable in pairs:
                group.create_dataset(weight_name, data=np.asarray(variable.value, dtype))


def load(
    model: keras.Model, path: PathLike, by_name: bool = False, exclude: Iterable[str] = ()
) -> LoadReport:
    """Loads a weights file into a model. All is checked before the first weight changes.

    Args:
        by_name: False: the file must hold exactly the model's layers. True: layers that both
            have are loaded, the others stay as they are and are reported.
        exclude: names of layers to leave as they are; implies by_name.

    Raises:
        FileNotFoundError: if there is no file.
        WeightsError: if it isn't a weights file, its layers, shapes or class names don't fit, or
            its values aren't finite.
    """
    exclude = set(exclude or ())
    by_name = by_name or bool(exclude)
    targets, report = weighted_layers(model), LoadReport()
    values: list[tuple[Weights, list[np.ndarray]]] = []
    info = inspect(path)
    with open_weights(path) as file:
        in_file = {name for name, part in file.layers.items() if part.datasets}
        report.excluded = sorted(exclude & set(targets))
        report.missing = [n for n in targets if n not in in_file and n not in exclude]
        report.unused = sorted(in_file - set(targets))
        if not by_name and (report.missing or report.unused):
            raise WeightsError(_structure_message(path, report))
        problems: list[str] = []
        for name, pairs in targets.items():
            if name in in_file and name not in exclude:
                part = file.layers[name]
                problems += _shape_problems(name, pairs, [*part.datasets.values()])
                if not problems:
                    values.append((pairs, part.arrays()))
                    report.loaded.append(name)
    if problems:
        raise WeightsError(_shape_message(path, problems))
    if not report.loaded:
        raise WeightsError(
            f"{path} shares no layer with this model; its layers are "
            f"{', '.join(sorted(in_file)[:5])}, ..."
        )
    if info.num_classes and not set(report.excluded + report.missing) & set(CLASS_LAYERS):
        info.check_names(info.num_classes)
        report.class_names, report.category_ids = info.class_names, info.category_ids
    for pairs, arrays in values:
        for (_, variable), array in zip(pairs, arrays, strict=True):
            variable.assign(array)
    return report


def _shape_problems(layer: str, pairs: Weights, arrays: list[h5py.Dataset]) -> list[str]:
    """Lines about weights that don't fit, empty if all do."""
    if len(pairs) != len(arrays):
        return [f"layer {layer}: expected {len(pairs)} weights, found {len(arrays)}"]
    return [
        f"layer {layer}, weight {name}: expected shape {tuple(v.shape)}, found {tuple(a.shape)}"
        for (name, v), a in zip(pairs, arrays, strict=True)
        if tuple(v.shape) != tuple(a.shape)
    ]


def _shape_message(path: PathLike, problems: list[str]) -> str:
    layers = sorted({p.split(":")[0].split(",")[0].removeprefix("layer ") for p in problems})
    more = [f"  ... and {len(problems) - 12} more"] if len(problems) > 12 else []
    if set(layers) <= set(CLASS_LAYERS):
        advice = (
            "The file was trained for another number of classes: set NUM_CLASSES to the file's, "
            f"or load with by_name=True, exclude={layers} and train these layers anew."
        )
    else:
        advice = (
            "Build the model with the file's configuration (BACKBONE and sizes), or load with "
            f"by_name=True, exclude={layers[:4]}{'...' if len(layers) > 4 else ''} and train "
            "these layers anew."
        )
    return "\n".join(
        [f"{path} does not fit the model:", *map("  {}".format, problems[:12]), *more, advice]
    )


def _structure_message(path: PathLike, report: LoadReport) -> str:
    parts = [f"{path} does not hold exactly this model's layers."]
    if report.missing:
        parts.append(f"Without weights in the file: {_some(report.missing)}.")
    if report.unused:
        parts.append(f"In the file only: {_some(report.unused)}.")
    return " ".join([*parts, "Use by_name=True to load the layers that both have."])


def _some(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

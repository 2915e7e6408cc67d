"""The door for weights files: everything that is read from one, which may come from anyone.

Two layouts of HDF5 are read. Keras 2's, which matterport's programs and this package write: root
attribute `layer_names`; one group a layer with attribute `weight_names`; datasets at
/<layer>/<weight name>, such as /conv1/conv1/kernel:0; the RPN is one layer, `rpn_model`. And
Keras 3's .weights.h5: /layers/<any>/vars/<number>, with the layer's name as an attribute of `vars`.

HDF5 can say much that no weights file needs: data in other files of the machine, links to them,
plug-ins, arrays that are claimed but not stored. So what the layers consist of is checked before
anything of it is read, and nothing but groups and datasets of this file, plain arrays of floats
whose bytes are there, is accepted. Values must be finite.
"""

import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np

from mrcnn.core.files import PathLike
from mrcnn.network import formats
from mrcnn.network.hdf5_text import TextError, TextReader

# More than any model has: layers or weights, characters of a name, bytes of a text, parts of an
# array.
_MOST_NAMES, _LONGEST_NAME, _LONGEST_TEXT, _MOST_CHUNKS = 20_000, 400, 1 << 24, 100_000
# How the names of the files end that a training keeps its state in.
STATE = ".state.h5"
_LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
# Filters of compressed arrays, in the order in which they are applied; others may be plug-ins.
_DEFLATE = h5py.h5z.FILTER_DEFLATE
_FILTERS = (h5py.h5z.FILTER_SHUFFLE, _DEFLATE, h5py.h5z.FILTER_FLETCHER32)


class WeightsError(ValueError):
    """A weights file that can't be used; the message says why and what to do."""


@dataclass(frozen=True)
class Part:
    """A layer in a weights file, or another group with weights.

    Attributes:
        name: of the layer.
        datasets: by name, in the file's order; all are plain arrays of floats.
    """

    file: "WeightsFile"
    name: str
    group: h5py.Group
    datasets: dict[str, h5py.Dataset]

    def arrays(self) -> list[np.ndarray]:
        """The weights as float32.

        Raises:
            WeightsError: if some can't be read, or aren't finite.
        """
        found = []
        for name, dataset in self.datasets.items():
            # NumPy converts float16 far faster than libhdf5. Too large a float64 is found below.
            with reported(self.file.path), np.errstate(over="ignore"):
                array = np.asarray(dataset[()], np.float32)
            wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
            if wrong:
                raise WeightsError(
                    f"{self.file.path}, layer {self.name}, weight {name}: {wrong} of {array.size} "
                    "values are NaN or infinite, so results would be wrong; take another file, "
                    "such as an earlier checkpoint"
                )
            found.append(array)
        return found

    def text(self, name: str) -> str | None:
        """A text attribute, or None."""
        return self.file.text(name, self.group)

    def number(self, name: str) -> float:
        """A number attribute.

        Raises:
            WeightsError: if there is none.
        """
        with reported(self.file.path):
            attribute = h5py.h5a.open(self.group.id, name.encode())
            if attribute.shape != () or attribute.dtype.kind not in "fiu":
                self.file.refuse(f"attribute {name} of {self.name} is no number")
            return float(self.group.attrs[name])


class WeightsFile:
    """An open weights file. `open_weights` makes it.

    Attributes:
        path: of the file.
        hdf5: the file itself, unchecked but for its layers.
        layers: by name, in the file's order, those without weights too.
    """

    def __init__(self, path: Path, file: h5py.File, reader: TextReader) -> None:
        self.path, self.hdf5, self._reader = path, file, reader
        self._size = path.stat().st_size
        self.layers: dict[str, Part] = {}
        self._count = 0
        root = self._group(file, "model_weights") or file
        names = self._texts(root, "layer_names")
        if names is not None:
            self._check_names(names, "layer_names")
            self.layers = {name: self._part(root, name) for name in names}
        elif layers := self._group(file, "layers"):
            self._add_keras3(layers)
        if names is None and not self.layers:
            raise WeightsError(
                f"{path} is an HDF5 file, but not one of weights in Keras's layout, as it has no "
                f"attribute layer_names; {self._advice()}"
            )

    def refuse(self, what: str) -> NoReturn:
        """Raises a WeightsError."""
        raise WeightsError(
            f"{self.path} is damaged or no file of weights: {what}; take another file"
        )

    def _advice(self) -> str:
        """What to do with a file of something else."""
        if self.path.name.endswith(STATE):
            return "it is the state of a training: give the weights beside it"
        if any(self._group(self.hdf5, n) for n in ("layers", "_layer_checkpoint_dependencies")):
            return (
                "it is of a version of Keras whose .weights.h5 files don't name their layers: load it "
                "there and save it with a newer one"
            )
        return "take another file"

    def text(self, name: str, group: h5py.Group | None = None) -> str | None:
        """A text attribute of a group, or of the whole file, or None."""
        with reported(self.path):
            texts = self._texts(group or self.hdf5, name)
        if texts is not None and len(texts) != 1:
            self.refuse(f"attribute {name} has {len(texts)} texts")
        return texts[0] if texts else None

    def part(self, name: str) -> Part | None:
        """A group with weights beside the layers, or None."""
        with reported(self.path):
            there = self.hdf5.id.links.exists(name.encode())
            return self._part(self.hdf5, name) if there else None

    def _texts(self, group: h5py.Group, name: str) -> list[str] | None:
        """The texts of an attribute; None if there is no such attribute."""
        if not h5py.h5a.exists(group.id, name.encode()):
            return None
        attribute = h5py.h5a.open(group.id, name.encode())
        shape, kind = attribute.shape, attribute.get_type()
        count = 0 if shape is None else math.prod(shape)
        if count == 0:  # an empty list has any type
            return []
        if not isinstance(kind, h5py.h5t.TypeStringID):
            self.refuse(f"attribute {name} is no text")
        variable = kind.is_variable_str()
        if count * (16 if variable else kind.get_size()) > _LONGEST_TEXT:
            self.refuse(f"attribute {name} is larger than those of any model")
        if variable:
            values = self._reader.read(h5py.h5o.get_info(group.id).addr, name, count)
        else:
            values = np.asarray(group.attrs[name]).reshape(-1).tolist()
        return [value.decode() for value in values]

    def _group(self, parent: h5py.Group, path: str) -> h5py.Group | None:
        found = self._open(parent, path)
        return h5py.Group(found) if isinstance(found, h5py.h5g.GroupID) else None

    def _open(self, parent: h5py.Group, path: str) -> Any:
        """The object at a path, of which every part is in this file; None if there is none."""
        found = parent.id
        for name in path.encode().split(b"/"):
            if not isinstance(found, h5py.h5g.GroupID) or not found.links.exists(name):
                return None
            # `in` and [] would follow a link, to another file too.
            if found.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                self.refuse(f"{path} is a link, maybe to another file")
            found = h5py.h5o.open(found, name)
        return found

    def _part(self, root: h5py.Group, name: str) -> Part:
        group = self._group(root, name)
        if group is None:
            self.refuse(f"layer {name} is missing or no group")
        names = self._texts(group, "weight_names") or []
        self._check_names(names, f"weight_names of {name}")
        return Part(self, name, group, {weight: self._dataset(group, weight) for weight in names})

    def _check_names(self, names: list[str], what: str) -> None:
        """Names of layers or weights must be paths below a group, each once."""
        self._count += len(names)  # of the whole file: groups may be the same ones again and again
        if self._count > _MOST_NAMES or len(set(names)) < len(names):
            self.refuse(f"{what} has {len(names)} names, some of them twice or too many")
        for name in names:
            strange = len(name) > _LONGEST_NAME or not name.isprintable()
            if strange or {"", ".", ".."} & set(name.split("/")):
                self.refuse(f"{what} has {name[:80]!a}")

    def _add_keras3(self, layers: h5py.Group) -> None:
        """Finds the layers of a Keras 3 file, those within another under the other's name."""
        found = self._keras3_layers(layers)
        self._check_names([name for name, _ in found], "the layers")
        for name, outer in found:
            weights = self._keras3_weights(outer)
            if inner := self._group(outer, "layers"):
                for below, group in self._keras3_layers(inner):
                    weights |= self._keras3_weights(group, f"{below}/")
            self._check_names([*weights], name)
            self.layers[name] = Part(self, name, outer, weights)

    def _keras3_layers(self, layers: h5py.Group) -> list[tuple[str, h5py.Group]]:
        """Names and groups of layers, those of a class from the oldest to the youngest."""
        if len(layers) > _MOST_NAMES:
            self.refuse(f"it has {len(layers)} layers")
        found = []
        for key in sorted(layers.id, key=lambda key: (len(key), key)):  # conv2d_2 before conv2d_10
            group = self._group(layers, key.decode())
            variables = group and self._group(group, "vars")
            if names := variables and self._texts(variables, "name"):
                found.append((names[0], group))
        return found

    def _keras3_weights(self, group: h5py.Group, prefix: str = "") -> dict[str, h5py.Dataset]:
        variables = self._group(group, "vars")
        count = len(variables) if variables else 0
        if count > _MOST_NAMES:
            self.refuse(f"a layer has {count} weights")
        return {f"{prefix}{i}": self._dataset(variables, str(i)) for i in range(count)}

    def _dataset(self, group: h5py.Group, name: str) -> h5py.Dataset:
        found, where = self._open(group, name), f"{group.name}/{name}"
        if not isinstance(found, h5py.h5d.DatasetID):
            self.refuse(f"{where} is missing or no array")
        if problem := _problem(found, self._size):
            self.refuse(f"{where} {problem}")
        return h5py.Dataset(found)


def check_plain(dataset: h5py.Dataset) -> None:
    """Raises a WeightsError if a dataset isn't a plain array of floats of its own file."""
    path = Path(dataset.file.filename)
    with reported(path):
        problem = _problem(dataset.id, path.stat().st_size)
    if problem:
        raise WeightsError(f"{path}: {dataset.name} {problem}; take another file")


def _problem(dataset: Any, file_size: int) -> str | None:
    """Why a dataset isn't a plain array of floats with all of its bytes in the file."""
    settings, kind, shape = dataset.get_create_plist(), dataset.get_type(), dataset.shape
    layout = settings.get_layout()
    if layout not in _LAYOUTS or settings.get_external_count():
        return "takes its values from other files"
    if kind.committed() or not any(kind == known for known in _float_types()):
        return f"is no array of floats ({str(dataset.dtype)[:80]})"
    if shape is None:
        return "is empty"
    size = math.prod(shape) * kind.get_size()
    if layout == h5py.h5d.CHUNKED:
        return _problem_of_chunks(dataset, settings, size)
    stored = dataset.get_storage_size()
    if stored != size or size > file_size:
        return f"claims {size} bytes, but {min(stored, file_size)} are there"
    return None


def _problem_of_chunks(dataset: Any, settings: Any, size: int) -> str | None:
    """Why chunks aren't all there, or become larger than they should when unpacked."""
    filters = tuple(settings.get_filter(i)[0] for i in range(settings.get_nfilters()))
    if filters != tuple(known for known in _FILTERS if known in filters):
        return "is compressed by filters other than gzip and shuffle"
    sides = settings.get_chunk()
    each = math.prod(sides) * dataset.get_type().get_size()
    count = math.prod(-(-side // part) for side, part in zip(dataset.shape, sides, strict=True))
    if count > _MOST_CHUNKS or dataset.get_num_chunks() != count or each > max(size, 1 << 20):
        return f"claims {size} bytes in {count} chunks of {each}, which aren't there"
    chunks: list[Any] = []
    dataset.chunk_iter(chunks.append)
    for chunk in chunks:
        if chunk.size > each + each // 1000 + 64:  # what can't be compressed grows a little
            return f"has a chunk of {chunk.size} bytes instead of {each}"
        _, packed = dataset.read_direct_chunk(chunk.chunk_offset)
        if _DEFLATE in filters and not chunk.filter_mask & 1 << filters.index(_DEFLATE):
            packed = zlib.decompressobj().decompress(packed, each + 1)
        if not each <= len(packed) <= each + 4:  # 4: a checksum
            return f"has a chunk of {len(packed)} bytes or more instead of {each}"
    return None


@cache
def _float_types() -> list[Any]:
    """What floats are stored as."""
    bfloat16 = h5py.h5t.IEEE_F16LE.copy()
    bfloat16.set_fields(15, 7, 8, 0, 7)
    bfloat16.set_ebias(127)
    names = [f"IEEE_F{bits}{order}" for bits in (32, 16, 64) for order in ("LE", "BE")]
    return [*(getattr(h5py.h5t, name) for name in names), bfloat16]


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Any error in the block is one of a damaged file: libhdf5 and h5py raise all kinds."""
    try:
        yield
    except (WeightsError, BlockingIOError):  # the latter: another program writes it
        raise
    except TextError as error:
        raise WeightsError(f"{path} can't be read: {error}; or take another file") from error
    except Exception as error:
        what = str(error)[:200] or type(error).__name__
        raise WeightsError(
            f"{path} is damaged ({what}); it may be cut short: fetch it again, or take another file"
        ) from error


@contextmanager
def open_weights(path: PathLike) -> Iterator[WeightsFile]:
    """A weights file, whose layers have been checked.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it isn't one of weights, or holds what none needs.
    """
    path = Path(path)
    try:
        other = formats.describe(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: NUL in the path
        raise FileNotFoundError(f"no weights file at {path}") from None
    if other:
        raise WeightsError(f"{path} {other}")
    with ExitStack() as stack:
        with reported(path):
            file = stack.enter_context(h5py.File(path, "r"))
            raw = stack.enter_context(open(path, "rb"))
            found = WeightsFile(path, file, TextReader(raw, file.userblock_size))
        yield found

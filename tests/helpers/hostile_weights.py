"""Some hundred weights files that were made to break a reader, around two sound ones.

    python -m tests.helpers.hostile_weights FOLDER [FIRST]

makes and loads one after the other, and prints a line of JSON on each; see `Outcome`. Files are
made by hand (structure, values, configuration, names) or by damage from a seed.
"""

import json
import os
import resource
import shutil
import socket
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

# A layer that both models have, its first weight and its dataset.
LAYER, WEIGHT = "mrcnn_class_logits", "mrcnn_class_logits/kernel:0"
DATASET = f"{LAYER}/{WEIGHT}"
NAMES = ["BG", "hat", "shoe"]
DAMAGES = 120


@dataclass(frozen=True)
class Case:
    """A file, what to make it from, and how it must end.

    Attributes:
        base: "small" loads into a model that is there; "whole" is all that a `Predictor` has.
        make: writes it, given a path at which the sound file lies.
        message: pattern of the refusal; "" if it must load; None if it may do either.
    """

    name: str
    make: Callable[[Path], None]
    message: str | None
    base: str = "small"


@dataclass
class Outcome:
    """How it ended: "loaded", "refused", as the command would, or the name of an exception."""

    name: str
    end: str
    message: str
    warned: str
    seconds: float
    peak_mb: int


def cases(victim: Path) -> Iterator[Case]:
    """All cases; victim: a file that none of them may read."""
    yield Case("sound", lambda path: None, "")
    yield from _other_files()
    yield from _structures(victim)
    yield from _values()
    yield from _texts()
    yield from _configurations()
    yield from _class_names()
    for seed in range(DAMAGES):
        yield Case(f"damage {seed}", lambda path, seed=seed: damage(path, seed), None)


def edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    """What changes a file in place."""

    def make(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return make


def write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def zipped(*names: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"{}")

    return make


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else at the path."""

    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _folder(*names: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        for name in names:
            (path / name).write_bytes(b"\x08\x01")

    return _instead(make)


def _other_files() -> Iterator[Case]:
    contents = {
        "empty": (b"", "is empty"),
        "zeros": (bytes(5000), "is filled with zeros"),
        "text": (b"not a file of weights", "is not an HDF5 file"),
        "web page": (b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
        "xml": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page or XML"),
        "json": (b'{"message": "Not Found"}', "is JSON text"),
        "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "pickle": (b"\x80\x02}q\x00.", "is a Python pickle, as PyTorch"),
        "safetensors": (b"\x02" + bytes(7) + b"{}", "is a .safetensors file"),
        "tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "is a TensorFlow Lite model"),
        "onnx": (b"\x08\x07\x12\x07pytorch", "is an ONNX model"),
        "npy": (b"\x93NUMPY\x01\0", "is a NumPy array"),
        "gzip": (b"\x1f\x8b\x08", "compressed with gzip; unpack"),
        "tar": (bytes(1) + b"a" * 256 + b"ustar", "is a tar archive"),
        "tensorflow list": (b'model_checkpoint_path: "m"', "the list of a TensorFlow checkpoint"),
        "tensorflow index": (
            b"a" * 99 + bytes.fromhex("57fb808b247547db"),
            "TensorFlow checkpoint",
        ),
        "signature alone": (b"\x89HDF\r\n\x1a\n", "is damaged"),
        "signature and noise": (b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 20, "is damaged"),
    }
    for name, (content, message) in contents.items():
        yield Case(name, write(content), message)
    yield Case("keras", zipped("metadata.json", "config.json"), "is a .keras file")
    yield Case("torch", zipped("archive/data.pkl", "archive/data/0"), "is a PyTorch file")
    yield Case("npz", zipped("a.npy"), "is NumPy's .npz")
    yield Case("zip", zipped("readme.txt"), "is a ZIP archive")
    yield Case("nothing", Path.unlink, "no weights file at")
    yield Case("folder", _folder(), "is a folder")
    yield Case("saved model", _folder("saved_model.pb"), "is a TensorFlow SavedModel")
    yield Case("checkpoints", _folder("m.index"), "is a folder of TensorFlow checkpoints")
    yield Case("pipe", _instead(os.mkfifo), "is no regular file")
    yield Case("socket", _instead(_bind), "is no regular file")
    yield Case("device", _instead(lambda p: p.symlink_to("/dev/zero")), "is no regular file")
    yield Case("dangling link", _instead(lambda p: p.symlink_to("none.h5")), "no weights file at")
    yield Case("link to itself", _instead(lambda p: p.symlink_to(p.name)), "[Ss]ymbolic link|no w")


def _replaced(make: Callable[[h5py.Group, str, np.ndarray], object]) -> Callable[[Path], None]:
    """Another dataset, or what is none, in place of one; gets the values."""

    def change(file: h5py.File) -> None:
        values = file[DATASET][...]
        del file[DATASET]
        make(file[LAYER], WEIGHT, values)

    return edit(change)


def _external(victim: Path) -> Callable[[Path], None]:
    return _replaced(
        lambda g, n, v: g.create_dataset(n, v.shape, "f4", external=[(str(victim), 0, v.nbytes)])
    )


def _virtual(group: h5py.Group, name: str, values: np.ndarray, source: str) -> None:
    layout = h5py.VirtualLayout(values.shape, "f4")
    layout[:] = h5py.VirtualSource(source, "values", values.shape)
    group.create_virtual_dataset(name, layout)


def _pipe_beside(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        pipe = path.with_name("pipe")
        if not pipe.exists():
            os.mkfifo(pipe)
        make(path)

    return change


def _user_block(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04".ljust(512, b"\0") + path.read_bytes())


def _bomb(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """A chunk that unpacks to far more than it should."""
    import zlib

    made = group.create_dataset(name, values.shape, "f4", chunks=values.shape, compression="gzip")
    made.id.write_direct_chunk((0,) * values.ndim, zlib.compress(bytes(30_000_000), 9))


def _structures(victim: Path) -> Iterator[Case]:
    """Files of others, and what can't be an array of weights."""
    elsewhere = "takes its values from other files"
    link = "is a link, maybe to another file"
    yield Case("external storage", _external(victim), elsewhere)
    yield Case("external pipe", _pipe_beside(_external(Path("pipe"))), elsewhere)
    for name, source in (("virtual", str(victim)), ("virtual self", "."), ("virtual pipe", "pipe")):
        make = _replaced(lambda g, n, v, source=source: _virtual(g, n, v, source))
        yield Case(name, _pipe_beside(make), elsewhere)
    links = {
        "soft": h5py.SoftLink("/mrcnn_bbox_fc"),
        "external": h5py.ExternalLink(str(victim), "/"),
        "external pipe": h5py.ExternalLink("pipe", "/"),
        "dangling": h5py.SoftLink("/none"),
        "cycle of soft": h5py.SoftLink(f"/{LAYER}"),
    }
    for name, target in links.items():
        make = _replaced(lambda g, n, v, target=target: g.__setitem__(n, target))
        yield Case(f"{name} link to a weight", _pipe_beside(make), link)

        def relink(file: h5py.File, target: object = target) -> None:
            del file[LAYER]
            file[LAYER] = target

        yield Case(f"{name} link to a layer", _pipe_beside(edit(relink)), link)
    claims = "claims .* bytes"
    huge = (1 << 20, 1 << 20)
    datasets = {
        "never stored": ({"shape": (64, 3)}, claims),
        "huge, never stored": ({"shape": huge}, claims),
        "huge chunks, never stored": ({"shape": huge, "chunks": (1024, 1024)}, claims),
        "many chunks": ({"shape": huge, "chunks": (1, 1)}, claims),
        "growing": ({"shape": (64, 3), "maxshape": (None, None), "chunks": (4096, 4096)}, claims),
        "fill value": ({"shape": (64, 3), "fillvalue": 7.0}, claims),
        "lzf": ({"data": np.ones((64, 3), "f4"), "compression": "lzf"}, "filters other than gzip"),
        "scale-offset": ({"data": np.ones((64, 3), "i4"), "scaleoffset": 0}, "no array of floats"),
        "empty": ({"data": h5py.Empty("f4")}, "is empty"),
        "integers": ({"data": np.ones((64, 3), "i4")}, "no array of floats"),
        "booleans": ({"data": np.ones((64, 3), bool)}, "no array of floats"),
        "complex": ({"data": np.ones((64, 3), "c8")}, "no array of floats"),
        "texts": ({"data": np.full((64, 3), b"1.5")}, "no array of floats"),
        "long texts": ({"data": np.full((64, 3), "1.5", object)}, "no array of floats"),
        "references": ({"shape": (64, 3), "dtype": h5py.ref_dtype}, "no array of floats"),
        "lists": ({"shape": (64, 3), "dtype": h5py.vlen_dtype("f4")}, "no array of floats"),
        "compound": ({"data": np.zeros((64, 3), [("a", "f4")])}, "no array of floats"),
        "opaque": ({"data": np.zeros((64, 3), "V4")}, "no array of floats"),
        "arrays in arrays": ({"shape": (64, 3), "dtype": "(2,)f4"}, "no array of floats"),
        "80-bit floats": ({"data": np.ones((64, 3), np.longdouble)}, "no array of floats"),
        "other shape": ({"data": np.ones((64, 4), "f4")}, r"expected shape \(64, 3\), found"),
        "scalar": ({"data": np.float32(1)}, "expected shape"),
        "32 sides": ({"data": np.ones((1,) * 32, "f4")}, "expected shape"),
    }
    for name, (arguments, message) in datasets.items():
        make = _replaced(lambda g, n, v, arguments=arguments: g.create_dataset(n, **arguments))
        yield Case(f"dataset: {name}", make, message)
    yield Case("dataset: group instead", _replaced(lambda g, n, v: g.create_group(n)), "no array")
    yield Case("dataset: type instead", _replaced(_type), "no array")
    yield Case("dataset: of a named type", _replaced(_named_type), "no array of floats")
    yield Case("dataset: bomb", _replaced(_bomb), "has a chunk of")
    yield Case("dataset: missing", edit(lambda file: file.__delitem__(DATASET)), "no array")
    yield Case("layer missing", edit(lambda file: file.__delitem__(LAYER)), "missing or no group")
    yield Case("layer is a dataset", edit(_dataset_for_layer), "missing or no group")
    yield Case("user block of a ZIP", _user_block, "")
    for kind in ("gzip", "gzip and shuffle", "chunks", "float16", "float64", "big-endian"):
        yield Case(f"sound: {kind}", edit(lambda file, kind=kind: _restored(file, kind)), "")


def _type(group: h5py.Group, name: str, values: np.ndarray) -> None:
    group[name] = np.dtype("f4")


def _named_type(group: h5py.Group, name: str, values: np.ndarray) -> None:
    group.file["kind"] = np.dtype("f4")
    group.create_dataset(name, values.shape, group.file["kind"], data=values)


def _dataset_for_layer(file: h5py.File) -> None:
    del file[LAYER]
    file[LAYER] = np.ones(3, "f4")


def _restored(file: h5py.File, kind: str) -> None:
    """All weights once more, the same values in another form."""
    options = {
        "gzip": {"compression": "gzip"},
        "gzip and shuffle": {"compression": "gzip", "shuffle": True, "fletcher32": True},
        "chunks": {"chunks": True},
        "float16": {"dtype": "f2"},
        "float64": {"dtype": "f8"},
        "big-endian": {"dtype": ">f4"},
    }[kind]
    for layer in file.attrs["layer_names"]:
        for weight in file[layer].attrs["weight_names"]:
            values = file[layer][weight][...]
            del file[layer][weight]
            file[layer].create_dataset(weight, data=values, **options)


def _values() -> Iterator[Case]:
    def put(value: float, where: str, kind: str) -> Callable[[Path], None]:
        def change(file: h5py.File) -> None:
            values = file[where][...].astype(kind)
            values.flat[values.size // 2] = value
            del file[where]
            file[where] = values

        return edit(change)

    for value, kind in (
        ("nan", "f4"),
        ("inf", "f4"),
        ("-inf", "f2"),
        ("nan", "f8"),
        ("1e300", "f8"),
    ):
        for where in (DATASET, "fpn_p2/fpn_p2/bias:0", "rpn_model/rpn_conv_shared/kernel:0"):
            layer, weight = where.split("/", 1)
            yield Case(
                f"{value} as {kind} in {layer}",
                put(float(value), where, kind),
                f"layer {layer}, weight {weight}: 1 of .* values are NaN or infinite",
            )


def _attribute(name: str, value: object, where: str = "/") -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        del file[where].attrs[name]
        file[where].attrs[name] = value

    return edit(change)


def _sound_names(change: Callable[[list], list]) -> Callable[[Path], None]:
    def make(file: h5py.File) -> None:
        names = change([name.decode() for name in file.attrs["layer_names"]])
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = np.array([name.encode() for name in names])

    return edit(make)


def heap(change: Callable[[bytearray, int], None]) -> Callable[[Path], None]:
    """Damage in the heap that the texts lie in; gets the content and where the heap begins."""

    def make(path: Path) -> None:
        content = bytearray(path.read_bytes())
        start = content.find(b"GCOL")
        while start >= 0:
            change(content, start)
            start = content.find(b"GCOL", start + 1)
        path.write_bytes(content)

    return make


def _texts() -> Iterator[Case]:
    """Names of layers and weights, and the heap of long texts."""
    bad = "is damaged|damaged or no file of weights|text is damaged"
    for name in (
        "..",
        "/",
        "",
        ".",
        "a//b",
        "/etc",
        f"../{LAYER}",
        f"{LAYER}/../{LAYER}",
        "x" * 450,
    ):
        yield Case(
            f"layer named {name[:30]!r}", _sound_names(lambda all, name=name: [*all, name]), bad
        )
    yield Case("layer given twice", _sound_names(lambda all: [*all, LAYER]), bad)
    yield Case(
        "no layers", _sound_names(lambda all: []), "[Ww]ithout weights|shares no layer|damaged"
    )
    yield Case("21,000 layers", edit(_many_layers), bad)
    values = {
        "numbers": np.arange(9),
        "a number": 5,
        "floats": np.ones(3),
        "empty text": "",
        "not UTF-8": np.array([b"\xff\xfe", b"\xc3"]),
        "long texts": ["mrcnn_mask", "none"],
        "a long text of NUL": "a\0b"[:1] + "b",
        "structure": np.zeros(2, [("a", "i4")]),
        "nothing": h5py.Empty("S1"),
    }
    for name, value in values.items():
        yield Case(f"layer_names: {name}", _attribute("layer_names", value), f"{bad}|exactly this")
        weights = _attribute("weight_names", value, LAYER)
        yield Case(f"weight_names: {name}", weights, f"{bad}|exactly this|expected 2 weights")
    long = edit(_long_names)
    yield Case("names as long texts", long, "")
    damages = {
        "object of size 0": lambda c, at: c.__setitem__(slice(at + 16, at + 32), bytes(16)),
        "objects numbered 0": lambda c, at: c.__setitem__(slice(at + 16, at + 18), bytes(2)),
        "huge object": lambda c, at: c.__setitem__(slice(at + 24, at + 32), b"\xff" * 8),
        "object that leads back": lambda c, at: c.__setitem__(
            slice(at + 24, at + 32), (2**64 - 16).to_bytes(8, "little")
        ),
        "huge heap": lambda c, at: c.__setitem__(slice(at + 8, at + 16), b"\xff" * 7 + b"\x0f"),
        "empty heap": lambda c, at: c.__setitem__(slice(at + 8, at + 16), bytes(8)),
        "no heap": lambda c, at: c.__setitem__(slice(at, at + 4), b"NONE"),
    }
    for name, change in damages.items():
        yield Case(f"heap: {name}", heap(change), bad)

    def claim(path: Path) -> None:
        """A text of 3 GB, says its reference: the length lies before the heap's address."""
        content = path.read_bytes()
        start = content.find(b"GCOL").to_bytes(8, "little")
        at = content.find(start)
        while at >= 0:
            content = content[: at - 4] + (3 << 30).to_bytes(4, "little") + content[at:]
            at = content.find(start, at + 8)
        path.write_bytes(content)

    yield Case("heap: text of 3 GB", claim, bad)


def _long_names(file: h5py.File) -> None:
    for group in (file, *file.values()):
        name = "layer_names" if group is file else "weight_names"
        names = [str(n, "utf8") for n in group.attrs.get(name, [])]
        if names:
            del group.attrs[name]
            group.attrs[name] = names


def _many_layers(file: h5py.File) -> None:
    names = [np.base_repr(i, 36).rjust(3, "0").encode() for i in range(21_000)]
    del file.attrs["layer_names"]
    file.attrs["layer_names"] = np.array(names)


def config(**values: object) -> Callable[[Path], None]:
    """The file with other settings; names may be any text."""

    def change(file: h5py.File) -> None:
        file.attrs["config"] = json.dumps(json.loads(file.attrs["config"]) | values)

    return edit(change)


def _configurations() -> Iterator[Case]:
    million, billion = 10**6, 10**9
    wrong = {
        "IMAGE_MAX_DIM": (million, billion, 10**40, 0, -64, "512", 512.5, [512], True, 100, {}),
        "IMAGE_MIN_DIM": (billion, "x"),
        "IMAGE_MIN_SCALE": (billion, -1),
        "NUM_CLASSES": (billion, 0, 1, -3, "3", 4, [3]),
        "FPN_CLASSIF_FC_LAYERS_SIZE": (billion, 0, "64", 65),
        "TOP_DOWN_PYRAMID_SIZE": (billion, -16, 17),
        "RPN_CONV_CHANNELS": (100_000, 32),
        "MASK_CONV_CHANNELS": (100_000, 32),
        "POOL_SIZE": (100_000, 0, 8),
        "MASK_POOL_SIZE": (100_000, 0, "14"),
        "MASK_SHAPE": ([million, million], [28], "28", [28, "28"], 28),
        "IMAGE_CHANNEL_COUNT": (billion, 0, 4),
        "BACKBONE": ("vgg", "resnet101", 5, ["resnet50"], ""),
        "BACKBONE_STRIDES": ([0] * 5, [1] * 5, [], "4", [4, 8, 16, 32, 10**9]),
        "RPN_ANCHOR_SCALES": ([], ["a"] * 5, [32] * 5000, "32", [-1] * 5, [1e308] * 5),
        "RPN_ANCHOR_RATIOS": ([], [0, 1, 2], [1] * 100_000, [1, 2], "1", [None] * 3),
        "RPN_ANCHOR_STRIDE": (0, -1, million),
        "RPN_BBOX_STD_DEV": ([0] * 4, [0.1] * 3, "x", [[0.1] * 4] * 4),
        "BBOX_STD_DEV": ([-1] * 4, [1e308] * 4),
        "PRE_NMS_LIMIT": (10**12, 0, "6000"),
        "POST_NMS_ROIS_INFERENCE": (billion, 0),
        "DETECTION_MAX_INSTANCES": (billion, 0, "100"),
        "DETECTION_MIN_CONFIDENCE": (2, -1, "0.5"),
        "DETECTION_NMS_THRESHOLD": (7, "0.3"),
        "MEAN_PIXEL": (["a"] * 3, [1] * 1000, [1e300] * 3, {}, [1, 2]),
        "IMAGE_RESIZE_MODE": ("stretch", 5, ["square"]),
        "COMPUTE_DTYPE": ("int8", 16),
        "NAME": ("../../x", 5, "n" * million, "a\0b", "a\nb"),
        "TRAIN_BN": ("yes", 1),
        "USE_MINI_MASK": ("no",),
        "SLEEVE_REFINE": ("no", 1),
        "DETECTION_PER_CLASS": (1,),
        "LOSS_WEIGHTS": ([1], {"none": 1}, {"rpn_class_loss": "1"}),
        "COMPUTE_BACKBONE_SHAPE": ("os.system", [1]),
        "IMAGES_PER_GPU": ("2",),
        "LEARNING_RATE": ("0.1", [0.1]),
    }
    refusal = "the configuration in .* can't be used"
    for name, values in wrong.items():
        for number, value in enumerate(values):
            yield Case(f"{name} {number}", config(**{name: value}), refusal, "whole")
    together = {"MASK_POOL_SIZE": 64, "MASK_SHAPE": [128, 128], "DETECTION_MAX_INSTANCES": 10_000}
    yield Case("sizes within bounds that multiply", config(**together), refusal, "whole")
    yield Case("sound, by a predictor", lambda path: None, "", "whole")
    unknown = {
        "validate": 1,
        "__init__": "x",
        "_names": [],
        "to_dict": 5,
        "MY_OWN": 3,
        "\x1b[2J": 0,
    }
    yield Case("unknown settings", config(**unknown, **dict.fromkeys("abcdefgh")), "", "whole")
    raw = {
        "list": "[]",
        "number": "5",
        "null": "null",
        "empty": "",
        "nested": '{"a":' * 100_000,
        "too large a number": '{"LEARNING_RATE": 1e400}',
        "NaN": '{"LEARNING_RATE": NaN}',
        "byte order mark": "\ufeff{}",
        "cut short": '{"NUM_CLASSES": 3',
        "20 MB": json.dumps({"NAME": "x" * 20_000_000}),
        "an array": ["{}", "{}"],
        "number attribute": 5,
        "bytes": np.bytes_(b"\xff\xfe\0{"),
    }
    for name, value in raw.items():
        yield Case(
            f"config: {name}",
            _attribute("config", value),
            f"is not JSON|is damaged|no file of weights|{refusal}",
            "whole",
        )
    twice = '{"NUM_CLASSES": 7, "NUM_CLASSES": 1000000000}'
    yield Case("config: a name twice", _attribute("config", twice), refusal, "whole")


def _class_names() -> Iterator[Case]:
    wrong = {
        "twice": ["BG", "hat", "hat"],
        "NUL": ["BG", "hat", "sh\0e"],
        "escape": ["BG", "hat", "\x1b[31mred"],
        "half of a pair": ["BG", "hat", "\ud800"],
        "a megabyte": ["BG", "hat", "x" * 10**6],
        "object": {"0": "BG", "1": "hat", "2": "shoe"},
        "numbers": [0, 1, 2],
        "too few": ["BG", "hat"],
        "too many": ["BG", *map(str, range(10_000))],
        "blank": ["BG", "hat", " "],
        "no background": ["person", "hat", "shoe"],
        "lists": [["BG"], ["hat"], ["shoe"]],
        "null in it": ["BG", None, "shoe"],
        "text": "BG,hat,shoe",
    }
    refusal = "the class names in .* can't be used|class_names is not JSON"
    for name, value in wrong.items():
        make = _attribute("class_names", json.dumps(value))
        yield Case(f"class names: {name}", make, refusal)
        yield Case(f"class names: {name}, by a predictor", make, refusal, "whole")


def damage(path: Path, seed: int) -> None:
    """Scattered damage: cuts, noise, zeros, single bytes; most of it where no values lie."""
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    # Values are long runs without anything that a reader must understand.
    if seed % 5 == 0:
        path.write_bytes(content[: int(rng.integers(len(content)))])
        return
    for _ in range(int(rng.choice([1, 3, 20, 100]))):
        place = int(rng.integers(len(content)))
        found = [
            content.find(mark, place) for mark in (b"TREE", b"SNOD", b"HEAP", b"GCOL", b":0\0")
        ]
        start = min((f for f in found if f >= 0), default=place) + int(rng.integers(-200, 200))
        start, length = max(0, start), int(rng.choice([1, 1, 2, 8, 64]))
        part = content[start : start + length]
        noise = rng.integers(0, 256, len(part), dtype=np.uint8).tobytes()
        content[start : start + length] = bytes(len(part)) if rng.random() < 0.3 else noise
    path.write_bytes(content)


class Targets:
    """The models that files are loaded into, and the sound files, in a folder."""

    def __init__(self, folder: Path) -> None:
        from mrcnn.model import MaskRCNN
        from mrcnn.presets import CompactConfig
        from tests.helpers.shapes import SmallConfig

        self.small = MaskRCNN("inference", SmallConfig(), str(folder / "logs"))
        sizes = {"NUM_CLASSES": 3, "IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64, "MASK_REFINE": False}
        sizes |= dict.fromkeys(
            ("TOP_DOWN_PYRAMID_SIZE", "RPN_CONV_CHANNELS", "MASK_CONV_CHANNELS"), 16
        )
        sizes |= {"FPN_CLASSIF_FC_LAYERS_SIZE": 64, "COMPUTE_DTYPE": "float32"}
        whole = MaskRCNN("inference", CompactConfig.from_dict(sizes), str(folder / "logs"))
        for name, model in (("small", self.small), ("whole", whole)):
            model.class_names = NAMES
            model.save_weights(folder / f"{name}.h5", dtype="float32")
        self.folder = folder

    def load(self, path: Path, base: str) -> None:
        """Loads a file as a program or command would.

        Raises:
            AssertionError: if a refused file has changed a weight, or a loaded one isn't finite.
        """
        from mrcnn.predictor import Predictor

        if base == "whole":
            model = Predictor.load(path, precision="float32").model.keras_model
        else:
            model = self.small.keras_model
            before = [np.array(v) for v in model.variables]
            try:
                self.small.load_weights(path)
            except Exception:
                now = zip(before, model.variables, strict=True)
                assert all(np.array_equal(b, v, equal_nan=True) for b, v in now), "weights changed"
                raise
        assert all(np.isfinite(v).all() for v in model.variables), "not finite"


def attempt(case: Case, targets: Targets) -> Outcome:
    """Makes and loads the file of a case."""
    path = targets.folder / "w.h5"
    shutil.copy(targets.folder / f"{case.base}.h5", path)
    case.make(path)
    _forget_peak()
    start, end, message = time.monotonic(), "loaded", ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            targets.load(path, case.base)
        except (OSError, ValueError, ImportError) as error:  # as `commands.main.main`
            end, message = "refused", str(error)
        except BaseException as error:
            end, message = type(error).__name__, str(error)
    seconds = time.monotonic() - start
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    warned = "\n".join(str(w.message) for w in caught if w.category is UserWarning)
    return Outcome(case.name, end, message, warned, round(seconds, 2), _peak())


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Highest memory since `_forget_peak`, MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def main() -> None:
    folder, first = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    victim = folder / "victim"
    victim.write_bytes(b"secret! " * 1000)
    targets = Targets(folder)
    for number, case in enumerate(cases(victim)):
        if number >= first:
            print(json.dumps(asdict(attempt(case, targets))), flush=True)


if __name__ == "__main__":
    main()

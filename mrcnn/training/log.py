"""The log of a run folder: run.json, log.jsonl, log.csv, curves.png and TensorBoard's files.

Each is a plain file that explains the run without this program. Where they can't be written, as on
a full disk, a warning says so and the training goes on.
"""

import csv
import io
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from mrcnn.core.files import write_atomically

Row = dict[str, Any]  # column -> number, "epoch" among them; None: it was not finite
PACKAGES = ("tensorflow", "keras", "numpy", "pyimgaug", "pycocotools", "scikit-image", "h5py")


class RunLog:
    """Writes one row an epoch.

    Args:
        done: epochs done before; rows of later ones, which a run that went on from an older
            checkpoint does anew, are cut off.
        tensorboard: whether to write TensorBoard's files too.
    """

    def __init__(self, folder: str | Path, done: int = 0, tensorboard: bool = False) -> None:
        self.folder = Path(folder)
        self.rows = [row for row in read_rows(folder) if row["epoch"] <= done]
        self._writer: Any = None
        if tensorboard:
            import tensorflow as tf

            with _warned(self.folder, tf.errors.OpError):
                self._writer = tf.summary.create_file_writer(str(self.folder / "tensorboard"))

    def write(self, row: Row) -> None:
        """Adds an epoch."""
        self.rows.append(row)
        lines = b"".join(orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE) for r in self.rows)
        with _warned(self.folder):
            write_atomically(self.folder / "log.jsonl", lines)
            write_atomically(self.folder / "log.csv", _csv(self.rows))
            write_atomically(self.folder / "curves.png", plot_curves(self.rows))
        numbers = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "epoch"}
        self._summarize("scalar", numbers, row["epoch"])

    def add_image(self, name: str, image: np.ndarray, epoch: int) -> None:
        """Shows an image uint8 [H, W, 3] in TensorBoard."""
        self._summarize("image", {name: image[None]}, epoch)

    def _summarize(self, kind: str, values: dict[str, Any], epoch: int) -> None:
        if self._writer is None:
            return
        import tensorflow as tf

        with _warned(self.folder, tf.errors.OpError):
            with self._writer.as_default(step=epoch):
                for name, value in values.items():
                    getattr(tf.summary, kind)(name, value)
            self._writer.flush()


def read_rows(folder: str | Path) -> list[Row]:
    """Rows of a folder's log.jsonl, [] without one; a line that is no row or cut off ends them."""
    path = Path(folder) / "log.jsonl"
    rows: list[Row] = []
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                row = msgspec.json.decode(line, type=dict[str, int | float | str | None])
            except (msgspec.DecodeError, UnicodeDecodeError):
                break
            if not isinstance(row.get("epoch"), int):
                break
            rows.append(row)
    return rows


@contextmanager
def _warned(folder: Path, errors: type[Exception] = OSError) -> Iterator[None]:
    """Turns errors of writing into a warning."""
    try:
        yield
    except errors as error:
        text = str(error).splitlines()[0][:300]
        warnings.warn(
            f"the log in {folder} can't be written ({text}); the training goes on", stacklevel=4
        )


def _csv(rows: list[Row]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue().encode()


def plot_curves(rows: list[Row]) -> bytes:
    """PNG of the losses of all epochs, and the learning rate below them.

    Each loss has a colour: its line is solid for training and dashed for validation.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _plot_losses(losses, rows)
    epochs = [row["epoch"] for row in rows] or [1]
    known = [row.get("learning_rate", 0) for row in rows] or [0]
    known = [rate if _is_number(rate) else 0 for rate in known]
    rates.plot(epochs, known, color="black", marker=".", drawstyle="steps-mid")
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    rates.set_xlabel("epoch")
    rates.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    rates.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _plot_losses(axes: Any, rows: list[Row]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    names = [n for n in columns if n == "loss" or n.endswith("_loss")]
    kinds = list(dict.fromkeys(n.removeprefix("val_") for n in names))
    for name in sorted(names, key=lambda n: kinds.index(n.removeprefix("val_"))):
        # A number that was not finite is null in the log's file.
        known = [(row["epoch"], row[name]) for row in rows if _is_number(row.get(name))]
        if not known:
            continue
        kind = name.removeprefix("val_")
        axes.plot(
            *zip(*known, strict=True),
            label=name,
            color=f"C{kinds.index(kind)}",
            marker=".",
            linestyle="-" if name == kind else "--",
            linewidth=2.0 if kind == "loss" else 1.0,
            alpha=1.0 if kind == "loss" else 0.7,
        )
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small", ncols=2)


def write_run(folder: str | Path, **content: Any) -> None:
    """Writes or continues run.json: what was run, with what, when.

    A run that goes on adds an entry under "resumed" and leaves the first one alone.
    """
    path = Path(folder) / "run.json"
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **content,
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }
    with _warned(path.parent):
        first = _first_entry(path)
        if first is not None:
            first["resumed"] = [*first.get("resumed", []), entry]
            entry = first
        options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
        write_atomically(path, orjson.dumps(entry, option=options))


def _first_entry(path: Path) -> dict[str, Any] | None:
    """Content of run.json, None without one; what can't be read is put aside."""
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except orjson.JSONDecodeError:
        content = None
    if isinstance(content, dict) and isinstance(content.get("resumed", []), list):
        return content
    aside = path.with_name("run.broken.json")
    os.replace(path, aside)
    warnings.warn(f"{path} can't be read; it is {aside.name} now", stacklevel=3)
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the program, "+" added if files differ from it; None outside a git checkout."""
    here = Path(__file__).resolve().parent

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", *command], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # Installed into another project's folder, that project's commit would say nothing.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None

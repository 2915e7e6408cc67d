"""The log of a run folder: run.json, log.jsonl, log.csv, curves.png and TensorBoard's files.

Each is a plain file that explains the run without this program.
"""

import csv
import io
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson

from mrcnn.files import write_atomically

PACKAGES = ("tensorflow", "keras", "numpy", "pyimgaug", "pycocotools", "scikit-image", "h5py")


class RunLog:
    """Writes one row an epoch.

    Args:
        folder: of the run, str or Path.
        done: epochs done before; rows of later ones, which a run that went on from an older
            checkpoint does anew, are cut off.
        tensorboard: whether to write TensorBoard's files too.
    """

    def __init__(self, folder, done=0, tensorboard=False):
        self.folder = Path(folder)
        self.rows = [row for row in read_rows(folder) if row["epoch"] <= done]
        self._writer: Any = None
        if tensorboard:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(self.folder / "tensorboard"))

    def write(self, row):
        """Adds an epoch.

        Args:
            row: dict of column -> number, "epoch" among them.
        """
        self.rows.append(row)
        lines = b"".join(orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE) for r in self.rows)
        write_atomically(self.folder / "log.jsonl", lines)
        write_atomically(self.folder / "log.csv", _csv(self.rows))
        write_atomically(self.folder / "curves.png", plot_curves(self.rows))
        if self._writer is not None:
            self._summarize(row)

    def _summarize(self, row):
        import tensorflow as tf

        with self._writer.as_default():
            for name, value in row.items():
                if name != "epoch" and isinstance(value, (int, float)):
                    tf.summary.scalar(name, value, step=row["epoch"])
        self._writer.flush()

    def picture(self, name, image, epoch):
        """Shows a picture in TensorBoard.

        Args:
            image: uint8 [H, W, 3].
        """
        if self._writer is not None:
            import tensorflow as tf

            with self._writer.as_default():
                tf.summary.image(name, image[None], step=epoch)
            self._writer.flush()


def read_rows(folder):
    """Rows of a folder's log.jsonl, [] without one; a line that was cut off ends them."""
    path = Path(folder) / "log.jsonl"
    rows = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                rows.append(orjson.loads(line))
            except orjson.JSONDecodeError:
                break
    return rows


def _csv(rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue().encode()


def plot_curves(rows):
    """PNG bytes: the losses of all epochs, and the learning rate below them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    epochs = [row["epoch"] for row in rows]
    names = [n for n in rows[-1] if n == "loss" or n.endswith("_loss")]
    for name in names:
        known = [(e, row[name]) for e, row in zip(epochs, rows, strict=True) if name in row]
        whole = name in ("loss", "val_loss")
        losses.plot(
            *zip(*known, strict=True),
            label=name,
            marker=".",
            linestyle="--" if name.startswith("val_") else "-",
            linewidth=2.0 if whole else 1.0,
            alpha=1.0 if whole else 0.6,
        )
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    losses.legend(fontsize="small", ncols=2)
    rates.plot(epochs, [row.get("learning_rate", 0) for row in rows], color="black")
    rates.set_ylabel("learning rate")
    rates.set_xlabel("epoch")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def write_run(folder, **content):
    """Writes or continues run.json: what was run, with what, when.

    A run that goes on adds an entry under "resumed" and leaves the first one alone.

    Args:
        folder: of the run.
        **content: what JSON can hold, such as config, arguments and seed.
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
    if path.exists():
        first = json.loads(path.read_bytes())
        first.setdefault("resumed", []).append(entry)
        entry = first
    write_atomically(
        path, orjson.dumps(entry, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
    )


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit():
    """Commit of the program, "+" added if files differ from it; None outside a git checkout."""
    here = Path(__file__).resolve().parent

    def git(*command):
        return subprocess.run(
            ["git", *command], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None

"""Run folders: <model_dir>/<name><YYYYMMDDTHHMM>/mask_rcnn_<name>_<epoch>.h5."""

import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from mrcnn.core.files import PathLike

LOCK = "run.lock"
_REMEDY = "give the folder and the name of a run, or start a new one"


def run_folder(model_dir: PathLike, name: str, now: datetime | None = None) -> Path:
    """Folder of a new run (not made yet)."""
    return Path(model_dir) / f"{name.lower()}{now or datetime.now():%Y%m%dT%H%M}"


def make_run_folder(folder: PathLike) -> Path:
    """Makes the `run_folder` of a new run, under the next minute's name that isn't taken.

    Runs that start in the same minute would otherwise remove each other's checkpoints. A folder
    of another name is made, or taken as it is.
    """
    folder = Path(folder)
    found = re.fullmatch(r"(.*)(\d{8}T\d{4})", folder.name)
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    name, time = found.group(1), datetime.strptime(found.group(2), "%Y%m%dT%H%M")
    while True:
        folder = folder.with_name(f"{name}{time:%Y%m%dT%H%M}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            time += timedelta(minutes=1)
        else:
            return folder


class RunInUse(ValueError):
    """Another training holds the run folder; the message says which."""


@contextmanager
def held(folder: PathLike) -> Iterator[None]:
    """Holds a run folder, which exists: two trainings in it would mix their checkpoints.

    The end of the process, however it comes, ends that too; the file `LOCK` stays.

    Raises:
        RunInUse: if another training holds it.
    """
    from filelock import FileLock, Timeout

    path = Path(folder) / LOCK
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path).acquire(blocking=False))
            now = datetime.now().astimezone().isoformat(" ", "seconds")
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {now}")
        except Timeout:
            raise RunInUse(
                f"another training works in {folder} ({_holder(path)}); wait for its end, or start "
                "a new run"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{folder} can't be locked ({error}); start no second training in it", stacklevel=3
            )
        yield


def _holder(path: Path) -> str:
    text = ""
    with suppress(OSError, ValueError):
        text = path.read_text()[:200]
    return text if text.isprintable() and text else "process unknown"


def checkpoint_path(folder: PathLike, name: str, epoch: int) -> Path:
    """File of a run's checkpoint after the given epoch, 1-based."""
    return Path(folder) / f"mask_rcnn_{name.lower()}_{epoch:04d}.h5"


def parse_checkpoint(path: PathLike) -> int | None:
    """Epoch of a checkpoint in a run folder, or None if the path isn't one."""
    pattern = r".*[/\\][\w-]+\d{8}T\d{4}[/\\]mask_rcnn_[\w-]+_(\d{4,})\.h5"
    found = re.fullmatch(pattern, str(Path(path).resolve()))
    return int(found.group(1)) if found else None


def run_folders(model_dir: PathLike, name: str) -> list[Path]:
    """Folders of all runs of that name, the newest first."""
    pattern = re.compile(rf"{re.escape(name.lower())}\d{{8}}T\d{{4}}")
    root = Path(model_dir)
    folders = [p for p in root.iterdir() if pattern.fullmatch(p.name)] if root.is_dir() else []
    return sorted(folders, reverse=True)


def find_last_run(model_dir: PathLike, name: str) -> Path:
    """Folder of the last run of that name that can go on: it has a list of checkpoints.

    Raises:
        FileNotFoundError: if there is none.
    """
    for folder in run_folders(model_dir, name):
        if (folder / "checkpoints.json").exists():
            return folder
    raise FileNotFoundError(
        f"no run named {name.lower()!r} to go on with in {model_dir}; {_REMEDY}"
    )


def find_last(model_dir: PathLike, name: str) -> str:
    """The last checkpoint of the last run of that name that has one.

    Raises:
        FileNotFoundError: if there is none.
    """
    pattern = re.compile(rf"mask_rcnn_{re.escape(name.lower())}_(\d{{4,}})\.h5")
    for folder in run_folders(model_dir, name):
        files = [p.name for p in folder.glob("*.h5") if p.is_file()]
        found = [match for name in files if (match := pattern.fullmatch(name))]
        if found:
            return str(folder / max(found, key=lambda match: int(match.group(1))).group())
    raise FileNotFoundError(
        f"no checkpoint of a run named {name.lower()!r} in {Path(model_dir).resolve()}; {_REMEDY}"
    )

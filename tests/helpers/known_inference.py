"""`model.py inference` with `HalfDetector` in place of a network, so that it starts at once.

    python -m tests.helpers.known_inference OPTIONS

runs it in a process of its own. `started` does so without the time that imports take.
"""

import multiprocessing
import os
import sys
from pathlib import Path

from mrcnn.commands import inference, main
from tests.helpers.detectors import HalfDetector


def run(*arguments, detector=None):
    """Exit status of the command."""
    load, inference._load_predictor = inference._load_predictor, lambda *_, **__: known
    known = detector or HalfDetector()
    try:
        return main.main(["inference", *map(str, arguments)])
    finally:
        inference._load_predictor = load


def _work(arguments, log):
    """What a process of `started` does: prints to a file, ends with the exit status."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.exit(run(*arguments))


def started(*arguments, log=os.devnull):
    """A process, started, that runs the command and prints to a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_work, args=([*map(str, arguments)], str(log)))
    process.start()
    return process


def ended(process, seconds=60):
    """Exit status of a process of `started`, negative if a signal ended it."""
    process.join(seconds)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def tree(folder):
    """Path -> content of each regular file below a folder, of links their target."""
    return {
        p.relative_to(folder).as_posix(): os.readlink(p) if p.is_symlink() else p.read_bytes()
        for p in Path(folder).rglob("*")
        if p.is_symlink() or p.is_file()
    }


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))

"""Commands in the process of the test: no start of Python, no second import."""

import contextlib
import io
from pathlib import Path

from mrcnn.commands.main import main


def run_command(*arguments, cwd=Path(), status=0):
    """What `model.py ARGUMENTS` prints to both streams, after a check of its exit status."""
    printed = io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        try:
            code = main([*map(str, arguments)])
        except SystemExit as end:  # argparse
            code = end.code
    assert code == status, printed.getvalue()
    return printed.getvalue()

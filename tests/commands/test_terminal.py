"""What a command does about its terminal and about errors: exit statuses, messages, streams."""

import errno
import os
import re
import signal
import subprocess
import sys
import warnings

import pytest

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.terminal import REPORT, describe, run
from tests.helpers import ROOT


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


def raising(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UsageError("do that"), 2, "p c: do that\n"),
        (UsageError("it broke", status=3), 3, "p c: it broke\n"),
        (ValueError("no number"), 2, "p c: no number\n"),
        (ImportError("not installed"), 2, "p c: not installed\n"),
        (OSError("no room"), 2, "p c: no room\n"),
        (FileNotFoundError(2, "No such file", "a/b"), 2, "p c: a/b: No such file\n"),
        (KeyboardInterrupt(), 130, "p c: interrupted\n"),
        (KeyError("a bug"), 3, f"p c: KeyError: 'a bug'\n{REPORT}\n"),
        (RecursionError("deep"), 3, f"p c: RecursionError: deep\n{REPORT}\n"),
        (
            MemoryError("700 GB"),
            3,
            "p c: memory ran out (700 GB); take a smaller --size or --batch_size\n",
        ),
        (
            ResourceExhaustedError("OOM when allocating\n\tlist of nodes"),
            3,
            "p c: memory ran out (OOM when allocating); take a smaller --size or --batch_size\n",
        ),
        (ValueError("name \x1b[31m\u202e\x07"), 2, "p c: name \\x1b[31m\\u202e\\x07\n"),
    ],
)
def test_every_error_is_one_message(error, status, text, capsys):
    assert run("p c", raising(error)) == status
    assert capsys.readouterr() == ("", text)


def test_what_a_command_returns_is_its_status(capsys):
    assert [run("p c", lambda: n) for n in (0, 2, 3)] == [0, 2, 3]  # noqa: B023
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [ValueError("no number"), KeyError("a bug"), UsageError("no")])
def test_a_traceback_on_request(error, capsys):
    run("p c", raising(error), debug=True)
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback") and "in raising" not in printed
    assert re.search(r"^mask-rcnn-clothing \S+, Python 3\S+, .*, numpy \d", printed, re.M)
    assert printed.count("p c: ") == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            "out: Permission denied; change the permissions",
        ),
        (OSError(errno.EXDEV, "Invalid link", "a", None, b"b"), "a -> b: Invalid link"),
        (OSError(errno.EBADF, "Bad file descriptor", 7), "Bad file descriptor"),
        (OSError(), "OSError"),
        (ValueError(), "ValueError"),
        (OSError("h5py's text"), "h5py's text"),
    ],
)
def test_errors_of_the_system_in_words(error, text):
    assert describe(error).startswith(text) and "Errno" not in describe(error)


# --- Streams of a real process --------------------------------------------------------------------

# Draws and writes twelve images, says so on both streams, and warns.
COMMAND = f"{sys.executable} model.py convert --make_demo {{}} --images 6"


def shell(command, **environment):
    return subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        (">/dev/full", "standard output can't be written (No space left on device); going on"),
        (">/dev/full 2>&1", ""),
        ("2>/dev/full", ""),
        (">&-", ""),
        ("2>&-", ""),
        ("<&- >&- 2>&-", ""),
        ("| true", ""),
        ("2>&1 | true", ""),
    ],
)
def test_broken_streams_do_not_end_the_work(redirection, said, tmp_path):
    folder = tmp_path / "demo"
    done = shell(f"set -o pipefail; {COMMAND.format(folder)} {redirection}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line and "images/s" not in line]
    assert lines == ([said] if said else [])
    assert len(list(folder.glob("*/image/*.jpg"))) == 6


def test_messages_do_not_go_into_a_file_that_took_the_number_of_a_closed_stream(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from mrcnn.commands.terminal import use_streams
use_streams()
file = open({str(tmp_path / "data")!r}, "w")
os.write(2, b"C code")
print("a message", file=sys.stderr)
print("another")
file.write("data")
"""
    done = subprocess.run(
        ["bash", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], timeout=60
    )
    assert done.returncode == 0 and (tmp_path / "data").read_text() == "data"


def test_what_a_stream_cannot_encode_is_escaped(tmp_path):
    name = os.fsdecode(b"n\xffw \xe2\x82\xac")
    done = shell(
        f"{sys.executable} model.py inspect --data '{tmp_path}/{name}'",
        PYTHONIOENCODING="ascii",
        LC_ALL="C",
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "\\u20ac" in done.stderr and "\\udcff" in done.stderr


def test_warnings_are_one_line_without_code(tmp_path):
    code = f"""
import sys, warnings
sys.path.insert(0, {str(ROOT)!r})
from mrcnn.commands.terminal import use_streams
use_streams()
warnings.warn("mind the \x1b[31m gap")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "Warning: mind the \\x1b[31m gap\n"
    assert warnings.showwarning is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_with_130(number, tmp_path):
    command = [sys.executable, "model.py", "convert", "--make_demo", str(tmp_path / "d")]
    with subprocess.Popen(
        [*command, "--images", "100000"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr.read(40)  # of the progress bar: it is at work
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in said

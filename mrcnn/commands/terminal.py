"""How a command meets its terminal: streams that may fail, messages, exit statuses.

The rule: a command ends in 0, 2, 3 or 130 and prints one message; a traceback only with --debug.
"""

import errno
import os
import platform
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mrcnn import __version__
from mrcnn.commands.arguments import UsageError
from mrcnn.core.processes import sigterm_interrupts
from mrcnn.core.text import printable

REPORT = (
    "This is a fault of the program. Please report it with the command and what it prints with "
    "--debug"
)
# What to do about an error of the system.
_ADVICE = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some space, or choose a folder on another disk",
    errno.EACCES: "change the permissions, or choose another place",
    errno.EPERM: "change the permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOTDIR: "choose a path that leads through folders only",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def run(name: str, function: Callable[[], int], debug: bool = False) -> int:
    """Runs a command and turns every error into one message.

    Args:
        name: how the program and the command were called, the beginning of each message.
        function: returns the exit status.
        debug: print tracebacks too.

    Returns:
        What `function` returned; 2 for what the user can put right; 3 for all that went wrong
        otherwise, a fault of the program included; 130 after SIGINT or SIGTERM.
    """
    try:
        with sigterm_interrupts():
            return function()
    except KeyboardInterrupt:
        _say(f"{name}: interrupted", debug)
        return 130
    except UsageError as error:
        _say(f"{name}: {error}", debug)
        return error.status
    except (OSError, ValueError, ImportError) as error:
        _say(f"{name}: {describe(error)}", debug)
        return 2
    except Exception as error:
        text = _out_of_memory(error) or f"{type(error).__name__}: {error}\n{REPORT}"
        _say(f"{name}: {text}", debug)
        return 3


def describe(error: BaseException) -> str:
    """An error in words; of the system's errors the file, and what to do."""
    if not (isinstance(error, OSError) and error.strerror):
        return str(error) or type(error).__name__
    names = [
        os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)
    ]
    text = ": ".join([" -> ".join(names), error.strerror] if names else [error.strerror])
    return f"{text}; {_ADVICE[error.errno]}" if error.errno in _ADVICE else text


def _out_of_memory(error: Exception) -> str:
    """A message if memory ran out, TensorFlow's included, else ""."""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        first = str(error).partition("\n")[0][:200]
        return f"memory ran out ({first}); take a smaller --size or --batch_size"
    return ""


def _say(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
        versions = f"Python {platform.python_version()}, {platform.platform()}{_versions()}"
        print(f"mask-rcnn-clothing {__version__}, {versions}", file=sys.stderr)
    print(printable(message, lines=True), file=sys.stderr)


def _versions() -> str:
    """Versions of what is loaded already: nothing is imported for a message."""
    names = ("numpy", "tensorflow", "keras", "h5py", "PIL")
    loaded = [(n, getattr(sys.modules.get(n), "__version__", None)) for n in names]
    return "".join(f", {name} {version}" for name, version in loaded if version)


# --- Streams --------------------------------------------------------------------------------------


def use_streams() -> None:
    """Makes sure that printing can't end a command, whatever its streams are. For own processes.

    A stream that was closed, breaks or is full is replaced by nothing, with a word on stderr; what
    it can't encode is escaped. Warnings become one line without a place in the code.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # or else the next file that is opened gets the number, and messages in it
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115
    sys.stderr = _Tolerant(sys.stderr)
    sys.stdout = _Tolerant(sys.stdout)
    warnings.showwarning = _show_warning


class _Tolerant:
    """A text stream that goes on after it fails, printing nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(ValueError):  # closed by the program that called this one
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        with suppress(ValueError):
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        number = self._stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)  # also for the rest in the buffer, and for C code
        os.close(null)
        if number != 2 and not isinstance(error, BrokenPipeError):  # `| head` is no mistake
            print(f"standard output can't be written ({error.strerror}); going on", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"Warning: {printable(str(message))}", file=sys.stderr)

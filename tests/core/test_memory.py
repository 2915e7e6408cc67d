"""Memory of the C library: one heap for all threads, and freed memory returned."""

import os
import platform
import subprocess
import sys

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas"
)

HEAPS = """
import ctypes, sys, threading
sys.path[:0] = [{root!r}]
from mrcnn.core import memory
if {shared}:
    memory.share_heap()
hold = threading.Barrier(4)
def take():
    kept = bytearray(90_000)
    hold.wait()
threads = [threading.Thread(target=take) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
ctypes.CDLL(None).malloc_stats()
"""


def test_threads_share_one_heap():
    def heaps(shared, **more):
        environment = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"} | more
        code = HEAPS.format(root=str(ROOT), shared=shared)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stderr.count("Arena ")

    assert heaps(shared=False) > 1
    assert heaps(shared=True) == 1
    assert heaps(shared=True, MALLOC_ARENA_MAX="3") > 1  # what the user says stands


FREED = """
import sys
sys.path[:0] = [{root!r}]
from mrcnn.core import memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

blocks = [bytearray(60_000) for _ in range(2000)]
kept = blocks[::100]
before = resident()
del blocks
held = resident()
memory.give_back()
print(before - held, held - resident())
"""


def test_freed_memory_is_given_back():
    """Of 120 MB of which every hundredth block stays."""
    code = FREED.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    by_itself, given_back = map(int, done.stdout.split())
    assert by_itself + given_back > 100_000_000 and given_back > 50_000_000

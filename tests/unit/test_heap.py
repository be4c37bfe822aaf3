"""heap: one heap for all threads, given back when free; what the environment says stands."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Final

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")

PROGRAM: Final = """
import ctypes, re, sys, threading
from service.heap import hold_less

if sys.argv[1] == "less":
    print(hold_less())
else:
    print("as it was")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
heap = re.search("^([0-9a-f]+)-.* .heap.$", open("/proc/self/maps").read(), re.M)[1]

# A thread's block, beside the heap of the process.
found = []
thread = threading.Thread(target=lambda: found.append(libc.malloc(50_000)))
thread.start(); thread.join()
print(0 <= found[0] - int(heap, 16) < 1 << 30)

# One large array freed raises what malloc keeps; then 24 MB in small blocks, all freed.
libc.free(libc.malloc(30 << 20))
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024
blocks = [libc.malloc(100_000) for _ in range(240)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
full = resident()
for block in blocks:
    libc.free(block)
print(full - resident() > 15)
"""


def run(how: str, **env: str) -> list[str]:
    """What was set, whether threads share the heap, whether what was freed was given back."""
    bare = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env=bare | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_threads_share_one_heap_and_what_is_free_is_given_back() -> None:
    assert run("less") == ["True", "True", "True"]
    assert run("as it was") == ["as it was", "False", "False"]


def test_what_the_environment_says_stands() -> None:
    assert run("less", MALLOC_ARENA_MAX="4")[:2] == ["False", "False"]

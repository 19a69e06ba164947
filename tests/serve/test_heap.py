"""Threads of a server allocate in one heap; without it each has its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

# Eight threads hold memory at the same time; glibc then lists its heaps on standard error.
SCRIPT = """
import ctypes, sys, threading
from sanakit.serve.heap import share_heap
if "share" in sys.argv:
    share_heap()
together = threading.Barrier(8)
def hold():
    held = [bytes(2000) for _ in range(100)]
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_stats") if os.name == "posix" else True, reason="needs glibc"
)
@pytest.mark.parametrize(
    ("words", "variables", "heaps"),
    [
        (["share"], {}, 1),
        ([], {}, 8),
        (["share"], {"MALLOC_ARENA_MAX": "3"}, 3),
    ],
)
def test_threads_share_a_heap_unless_the_environment_says_how_many(
    words: list[str], variables: dict[str, str], heaps: int
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], env=environment | variables, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    found = ran.stderr.count("Arena ")
    assert found == heaps if heaps < 8 else found > 3  # a thread may be gone before the last one begins

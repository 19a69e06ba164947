"""The compiled kernels of every instruction set that this CPU has, in turn, on 1 to 3 threads."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch

from sanakit.ops import native

LEVELS = native.levels()


@pytest.fixture(params=[(level, 1) for level in LEVELS] + [(LEVELS[0], 2), (LEVELS[0], 3)], ids=str)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    level, threads = request.param
    path = native.FOLDER / f"kernels-{level}.so"
    if not path.is_file():
        pytest.skip("no compiled kernels here")
    library = ctypes.CDLL(str(path))
    native.declare(library)
    monkeypatch.setattr(native, "_load", lambda: (library, level))
    monkeypatch.setattr(native, "threads", lambda work: threads)
    with torch.no_grad():
        yield

"""What every test gets: no network, one thread, a fixed seed per test, and the repository's root."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

# Before torch is imported anywhere: tiny tensors run faster on one thread than on a pool.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for another machine fails, with the address it reached for."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"this test tried to connect to {address}")
        return connect(self, address)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Tests that draw from torch's global generator draw the same numbers in any order of tests."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)

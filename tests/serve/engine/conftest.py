"""Engines of their own, which a test may break."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sanakit.serve.engine.engine import Engine


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    """Start engines; all are stopped at the end, whatever became of the test."""
    engines: list[Engine] = []

    def make(**settings) -> Engine:
        engines.append(Engine(["pocket"], device="cpu", **settings))
        return engines[-1]

    yield make
    for engine in engines:
        if engine._thread.ident is not None:
            engine.close()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    engine = make_engine()
    engine.start()
    return engine

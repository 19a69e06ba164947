"""A visitor is told a sentence; a traceback is for our own mistakes, and in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from inspect import iscoroutine
from typing import Any

import pytest

from sanakit.errors import SettingsError

gr = pytest.importorskip("gradio")

from sanakit.serve.web.messages import told  # noqa: E402


def run(function: Any, *values: Any) -> Any:
    """Call an event's function as Gradio does, all of it if it gives several values."""

    async def all_of(stream: AsyncIterator[Any]) -> list[Any]:
        return [value async for value in stream]

    result = told(function)(*values)
    if iscoroutine(result):
        return asyncio.run(result)
    return asyncio.run(all_of(result)) if hasattr(result, "__aiter__") else result


def once(error: Exception | None) -> str:
    if error:
        raise error
    return "done"


async def later(error: Exception | None) -> str:
    return once(error)


async def stream(error: Exception | None) -> AsyncIterator[str]:
    yield "begun"
    if error:
        raise error


@pytest.mark.parametrize("function", [once, later, stream])
def test_errors_of_a_visitor_are_sentences_and_ours_are_logged(
    function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(gr.Error) as refused:
        run(function, SettingsError("Use <b> less."))
    assert (refused.value.message, refused.value.print_exception) == ("Use &lt;b&gt; less.", False)
    assert caplog.records == []
    with pytest.raises(gr.Error) as failed:
        run(function, KeyError("SECRET"))
    assert "SECRET" not in failed.value.message
    assert not failed.value.print_exception
    assert [bool(record.exc_info) for record in caplog.records] == [True]
    assert run(function, None) in ("done", ["begun"])


def test_a_program_reads_the_sentence_as_it_is() -> None:
    with pytest.raises(gr.Error) as refused:
        asyncio.run(told(later, spelled=str)(SettingsError("'a' < \"b\"")))
    assert refused.value.message == "'a' < \"b\""


def test_a_stream_that_is_left_is_closed_at_once() -> None:
    closed = []

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    async def leave() -> None:
        updates = told(endless)()
        assert await anext(updates) == 1
        await updates.aclose()
        assert closed == [True]

    asyncio.run(leave())

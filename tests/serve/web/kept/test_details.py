"""The buttons of one image: shown for what may be done with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

gradio = pytest.importorskip("gradio")

from sanakit.images.image import encode  # noqa: E402
from sanakit.serve.web.history import SHARED, History  # noqa: E402
from sanakit.serve.web.kept.details import make_details  # noqa: E402
from tests.serve.web.drawing import METADATA  # noqa: E402


def test_an_image_is_marked_and_unmarked_and_a_jobs_may_be_neither_marked_nor_deleted(
    make_parts: Callable[..., Any],
) -> None:
    parts = make_parts()
    history = History(parts.store, parts.jobs)
    with gradio.Blocks(analytics_enabled=False):
        details = make_details("x")
    name = history.add(SHARED, Image.new("RGB", (8, 8)), METADATA)
    shown = details.show(history, SHARED, name)
    assert shown[details.favourite] == gradio.update(value="☆ Favourite", visible=True)
    assert set(shown) == set(details.changed)
    assert details.toggle(history, SHARED, name) == {details.favourite: "★ Favourite"}
    assert details.show(history, SHARED, name)[details.favourite]["value"] == "★ Favourite"
    assert details.toggle(history, SHARED, name) == {details.favourite: "☆ Favourite"}

    job = parts.jobs.add("generation", {"prompt": "a lemon"}, None, 1)
    parts.jobs.claim("test", 60)
    (other,) = job.result_names()
    parts.store.put(other, encode(Image.new("RGB", (8, 8)), "PNG", METADATA))
    assert parts.jobs.finish(job.id, "test", [{"name": other, "metadata": {}}])
    shown = details.show(history, SHARED, other)
    assert (shown[details.favourite]["visible"], shown[details.delete]["visible"]) == (False, False)

"""What was drawn on the page, in a test's folder, and the page itself."""

from __future__ import annotations

from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio")

from sanakit.serve.engine.engine import Engine  # noqa: E402
from sanakit.serve.jobs.storage import ImageStore  # noqa: E402
from sanakit.serve.web.history import History  # noqa: E402
from sanakit.serve.web.page import Page  # noqa: E402


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(ImageStore(tmp_path / "pictures"))


@pytest.fixture
def page(engine: Engine, history: History) -> Page:
    """A page on which everything is laid out."""
    made = Page(engine, history)
    with gradio.Blocks(analytics_enabled=False):
        made.lay_out()
    return made

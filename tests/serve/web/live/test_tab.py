"""The tab Live: an image is kept by its button alone, and the module finds the components it asks for."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest

gradio = pytest.importorskip("gradio")

from sanakit.errors import SettingsError  # noqa: E402
from sanakit.serve.engine.engine import Engine  # noqa: E402
from sanakit.serve.web.history import SHARED, History  # noqa: E402
from sanakit.serve.web.live.drawings import LiveDrawings  # noqa: E402
from sanakit.serve.web.live.routes import MODULE, tab_name  # noqa: E402
from sanakit.serve.web.live.tab import CSS, LiveTab  # noqa: E402

VISITOR: Any = SimpleNamespace(session_hash="tab-1", username=None)
ADA: Any = SimpleNamespace(session_hash="tab-2", username="ada")


def drawn(engine: Engine, tab: str, user: str | None = None, number: int = 4) -> LiveDrawings:
    drawings = LiveDrawings(engine)

    async def draw() -> None:
        check = lambda: engine.check(None, "a red apple", width=64, height=64, steps=1, seed=7)  # noqa: E731
        async for _ in drawings.draw(tab_name(user, tab), number, check):
            pass

    asyncio.run(draw())
    return drawings


def test_an_image_is_kept_with_its_settings_when_it_is_asked_for(engine: Engine, history: History) -> None:
    tab = LiveTab(drawn(engine, "one"), history)
    assert history.names(SHARED) == []
    assert "Gallery" in tab.keep(VISITOR, "one", 4)
    (name,) = history.names(SHARED)
    kept = history.metadata(SHARED, name)
    assert (kept["prompt"], kept["seed"], kept["steps"]) == ("a red apple", 7, 1)


def test_what_is_not_shown_any_more_or_another_visitors_is_refused(engine: Engine, history: History) -> None:
    tab = LiveTab(drawn(engine, "one", "ada"), history, private=True)
    with pytest.raises(SettingsError, match="type some words"):
        tab.keep(ADA, "", -1)
    for visitor, name, number in ((ADA, "one", 5), (VISITOR, "one", 4), (ADA, "two", 4)):
        with pytest.raises(SettingsError, match="not there any more"):
            tab.keep(visitor, name, number)
    tab.keep(ADA, "one", 4)
    assert len(history.names("user ada")) == 1
    assert history.names(SHARED) == []


def test_the_module_and_the_style_sheet_name_components_that_are_there(
    engine: Engine, history: History
) -> None:
    with gradio.Blocks(analytics_enabled=False) as page:
        LiveTab(LiveDrawings(engine), history).lay_out()
    laid_out = str(page.get_config_file()["components"])
    for file in (MODULE, CSS):
        asked = set(re.findall(r"#(live[a-z-]*)", file.read_text(encoding="utf-8")))
        assert len(asked) > 5
        assert [name for name in asked if f"'{name}'" not in laid_out and f'"{name}"' not in laid_out] == []

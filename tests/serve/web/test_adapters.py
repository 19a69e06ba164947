"""Adapters on the page and its endpoints: weights for each request; without any there is nothing of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from sanakit.adapters.attach import Use, recorded, recorded_weights
from sanakit.adapters.save import save_adapter
from sanakit.errors import SettingsError
from sanakit.pipelines.upscale import redraw
from sanakit.serve.engine.engine import Engine
from tests.adapters.loras import SANA, lora
from tests.pipelines.conftest import SPRINT, save

gradio = pytest.importorskip("gradio")

from sanakit.serve.web.adapters import make_adapters  # noqa: E402
from sanakit.serve.web.history import SHARED, History  # noqa: E402
from sanakit.serve.web.kept.again import DrawnAgain  # noqa: E402
from sanakit.serve.web.mount import add_page  # noqa: E402
from sanakit.serve.web.page import CREATE, EDIT, Page  # noqa: E402
from tests.serve.web.drawing import METADATA, all_of  # noqa: E402
from tests.serve.web.test_endpoints import Program  # noqa: E402

VISITOR: Any = SimpleNamespace(session_hash="tab-1", username=None)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Two models: two adapters fit both, a third the second one alone."""
    place = tmp_path_factory.mktemp("served")
    models = [
        save(place / "tiny", SANA),
        save(place / "sprint", SPRINT, {"width": 96, "height": 64}, "tiny-sprint"),
    ]
    files = {
        name: save_adapter(place / f"{name}.safetensors", lora(seed=seed), SANA, dtype="float32")
        for seed, name in enumerate(("ink", "<oil>"), start=1)
    }
    guided = lora(["cfg_embedder.mlp.2"], SPRINT)
    files["guided"] = save_adapter(place / "guided.safetensors", guided, SPRINT, dtype="float32")
    running = Engine([str(path) for path in models], device="cpu", threads=1, adapters=files)
    running.start()
    yield running
    running.close()


@pytest.fixture
def page(engine: Engine, history: History) -> Page:
    made = Page(engine, history)
    with gradio.Blocks(analytics_enabled=False):
        made.lay_out()
    return made


def draw(page: Page, *weights: Any, mode: str = CREATE) -> tuple[list[str], str]:
    """Press the button; return the names of the images, and the status."""
    words = ("tiny", "a red apple", "Plain", "", 64, 64, 2, 2.5, "cfg", "dpm", "5", 1, False)
    edited = {"background": Image.new("RGBA", (64, 64), "green"), "layers": [], "composite": None}
    edit = (edited, "Whole image", 0.8, 0, 0, 0, 0)

    async def all_updates() -> list[Any]:
        return [one async for one in page.draw(VISITOR, mode, True, "", *words, *edit, *weights)]

    updates = asyncio.run(all_updates())
    names = [one[page.stage.names] for one in updates if page.stage.names in one]
    return (names[-1] if names else []), str(updates[-1].get(page.stage.status, ""))


def pixels(page: Page, names: list[str]) -> np.ndarray:
    (name,) = names
    return np.asarray(Image.open(page.history.file(SHARED, name))).astype(int)


@pytest.mark.parametrize("mode", [CREATE, EDIT])
def test_several_adapters_draw_with_their_weights(page: Page, mode: str) -> None:
    plain, one = draw(page, 0, 0, 0, mode=mode)[0], draw(page, 0.8, 0.0, 0, mode=mode)[0]
    both = draw(page, 0.8, -0.5, 1.0, mode=mode)[0]  # the third is of another model, and hidden
    drawn = [pixels(page, names) for names in (plain, one, both)]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[1], drawn[2])
    assert "adapters" not in page.history.metadata(SHARED, plain[0])
    kept = page.history.metadata(SHARED, both[0])["adapters"]
    assert recorded_weights(str(kept)) == {"ink": 0.8, "<oil>": -0.5}
    again = draw(page, 0.8, -0.5, 0, mode=mode)[0]
    assert np.array_equal(pixels(page, again), drawn[2])


@pytest.mark.parametrize("weight", [None, "", "1", 101.0, float("nan"), True])
def test_a_weight_that_is_none_is_told_below_the_image(page: Page, weight: Any) -> None:
    names, status = draw(page, weight, 0, 0)
    assert names == []
    assert "The weight of the adapter" in status


def test_each_model_offers_its_own_and_says_which_do_not_fit(page: Page) -> None:
    sliders, (unfit,) = page.adapters.sliders, page.adapters.unfit
    assert [slider.visible for slider in sliders.values()] == [True, True, False]
    assert unfit.value == "Not for tiny: guided."
    shown = page.choose_model("tiny-sprint")
    assert [shown[slider] for slider in sliders.values()] == [gradio.update(visible=True, value=0.0)] * 3
    assert not shown[unfit]["visible"]
    back = page.choose_model("tiny")
    assert [back[slider]["visible"] for slider in sliders.values()] == [True, True, False]
    assert back[unfit] == gradio.update(visible=True, value="Not for tiny: guided.")
    assert {*shown} <= {*page._settings(), page.editor.strength}


def test_settings_of_an_image_bring_its_adapters_back(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("gradio.Warning", told.append)
    (name,) = draw(page, 0.8, 0, 0)[0]
    shown = page.restore_shown(VISITOR, name, "tiny-sprint")
    sliders = page.adapters.sliders
    assert [shown[slider]["value"] for slider in sliders.values()] == [0.8, 0.0, 0.0]
    assert [shown[slider]["visible"] for slider in sliders.values()] == [True, True, False]
    assert {*shown} <= {*page._settings()}
    assert told == []
    own = page.engine.residence.adapters["tiny"]["ink"].fingerprint
    record = recorded(
        [
            Use(name="ink", file="<ink>.pt", weight=0.3, fingerprint="00"),
            Use(name="x", file="loud.pt", weight=3.0, fingerprint=own),
        ]
    )
    shown = page._restore(METADATA | {"model": "tiny", "adapters": record}, "tiny")
    assert {shown[slider]["value"] for slider in sliders.values()} == {0.0}
    assert [note.partition(",")[0] for note in told] == [
        *("It was drawn with &lt;ink&gt;.pt at 0.3", "It was drawn with loud.pt at 3"),
    ]


def test_an_image_is_enlarged_with_its_own_adapters(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = draw(page, 0.8, 0, 0)[0]
    monkeypatch.setattr(redraw, "redraws", lambda spec, size: True)
    asked, submit = [], page.engine.submit

    def watched(request: Any, *others: Any, **more: Any) -> Any:
        asked.append(recorded_weights(str(request.metadata[0].get("adapters", ""))))
        return submit(request, *others, **more)

    monkeypatch.setattr(page.engine, "submit", watched)
    again = DrawnAgain(page.engine, page.showing, page.adapters)
    (larger,) = all_of(again.enlarge(VISITOR, CREATE, name, "tiny-sprint"))[-1][page.stage.names]
    assert asked == [{"ink": 0.8}]
    assert page.history.metadata(SHARED, larger)["upscale_strength"] == redraw.STRENGTH


def test_a_page_without_adapters_shows_nothing_of_it() -> None:
    with gradio.Blocks(analytics_enabled=False) as blocks:
        nothing = make_adapters({"pocket": {}})
    assert (nothing.inputs, nothing.changed, nothing.offered_by("pocket")) == ([], [], {})
    assert len(blocks.blocks) == 0
    assert nothing.weights("pocket", []) == {}


@pytest.fixture
def program(make_parts: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> Iterator[Program]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "page").mkdir()
    parts = make_parts()
    add_page(parts.app, tmp_path / "page")
    with TestClient(parts.app, base_url="http://127.0.0.1") as client:
        yield Program(client, parts)


def test_programs_choose_adapters_by_name(program: Program) -> None:
    small = {"width": 64, "height": 64, "steps": 2, "seed": 5, "model": "tiny"}
    _, about = program.call("/generate", prompt="a fox", **small, adapters={"<oil>": 0.5})
    (one,) = json.loads(about["images"][0]["adapters"])
    assert (one["name"], one["weight"]) == ("<oil>", 0.5)
    _, plain = program.call("/generate", prompt="a fox", **small)
    assert "adapters" not in plain["images"][0]


@pytest.mark.parametrize("wrong", [["ink"], "ink", {"pen": 1}, {"ink": "much"}, {"guided": 1}])
def test_what_a_program_may_not_ask_for_is_refused(page: Page, wrong: Any) -> None:
    from sanakit.serve.web.endpoints import Endpoints

    asked = Endpoints(page).generate(VISITOR, "a fox", model="tiny", adapters=wrong)
    with pytest.raises(SettingsError, match="adapter"):
        asyncio.run(asked)

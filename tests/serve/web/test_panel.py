"""What the panel offers of a model: its sizes and no others, its examples, its styles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sanakit.images.image import encode
from sanakit.serve.engine.decoding import DecodingTurns
from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.storage import ImageStore

gradio = pytest.importorskip("gradio")

from PIL import Image  # noqa: E402

from sanakit.serve.web.history import History  # noqa: E402
from sanakit.serve.web.page import Page  # noqa: E402
from sanakit.serve.web.settings import CUSTOM, NO_STYLE, examples, size_choices, sizes  # noqa: E402
from tests.serve.web.drawing import UNSTEERED  # noqa: E402

SIZES = ((512, 512), (256, 256), (288, 224))
PROMPTS = ("a red apple", "a tulip, cartoon", "a red apple", "a fox")
METADATA: dict[str, Any] = {"prompt": "a red apple", "model": "pocket", "steps": 7, "seed": 1, "version": "0"}


@pytest.fixture
def page(engine: Engine, tmp_path: Path) -> Page:
    """A page for two models: one that lists sizes and examples, one that lists neither."""
    pocket = engine.specs["pocket"]
    listed = replace(
        pocket.settings, sizes=SIZES, example_prompts=PROMPTS, styles={"Cartoon": "cartoon", "Ink": "ink"}
    )
    plain = replace(listed, name="plain", sizes=(), example_prompts=())
    specs = {own.name: replace(pocket, settings=own) for own in (listed, plain)}
    engine: Any = SimpleNamespace(specs=specs, decoding=DecodingTurns(), residence=UNSTEERED)
    page = Page(engine, History(ImageStore(tmp_path)))
    with gradio.Blocks(analytics_enabled=False):
        page.lay_out()
    return page


def names(component: Any) -> list[str]:
    return [value for _, value in component.choices]


def test_learned_sizes_are_offered_alone_the_models_own_first(page: Page) -> None:
    shown = ["Square  256 × 256", "Square  512 × 512", "Landscape  288 × 224"]
    assert names(page.panel.size) == shown
    assert page.panel.size.value == shown[0]
    assert page.choose_size("pocket", shown[2])[page.panel.height] == 224


def test_the_sliders_hold_the_own_settings_of_every_model(engine: Engine, tmp_path: Path) -> None:
    pocket = engine.specs["pocket"]
    odd = replace(pocket, settings=replace(pocket.settings, name="odd", steps=250, guidance=0.5))
    high = replace(pocket, settings=replace(pocket.settings, name="high", guidance=30.0))
    three: Any = SimpleNamespace(
        specs={"pocket": pocket, "odd": odd, "high": high}, decoding=DecodingTurns(), residence=UNSTEERED
    )
    for specs, steps, guidance in (
        (three.specs, (1, 250), (0.5, 30.0)),
        ({"pocket": pocket}, (1, 100), (1, 20.0)),
    ):
        three.specs = specs
        page = Page(three, History(ImageStore(tmp_path)))
        with gradio.Blocks(analytics_enabled=False):
            page.lay_out()
        panel = page.panel
        assert (panel.steps.minimum, panel.steps.maximum) == steps
        assert (panel.guidance.minimum, panel.guidance.maximum) == guidance


def test_a_model_without_a_list_takes_any_size(page: Page) -> None:
    chosen = page.choose_model("plain")[page.panel.size]["choices"]
    assert chosen == [*sizes(page.engine.specs["plain"]), CUSTOM]
    assert page.choose_model("pocket")[page.panel.size]["choices"] == size_choices(
        page.engine.specs["pocket"]
    )


@pytest.mark.parametrize(("width", "offered"), [(256, False), (320, True)])
def test_a_restored_picture_of_another_size_shows_it(
    page: Page, tmp_path: Path, width: int, offered: bool
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.new("RGB", (8, 8)), "PNG", METADATA | {"width": width, "height": 256}))
    restored = page.restore_file(str(path), "pocket")
    size = restored[page.panel.size]
    assert (CUSTOM in size["choices"]) == offered
    assert (size["value"] == CUSTOM) == offered
    assert restored[page.panel.width] == width


def test_examples_are_chips_that_write_the_prompt(page: Page) -> None:
    panel = page.panel
    assert names(panel.chips) == ["a red apple", "a tulip, cartoon", "a fox"]
    assert panel.chips.visible
    assert panel.prompt.placeholder == "a red apple"
    assert page.choose_example("pocket", "a fox") == {
        panel.prompt: "a fox",
        panel.style: NO_STYLE,
        panel.chips: None,
    }
    chosen = page.choose_example("pocket", "a tulip, cartoon")
    assert (chosen[panel.prompt], chosen[panel.style]) == ("a tulip", "Cartoon")


def test_a_model_without_examples_has_no_chips(page: Page) -> None:
    assert page.choose_model("plain")[page.panel.chips] == gradio.update(
        choices=[], value=None, visible=False
    )
    assert page.choose_model("pocket")[page.panel.chips]["visible"]


def test_only_some_of_many_examples_are_shown(page: Page) -> None:
    spec = page.engine.specs["pocket"]
    many = replace(spec, settings=replace(spec.settings, example_prompts=tuple(map(str, range(50)))))
    assert examples(many) == [str(number) for number in range(8)]

"""A refused setting is told at its own field, of whatever tab, accordion or kind of message."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from PIL import Image

from sanakit.errors import BusyError, RefusedError, SettingsError

gr = pytest.importorskip("gradio")

from sanakit.serve.engine.clip_engine import ClipEngine  # noqa: E402
from sanakit.serve.engine.decoding import DecodingTurns  # noqa: E402
from sanakit.serve.web.history import History  # noqa: E402
from sanakit.serve.web.messages import sentence_at, told  # noqa: E402
from sanakit.serve.web.page import CREATE, EDIT, Page  # noqa: E402
from sanakit.serve.web.studio import BEYOND, PAINTED, View  # noqa: E402
from sanakit.serve.web.video.tab import _ASKED, VideoTab  # noqa: E402
from sanakit.serve.web.view import status_html  # noqa: E402
from tests.serve.web.drawing import VALUES, VISITOR, all_of, small  # noqa: E402

PLACES = {  # place in VALUES, a value that is refused -> where that is told
    (1, " "): "prompt",
    (3, "(a"): "more negative",
    (4, None): "width",
    (5, 63): "size",
    (6, 0): "more steps",
    (7, -1): "more guidance",
    (8, "zzz"): "more guidance-kind",
    (9, "scm"): "more solver",
    (10, "minus one"): "seed",
    (11, 9): "count",
}
OF_EDITS = {  # area to change, a change of VALUES -> where that is told
    ("Whole image", (13, None)): "source",
    ("Whole image", (15, 2.0)): "strength",
    (PAINTED, (15, 0.5)): "what",
    (BEYOND, (16, 9999)): "margin-left",
    (BEYOND, (18, 0.5)): "margin-right",
}
CLIPS = {
    ("prompt", ""): "video-prompt",
    ("frames", 0): "video-frames",
    ("frames", 6): "video-frames",  # which the autoencoder does not hold
    ("height", 1): "video-size",
    ("rate", 0): "video-more video-rate",
    ("motion", 1000): "video-more video-motion",
    ("seed", "x"): "video-seed",
    ("guidance", -1.0): "video-more video-guidance",
    ("steps", 0): "video-more video-steps",
}


def place(updates: list[dict[Any, Any]], status: Any) -> str:
    """Where the last line is told; "" for a line that stands where it is."""
    line = updates[-1][status]
    assert 'data-state="failed"' in line
    found = re.search(r'data-field="([^"]*)" data-told="\w+"', line)
    return found[1] if found else ""


def refused(page: Page, mode: str, *changes: tuple[int, Any]) -> str:
    values = [*VALUES]
    for number, value in changes:
        values[number] = value
    return place(all_of(page.draw(VISITOR, mode, True, "", *values)), page.stage.status)


def test_each_control_tells_its_own_refused_value(page: Page) -> None:
    weights = (12, True)
    assert {one: refused(page, CREATE, weights, one) for one in PLACES} == PLACES
    image = {"background": Image.new("RGB", (64, 64)), "layers": [], "composite": None}
    found = {(what, one): refused(page, EDIT, (13, image), (14, what), one) for what, one in OF_EDITS}
    assert found == OF_EDITS
    assert page.history.names("") == []


def test_an_axis_of_a_grid_tells_its_own_refused_value(page: Page) -> None:
    for axes, field in {
        ("Steps", "1, x", "Guidance", "1"): "grid-across-values",
        ("Steps", "1", "Guidance", "y"): "grid-down-values",
        ("Steps", "1", "Steps", "2"): "grid-down",
        ("Nothing", "", "Solver", "dpm, scm"): "grid-down-values",  # which only the model refuses
        ("Nothing", "", "Nothing", ""): "grid-across",
    }.items():
        updates = all_of(page.grid.draw(VISITOR, *axes, CREATE, True, "", *VALUES))
        assert place(updates, page.stage.status) == f"grid-settings {field}"


def test_what_is_drawn_from_a_kept_image_is_refused_at_no_field(page: Page) -> None:
    wish = small(solver="scm")
    for of_form, where in ((True, "more solver"), (False, "")):
        views = page.showing.show(VISITOR, CREATE, page.follow(VISITOR, wish), of_form=of_form)
        assert place(all_of(views), page.stage.status) == where


def test_each_control_of_a_clip_tells_its_own_refused_value(
    clip_engine: ClipEngine, history: History
) -> None:
    tab = VideoTab(clip_engine, history, DecodingTurns())
    with gr.Blocks(analytics_enabled=False):
        tab.lay_out()
    controls = {
        **{"model": "tiny-video", "prompt": "a cat", "image": None, "frames": 5, "size": "Custom"},
        **{"width": 64, "height": 64, "rate": 8, "motion": 0, "seed": "7", "keep_seed": True},
        **{"drawn_seed": "", "prompt_weights": False, "negative_prompt": "", "steps": 2, "guidance": 3.0},
        **{"guidance_kind": "cfg", "solver": "dpm"},
    }

    def told_at(name: str, value: Any) -> str:
        given = controls | {name: value}
        return place(all_of(tab.draw(VISITOR, *(given[one] for one in _ASKED))), tab.stage.status)

    assert {one: told_at(*one) for one in CLIPS} == CLIPS


def test_errors_of_no_one_setting_stay_in_their_line() -> None:
    fields = {"prompt": "prompt", "seed": "seed"}
    assert "data-field" not in status_html(View.failed(SettingsError("No.")), fields)
    assert "data-field" not in status_html(View.failed(BusyError("Later.")), fields)
    assert 'data-field="prompt"' in status_html(View.failed(RefusedError("No.")), fields)
    once, again = (status_html(View.failed(SettingsError("No.", setting="seed")), fields) for _ in range(2))
    assert once != again  # or the page would not see it a second time


def test_a_message_names_its_field_and_a_programs_does_not() -> None:
    with gr.Blocks(analytics_enabled=False):
        with gr.Accordion("More", elem_id="more"):
            field = gr.Number(label="Steps", elem_id="steps")
        unnamed = gr.Number(label="Steps")
    assert sentence_at("Use <1>.", field) == '<span class="told-at at:more at:steps">Use &lt;1&gt;.</span>'
    assert sentence_at("Use <1>.", unnamed) == "Use &lt;1&gt;."

    async def wrong() -> None:
        raise SettingsError("Use <1>.")

    with pytest.raises(gr.Error) as error:
        asyncio.run(told(wrong, spelled=str)())
    assert error.value.message == "Use <1>."

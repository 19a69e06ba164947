"""The components of the tab of worlds, and the parts of the stage that its scripts look for."""

from __future__ import annotations

import re
from typing import Any

from sanakit.serve.web.world.panel import CSS, STAGE
from sanakit.serve.web.world.routes import SCRIPTS


def test_the_controls_are_those_of_the_model(tab: Any) -> None:
    panel = tab.panel
    assert panel.size.value == "Own  64 × 64"
    assert (panel.fov.minimum, panel.fov.maximum, panel.fov.value) == (25, 120, 60)
    assert not panel.steps.visible, "a distilled model has fixed steps"
    assert panel.walk.visible == "hidden"


def test_scripts_and_styles_name_what_the_stage_has() -> None:
    stage = STAGE.read_text(encoding="utf-8")
    ids = set(re.findall(r'id="world-([a-z-]+)"', stage)) | {"dice", "status", "image"}
    texts = {name: STAGE.with_name(name).read_text(encoding="utf-8") for name in SCRIPTS}
    used = {name for text in texts.values() for name in re.findall(r'find\("([a-z-]+)"\)', text)}
    assert used - ids == set()
    acts = set(re.findall(r'data-act="([a-z-]+)"', stage))
    assert acts == {
        *("forward", "back", "up", "down", "still"),
        *("turn-left", "turn-right", "step-left", "step-right"),
    }
    for act in acts:
        assert re.search(rf'"?{act}"?:', texts["world.js"]), act
    for what in re.findall(r'data-do="([a-z]+)"', stage):
        assert re.search(rf"^  (async )?{what}\(\)", texts["world.js"], re.MULTILINE), what
    names = set(re.findall(r"#world-([a-z-]+)", CSS.read_text(encoding="utf-8")))
    panel = {
        "panel",
        "words",
        "settings",
        "right",
        "prompt",
        "enter",
        "image",
        "seed-row",
        "seed",
        "keep-seed",
        "walk",
    }
    assert names - ids - panel == set()


def test_the_scripts_ask_no_other_host() -> None:
    for name in SCRIPTS:
        text = STAGE.with_name(name).read_text(encoding="utf-8")
        assert "http" not in text.replace("https://", "http"), name

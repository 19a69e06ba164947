"""Tiles of small images: what a prompt holds stays text, and a browser's answers are checked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.serve.web.history import SHARED, History
from sanakit.serve.web.kept.tiles import chosen_tile, ticked, tiles_html
from tests.serve.web.drawing import METADATA


def test_a_prompt_is_text_in_its_tile_and_a_favourite_has_a_star(history: History) -> None:
    prompt = '"><script>alert(1)</script>'
    name = history.add(SHARED, Image.new("RGB", (64, 32)), METADATA | {"prompt": prompt})
    html = tiles_html(history, SHARED, [name], ticks=True)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert f'data-name="{name}"' in html
    assert 'src="data:image/webp;base64,' in html
    assert "★" not in html
    assert f'datetime="{history.time(SHARED, name).isoformat(timespec="seconds")}"' in html
    history.mark(SHARED, name, True)
    assert "★" in tiles_html(history, SHARED, [name])
    assert tiles_html(history, SHARED, []) == ""


def test_a_damaged_image_takes_no_other_from_the_page(history: History) -> None:
    names = [history.add(SHARED, Image.new("RGB", (8, 8)), METADATA) for _ in range(2)]
    history.store.put(names[0], b"\x89PNG broken")
    html = tiles_html(history, SHARED, names)
    assert html.count("<li>") == 2
    assert html.count("<img") == 1
    assert "This image is damaged" in html


@pytest.mark.parametrize("odd", [None, "x", [], {}, {"name": 1}, {"name": None}, 1e308])
def test_an_odd_choice_is_a_sentence(odd: object) -> None:
    with pytest.raises(SettingsError, match="not shown any more"):
        chosen_tile(SimpleNamespace(_data=odd))  # pyright: ignore
    assert chosen_tile(SimpleNamespace(_data={"name": "a"})) == "a"  # pyright: ignore


def test_ticks_are_names_and_nothing_else() -> None:
    assert ticked('["a", "b"]') == ["a", "b"]
    assert ticked("") == ticked(None) == []
    for odd in ("{", "1", '"a"', "[1]", '{"a": 1}', "[" * 100_000):
        with pytest.raises(SettingsError, match="not understood"):
            ticked(odd)
    with pytest.raises(SettingsError, match="at most 5000"):
        ticked(str(["a"] * 5001).replace("'", '"'))

"""What a model offers: told from its folder or the catalog, with commands that a shell takes as they are."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from sanakit import TextToVideo
from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.text.known_things import FILE, KnownThings
from sanakit.weights.about.offer import DEFAULT, NAMED, command, offer
from sanakit.weights.find.catalog import CATALOG, CLIP_MODELS
from tests.pipelines.video.tiny import save_embedded

OURS = {
    "licence": "MIT",
    "sizes": [[64, 32], [32, 64]],
    "styles": {"Ink": "ink drawing"},
    "example_prompts": ["a fox", 'a "red" apple, ink drawing'],
}
THINGS = {f"a thing{number}": ("word",) if number % 2 else () for number in range(100)}


@pytest.fixture
def folder(tiny) -> Path:
    ours = json.loads((tiny.folder / "sanakit.json").read_text()) | OURS
    (tiny.folder / "sanakit.json").write_text(json.dumps(ours), encoding="utf-8")
    (tiny.folder / FILE).write_text(KnownThings(THINGS, threshold=0.0).text(), encoding="utf-8")
    return tiny.folder


def test_a_folder_tells_all_of_it(folder) -> None:
    found = offer(folder)
    assert (found.name, found.licence, found.path) == ("tiny", "MIT", str(folder))
    assert (found.width, found.height, found.steps, found.guidance, found.solver) == (64, 32, 7, 2.0, "euler")
    assert found.sizes == ((64, 32), (32, 64))
    assert found.styles == {"Ink": "ink drawing"}
    assert (found.known_things, found.known_words) == (100, 50)
    assert found.some_things == tuple(f"thing{number}" for number in range(0, 100, 9))
    assert len(found.some_things) <= NAMED


def test_commands_are_the_examples_ready_for_a_shell(folder) -> None:
    words = [shlex.split(line) for line in offer(folder).commands]
    assert words == [
        ["sana", "generate", prompt, "--model", str(folder)] for prompt in OURS["example_prompts"]
    ]


@pytest.mark.parametrize(
    "prompt", ["a fox", "it's", '"', "$HOME", "`ls`", "a\\b", "two\nlines", "!!", "ein Bär", "--help"]
)
def test_any_prompt_comes_through_a_shell(prompt) -> None:
    assert shlex.split(command(prompt))[2] == prompt
    assert shlex.split(command(prompt, "my models/a"))[2:] == [prompt, "--model", "my models/a"]


def test_the_default_model_need_not_be_named() -> None:
    found = offer(DEFAULT)
    assert all(line.startswith('sana generate "') and "--model" not in line for line in found.commands)
    assert found.example_prompts
    assert (found.width, found.height) in found.sizes
    assert found.control_models == ("pocket-lines",)


def test_a_model_that_says_little_has_one_example(tiny) -> None:
    found = offer(tiny.folder)
    assert found.commands == (command("a red apple", str(tiny.folder)),)
    assert (found.sizes, found.styles, found.some_things) == ((), {}, ())


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.repo is not None])
def test_a_release_is_told_from_the_catalog_without_a_download(name, monkeypatch) -> None:
    monkeypatch.setattr("sanakit.weights.find.hub.fetch", lambda *_: pytest.fail("something was fetched"))
    found, entry = offer(name), CATALOG[name]
    assert (found.name, found.steps, found.solver, found.width) == (
        name,
        entry.steps,
        entry.solver,
        entry.width,
    )
    assert (found.download_bytes, found.unsupported) == (entry.download_bytes, entry.unsupported)
    assert found.commands == (f'sana generate "a red apple" --model {name}',)


def test_what_is_not_there_or_draws_nothing_is_an_error(tiny) -> None:
    with pytest.raises(ModelNotFoundError, match="pocket"):
        offer("pokcet")
    with pytest.raises(WeightsError, match=r"draws no images alone: look into it by `sana inspect`\.$"):
        offer(tiny.folder / "vae")
    with pytest.raises(WeightsError, match="or steer a model by it with --control-model"):
        offer("pocket-lines")
    with pytest.raises(WeightsError, match="or score with it"):
        offer("pocket-clip")


def test_a_model_of_clips_offers_clips_and_tells_which_things_move(tmp_path, monkeypatch) -> None:
    folder = save_embedded(tmp_path / "clips", animated=("a cat face", "a ghost"))
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", folder)
    found = offer("pocket-video")
    assert (found.name, found.licence, found.frames, found.fps) == ("pocket-video", "MIT", 9, "16")
    assert (found.known_things, found.known_words, found.animated_things) == (3, 2, 2)
    assert found.commands == ('sana video "a cat face turning"',)
    assert offer(folder).commands == (f'sana video "a cat face turning" --model {shlex.quote(str(folder))}',)
    assert offer(DEFAULT).frames == 0


def test_an_embedded_model_of_clips_names_itself_where_a_prompt_names_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(CLIP_MODELS, "pocket-video", save_embedded(tmp_path / "clips"))
    pipe = TextToVideo.from_pretrained("pocket-video")
    assert pipe.text_encoder.model.config.width == 256
    with pytest.warns(UserWarning, match="Nothing in"):
        [told] = pipe("a theory", frames=1, seed=0).warnings
    assert told.startswith('Nothing in "a theory" is near a thing that pocket-video knows. Nearest: ')
    assert told.endswith("Try: sana models pocket-video")
    assert pipe("two kitties", frames=1, seed=0).warnings == []

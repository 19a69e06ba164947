"""Several models within one memory budget: loaded when asked for, given back when others need the room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sanakit.errors import ModelNotFoundError, SettingsError
from sanakit.serve.engine import residence
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.residence import ModelPool
from sanakit.serve.engine.ticket import Event, Finished

POCKET = Path(__file__).parents[3] / "sanakit" / "assets" / "pocket"
WAIT = 60


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models that are pocket under other names."""
    folders = []
    for name in ("one", "two", "three"):
        folder = tmp_path_factory.mktemp("models") / name
        folder.mkdir()
        for part in POCKET.iterdir():
            (folder / part.name).symlink_to(part)
        (folder / "sanakit.json").unlink()
        ours = json.loads((POCKET / "sanakit.json").read_text())
        (folder / "sanakit.json").write_text(json.dumps(ours | {"name": name}))
        folders.append(str(folder))
    return folders


def weights(three: list[str]) -> int:
    """Bytes of one model."""
    residence = ModelPool(three[:1], device="cpu", dtype="auto", memory="all")
    residence.get("one")
    return residence._sizes["one"]


def test_names_and_settings_are_known_without_weights(three: list[str]) -> None:
    residence = ModelPool(three, device="cpu", dtype="auto", memory="auto")
    assert residence.default == "one"
    assert list(residence.specs) == ["one", "two", "three"]
    assert residence.spec("two").settings.steps == 10
    assert residence.loaded == []
    with pytest.raises(ModelNotFoundError, match="one, two, three"):
        residence.spec("four")


def test_a_models_controlnet_is_told_to_be_left_out(
    three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residence, "controlnets_of", lambda path: [path] if path == three[0] else [])
    specs = ModelPool(three[:2], device="cpu", dtype="auto", memory="all").specs.values()
    assert [residence.NO_CONTROL in spec.settings.notes for spec in specs] == [True, False]


def test_two_models_of_one_name_are_refused(three: list[str]) -> None:
    with pytest.raises(SettingsError, match="'one'"):
        ModelPool([three[0], three[0]], device="cpu", dtype="auto", memory="auto")


def test_a_server_of_clips_alone_has_no_model_of_images() -> None:
    assert ModelPool([], device="cpu", dtype="auto", memory="auto").specs == {}


def test_the_least_recently_used_model_makes_room(three: list[str]) -> None:
    residence = ModelPool(three, device="cpu", dtype="auto", memory=int(2.5 * weights(three)))
    first = residence.get("one")
    residence.get("two")
    assert residence.get("one") is first
    residence.get("three")
    assert residence.loaded == ["one", "three"]


def test_a_model_that_draws_stays(three: list[str]) -> None:
    residence = ModelPool(three, device="cpu", dtype="auto", memory=int(1.5 * weights(three)))
    residence.get("one")
    assert residence.fits("one", busy={"one"})
    assert not residence.fits("two", busy={"one"})
    assert residence.fits("two", busy=set())
    residence.get("two")
    assert residence.loaded == ["two"]


def test_weights_that_fit_stay_between_stages(three: list[str]) -> None:
    residence = ModelPool(three[:1], device="cpu", dtype="auto", memory="auto")
    pipe = residence.get("one")
    assert residence.stays("one")
    assert pipe._memory.budget == "all"


def test_models_take_turns_where_only_one_fits(three: list[str], gate: Any) -> None:
    """Requests for the second wait until those of the first are done; nobody waits for ever."""
    engine = Engine(three[:2], device="cpu", memory="all", max_batch=2)
    engine.residence.limit = int(1.5 * weights(three))
    engine.start()
    try:
        asked = ["one", "two", "one", "two", "one", "one", "two", "one", "one", "one"]
        order: list[str] = []

        def note(event: Event) -> None:
            if isinstance(event, Finished):
                order.append(event.ticket.request.model)

        requests = [
            engine.check(name, "a red apple", width=64, height=64, steps=2, seed=seed)
            for seed, name in enumerate(asked)
        ]
        tickets = [engine.submit(request, note) for request in requests]
        assert gate.reached.wait(WAIT)
        gate.opened.set()
        for ticket in tickets:
            ticket.result(WAIT)
        assert len(engine.residence.loaded) == 1
        assert order.index("two") < len(order) - 1 - order[::-1].index("one")  # not kept to the end
    finally:
        gate.opened.set()
        engine.close()

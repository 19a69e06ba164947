"""A server's adapters: each request draws with its own, in a crowd as alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sanakit.adapters.attach import recorded_weights
from sanakit.adapters.save import save_adapter
from sanakit.errors import ModelNotFoundError, SettingsError, WeightsError
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.group import GroupKey
from tests.adapters.loras import SANA, lora
from tests.pipelines.conftest import SPRINT, save

CHOICES: list[dict[str, float]] = [
    {},
    {"ink": 1.0},
    {"ink": 0.5},
    {"oil": -0.7, "ink": 0.5},
    {"ink": 0.5, "oil": -0.7},
    {"ink": 0.0},
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, a Sprint model whose transformer has other parts, and three adapters."""
    place = tmp_path_factory.mktemp("served")
    made = {"model": save(place / "tiny", SANA)}
    made["sprint"] = save(place / "sprint", SPRINT, {"width": 96, "height": 64}, "tiny-sprint")
    for seed, name in enumerate(("ink", "oil")):
        made[name] = save_adapter(place / f"{name}.safetensors", lora(seed=seed + 1), SANA, dtype="float32")
    guided = lora(["cfg_embedder.mlp.2"], SPRINT)
    made["guided"] = save_adapter(place / "guided.safetensors", guided, SPRINT, dtype="float32")
    return made


def chosen(places: dict[str, Path], *names: str) -> dict[str, str]:
    return {name: str(places[name]) for name in names}


@pytest.fixture(scope="module")
def engine(places: dict[str, Path]) -> Iterator[Engine]:
    adapters = chosen(places, "ink", "oil", "guided")
    running = Engine(
        [str(places["model"]), str(places["sprint"])], device="cpu", threads=1, adapters=adapters
    )
    running.start()
    yield running
    running.close()


def alone(places: dict[str, Path], weights: dict[str, float], seed: int) -> torch.Tensor:
    pipe = TextToImage.from_pretrained(places["model"], device="cpu")
    for name, weight in weights.items():
        pipe.load_adapter(places[name], weight)
    drawn = pipe("a red apple", seed=seed, steps=3, output="latent").images
    assert isinstance(drawn, torch.Tensor)
    return pipe.decode(drawn).clamp(-1, 1)


def test_a_crowd_with_different_adapters_draws_each_as_alone(engine: Engine, places: dict[str, Path]) -> None:
    tickets = [
        engine.submit(engine.check(None, "a red apple", seed=seed, steps=3, adapters=weights, output="pt"))
        for seed, weights in enumerate(CHOICES * 2)
    ]
    for seed, (ticket, weights) in enumerate(zip(tickets, CHOICES * 2, strict=True)):
        result = ticket.result(timeout=120)
        used = recorded_weights(str(result.metadata[0].get("adapters", "")))
        assert used == {name: weight for name, weight in weights.items() if weight}
        ours, theirs = result.images[0], alone(places, weights, seed)[0]
        assert isinstance(ours, torch.Tensor)
        assert (ours - theirs).abs().max() < 1e-3, weights
    assert len({ticket.result().metadata[0].get("adapters") for ticket in tickets}) == 4


def test_images_with_the_same_adapters_step_together(engine: Engine) -> None:
    keys = [GroupKey.of(engine.check(None, "an apple", adapters=weights)) for weights in CHOICES]
    assert keys[0] == keys[5]
    assert keys[3] == keys[4]
    assert len(set(keys)) == 4


def test_a_request_without_adapters_draws_the_base(engine: Engine, places: dict[str, Path]) -> None:
    """Bit for bit, right after one with an adapter."""
    engine.submit(engine.check(None, "an apple", seed=1, steps=1, adapters={"ink": 1.0})).result(timeout=60)
    plain = Engine([str(places["model"])], device="cpu", threads=1)
    plain.start()
    images: list[Any] = []
    for one in (engine, plain):
        ticket = one.submit(one.check(None, "a red apple", seed=4, steps=2, output="pt"))
        images.append(ticket.result(timeout=60).images)
    plain.close()
    assert torch.equal(images[0][0], images[1][0])


def test_what_is_asked_for_is_checked_at_once(engine: Engine) -> None:
    with pytest.raises(SettingsError, match=r"tiny has no adapter 'pen'; there are: ink, oil"):
        engine.check(None, "an apple", adapters={"pen": 1.0})
    with pytest.raises(SettingsError, match=r"tiny-sprint has no adapter 'ink'|there are: .*guided"):
        engine.check("tiny-sprint", "an apple", adapters={"pen": 1.0})
    with pytest.raises(SettingsError, match="must be a number"):
        engine.check(None, "an apple", adapters={"ink": float("nan")})
    assert engine.check(None, "an apple").metadata[0].get("adapters") is None


def test_an_adapter_that_fits_no_model_is_told_at_the_start(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not fit this model"):
        Engine([str(places["model"])], adapters=chosen(places, "guided"))
    with pytest.raises(ModelNotFoundError, match="No adapter lies at"):
        Engine([str(places["model"])], adapters={"a": str(tmp_path / "none.safetensors")})


def test_adapters_are_listed_for_the_models_that_they_fit(engine: Engine) -> None:
    fitting = {name: list(adapters) for name, adapters in engine.residence.adapters.items()}
    assert fitting == {"tiny": ["ink", "oil"], "tiny-sprint": ["ink", "oil", "guided"]}

"""A server's ControlNets: each request is steered by its own images, in a crowd as alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from sanakit import ControlImage
from sanakit.errors import ModelNotFoundError, SettingsError
from sanakit.models.controlnet import ControlNet
from sanakit.models.sana import Sana
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.serve.engine import residence
from sanakit.serve.engine.engine import Engine
from sanakit.serve.engine.group import GroupKey, source_pixels
from sanakit.serve.engine.residence import ModelPool
from sanakit.weights import load_transformer, save_controlnet
from sanakit.weights.control import ControlFile
from tests.pipelines.conftest import SANA, save

WAIT = 120
CLOSE = 1e-3  # of pixels in [-1, 1]: other sizes of batches round otherwise
NARROW = replace(SANA, depth=4, width=32, cross_heads=2)


def sketch(seed: int = 0) -> Image.Image:
    image = Image.new("RGB", (96, 64), (20, 60, 90))
    ImageDraw.Draw(image).ellipse((8 + 9 * seed, 8, 50 + 9 * seed, 56), fill=(250, 220, 40))
    return image


def random_net(base: Sana, order: Any, seed: int) -> ControlNet:
    torch.manual_seed(seed)
    net = ControlNet.of(base, 2, order)
    with torch.no_grad():
        for block in net.controlnet:
            for name, parameter in block.named_parameters():
                if name.startswith(("before_proj", "after_proj")):
                    parameter.normal_(std=0.3)
    return net.eval()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model, two ControlNets in either order, and one of another width."""
    place = tmp_path_factory.mktemp("steered")
    made = {"model": save(place / "tiny", replace(SANA, depth=4))}
    base = load_transformer(made["model"])
    made["lines"] = save_controlnet(place / "lines", random_net(base, "native", 1), base, hint="edges")
    made["spots"] = save_controlnet(place / "spots", random_net(base, "diffusers", 2), base)
    narrow = Sana(NARROW)
    made["narrow"] = save_controlnet(place / "narrow", ControlNet.of(narrow, 2), narrow)
    return {name: str(path) for name, path in made.items()}


def offered(places: dict[str, str], *names: str) -> dict[str, str]:
    return {name: places[name] for name in names}


@pytest.fixture(scope="module")
def engine(places: dict[str, str]) -> Iterator[Engine]:
    controls = offered(places, "lines", "spots")
    running = Engine([places["model"]], device="cpu", threads=1, controls=controls)
    running.start()
    yield running
    running.close()


CHOICES: list[list[Any]] = [
    [],
    [{"name": "lines", "image": sketch()}],
    [{"name": "lines", "image": sketch(1), "kind": "as-is", "scale": 0.5}],
    [{"name": "lines", "image": sketch(2), "end": 0.5}],
    [{"name": "lines", "image": sketch(3), "kind": "blocks", "scale": -0.4, "start": 0.3}],
    [{"name": "lines", "image": sketch(), "scale": 0}],
    [{"name": "spots", "image": sketch(1)}],
    [{"name": "spots", "image": sketch(2), "scale": 0.7, "start": 0.5}],
    [{"name": "lines", "image": sketch()}, {"name": "spots", "image": sketch(1), "scale": 0.3}],
    [{"name": "lines", "image": sketch(2)}, {"name": "spots", "image": sketch(3), "end": 0.4}],
    [{"name": "lines", "image": sketch()}, {"name": "lines", "image": sketch(1), "scale": 0.3}],
]


def alone(places: dict[str, str], controls: list[Any], **settings: Any) -> torch.Tensor:
    """What a pipeline draws, whose hints are made here."""
    nets = [places[one["name"]] for one in controls]
    pipe = TextToImage.from_pretrained(
        places["model"], device="cpu", encoder=True, control_model=nets or None
    )
    own = {"lines": "edges", "spots": "as-is"}
    images = [
        ControlImage(
            one["image"],
            kind=one.get("kind", own[one["name"]]),
            **{key: one[key] for key in ("scale", "start", "end") if key in one},
        )
        for one in controls
    ]
    drawn = pipe("a red apple", output="latent", control=images or None, **settings).images
    assert isinstance(drawn, torch.Tensor)
    return pipe.decode(drawn).clamp(-1, 1)


def asked(engine: Engine, controls: list[Any], **settings: Any) -> Any:
    words = {"width": 96, "height": 64, "output": "pt"} | settings
    return engine.submit(engine.check(None, "a red apple", control=controls, **words))


def test_a_crowd_with_and_without_controls_draws_each_as_alone(
    engine: Engine, places: dict[str, str], gate: Any
) -> None:
    steps, before = 4, engine.stats()["steps"]
    holder = asked(engine, [], steps=1)
    assert gate.reached.wait(WAIT)
    settings = [{"seed": seed, "steps": steps + seed % 3} for seed in range(2 * len(CHOICES))]
    settings = [own | {"guidance": 3.0 if own["seed"] % 5 else 2.0} for own in settings]
    tickets = [asked(engine, controls, **own) for controls, own in zip(CHOICES * 2, settings, strict=True)]
    gate.opened.set()
    holder.result(WAIT)
    for ticket, controls, own in zip(tickets, CHOICES * 2, settings, strict=True):
        ours = ticket.result(WAIT).images[0]
        theirs = alone(places, controls, **own)[0]
        assert (ours - theirs).abs().max() < CLOSE, (controls, own)
    taken = engine.stats()["steps"] - before - 1
    assert taken < sum(own["steps"] for own in settings) / 2  # they did step together


def test_controls_change_the_image_and_scale_zero_does_not(engine: Engine) -> None:
    drawn = [asked(engine, controls, seed=1, steps=3).result(WAIT).images[0] for controls in CHOICES]
    assert torch.equal(drawn[0], drawn[5])
    for number in {*range(len(CHOICES))} - {0, 5}:
        assert (drawn[number] - drawn[0]).abs().max() > 0.02, number


def test_several_images_of_a_request_share_its_control(engine: Engine, places: dict[str, str]) -> None:
    settings = {"seed": 5, "steps": 2, "num_images": 3}
    ours = asked(engine, CHOICES[1], **settings).result(WAIT).images
    theirs = alone(places, CHOICES[1], **settings)
    assert max((mine - its).abs().max() for mine, its in zip(ours, theirs, strict=True)) < CLOSE


def test_an_edit_is_steered_too(engine: Engine) -> None:
    words = {"image": sketch(3), "strength": 0.7, "steps": 4, "seed": 1}
    plain, steered = (
        engine.submit(engine.check(None, "an apple", control=one, **words)).result(WAIT).images[0]
        for one in (None, CHOICES[1])
    )
    assert plain.tobytes() != steered.tobytes()


def test_images_step_together_where_their_controlnets_are_the_same(engine: Engine) -> None:
    keys = [GroupKey.of(engine.check(None, "x", width=96, height=64, control=one)) for one in CHOICES]
    assert [key.nets for key in keys[:2]] == [(), ("lines",)]
    assert len(set(keys[1:6])) == 1
    assert len(set(keys)) == 5
    assert keys[8].residents == {"tiny", ("tiny", "lines"), ("tiny", "spots")}


def test_the_settings_tell_kind_scale_times_and_the_weights_of_the_controlnet(
    engine: Engine, places: dict[str, str]
) -> None:
    (first,) = engine.check(None, "x", control=CHOICES[3]).metadata
    shown = ControlImage(CHOICES[3][0]["image"]).fingerprint
    net = ControlFile(places["lines"]).fingerprint
    assert first["control"] == f"edges 1 from 0 to 0.5 of {shown} by lines@{net}"
    hashes = [ControlFile(places[name]).fingerprint for name in ("lines", "spots")]
    assert len({*hashes}) == 2
    assert all(len(one) == 12 for one in hashes)
    (both,) = engine.check(None, "x", control=CHOICES[8]).metadata
    images = [one["image"] for one in CHOICES[8]]
    marks = [ControlImage(image).fingerprint for image in images]
    told = f"edges 1 of {marks[0]} by lines@{hashes[0]}; as-is 0.3 of {marks[1]} by spots@{hashes[1]}"
    assert both["control"] == told


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ([{"name": "pen", "image": sketch()}], r"tiny has no ControlNet 'pen'; there are: lines, spots"),
        ([{"name": "lines", "image": sketch(), "scale": 101.0}], "from -100 to 100"),
        ([{"name": "lines", "image": sketch(), "kind": "depth"}], "control kind = 'depth'"),
        ([{"name": "lines", "image": sketch(), "start": 0.5, "end": 0.5}], "the end must be later"),
        ([{"name": "lines", "image": sketch()}] * 5, "send at most 4"),
    ],
)
def test_what_is_asked_for_is_checked_at_once(engine: Engine, control: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        engine.check(None, "an apple", control=control)


def test_a_server_without_controlnets_says_so(places: dict[str, str]) -> None:
    plain = Engine([places["model"]], device="cpu")
    with pytest.raises(SettingsError, match="tiny has no ControlNet 'lines'; it has none here"):
        plain.check(None, "an apple", control=CHOICES[1])


def test_a_controlnet_that_fits_no_model_is_told_at_the_start(places: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="width 32, this one has 64"):
        Engine([places["model"]], controls=offered(places, "lines", "narrow"))
    with pytest.raises(ModelNotFoundError):
        Engine([places["model"]], controls={"a": str(tmp_path / "none")})


def test_control_images_count_among_the_images_that_wait(engine: Engine) -> None:
    request = engine.check(None, "x", width=96, height=64, control=CHOICES[8])
    assert source_pixels(request) == 2 * 96 * 64
    assert source_pixels(engine.check(None, "x", width=96, height=64)) == 0


# In memory


def pool(places: dict[str, str], memory: Any = "all") -> ModelPool:
    controls = offered(places, "lines", "spots")
    return ModelPool([places["model"]], device="cpu", dtype="auto", memory=memory, controls=controls)


def test_a_controlnet_is_loaded_when_it_is_asked_for(places: dict[str, str]) -> None:
    models = pool(places)
    plain = models.get("tiny")
    assert not models.holds([("tiny", "lines")])
    steered = models.get("tiny", nets=("lines",))
    assert models.holds(["tiny", ("tiny", "lines")])
    assert models.get("tiny", nets=("lines",)) is steered
    assert steered.transformer is plain.transformer
    assert plain.controlnets == []
    weights = sum(one.nbytes for one in steered.controlnets[0].parameters())
    assert models._sizes["tiny", "lines"] == weights
    grown = steered._memory.weights.transformer - plain._memory.weights.transformer
    assert weights <= grown <= 1.1 * weights  # mapped pages, and buffers


def test_idle_controlnets_make_room_and_busy_ones_stay(places: dict[str, str]) -> None:
    models = pool(places)
    models.get("tiny", nets=("lines", "spots"))
    sizes = models._sizes
    models = pool(places)
    models.limit = sizes["tiny"] + max(sizes["tiny", "lines"], sizes["tiny", "spots"])
    models.get("tiny", nets=("lines",))
    assert not models.fits({"tiny", ("tiny", "spots")}, busy={"tiny", ("tiny", "lines")})
    assert models.fits({"tiny", ("tiny", "spots")}, busy=set())
    first = models.get("tiny", {"tiny"}, nets=("spots",))
    assert models.holds([("tiny", "spots")])
    assert not models.holds([("tiny", "lines")])
    assert models.get("tiny", {"tiny"}, nets=("lines",)) is not first


def test_controlnets_go_with_their_model(places: dict[str, str]) -> None:
    models = pool(places)
    first = models.get("tiny", nets=("lines",))
    models.limit = 1
    models._make_room(1, busy=())
    assert models.loaded == []
    assert not models.holds([("tiny", "lines")])
    assert models.get("tiny", nets=("lines",)) is not first


def test_requests_take_turns_where_only_one_controlnet_fits(places: dict[str, str], gate: Any) -> None:
    engine = Engine([places["model"]], device="cpu", memory="all", controls=offered(places, "lines", "spots"))
    sizes = pool(places)
    sizes.get("tiny", nets=("lines", "spots"))
    engine.residence.limit = sizes._sizes["tiny"] + int(1.5 * sizes._sizes["tiny", "lines"])
    engine.start()
    try:
        tickets = [asked(engine, CHOICES[n], seed=n, steps=2) for n in (1, 6, 0, 1, 6, 2, 7, 0)]
        assert gate.reached.wait(WAIT)
        gate.opened.set()
        for ticket in tickets:
            ticket.result(WAIT)
        assert sum(engine.residence.holds([("tiny", name)]) for name in ("lines", "spots")) == 1
    finally:
        gate.opened.set()
        engine.close()


def test_a_model_whose_own_controlnet_is_offered_is_not_told_of_as_left_out(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residence, "controlnets_of", lambda path: [path])
    assert residence.NO_CONTROL not in pool(places).specs["tiny"].settings.notes
    without = ModelPool([places["model"]], device="cpu", dtype="auto", memory="all")
    assert residence.NO_CONTROL in without.specs["tiny"].settings.notes

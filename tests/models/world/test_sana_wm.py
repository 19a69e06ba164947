"""SANA-WM whole: diffusers' numbers, the ways of calling it, which weights are reached, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import SanaWMTransformer3DModel

from sanakit.errors import SettingsError, SizeError
from sanakit.models.world.config import SANA_WM_1600M
from sanakit.models.world.sana_wm import SanaWM
from tests.models.world.worlds import (
    GRID,
    HEADS,
    TINY,
    apart,
    inputs,
    published,
    randomised,
    run_published,
    seen,
)

STEERED = {
    "no cameras": (),
    "cameras": ("cameras",),
    "plucker": ("plucker",),
    "both": ("cameras", "plucker"),
}
SIZE = GRID[1:]


@pytest.fixture(scope="module")
def model() -> SanaWM:
    torch.manual_seed(0)
    return randomised(TINY)


def steered(name: str, config=TINY, **more) -> dict[str, torch.Tensor]:
    some = inputs(config, **more)
    left_out = {"cameras", "plucker"} - set(STEERED[name])
    return {key: value for key, value in some.items() if key not in left_out}


def prepared(model: SanaWM, some: dict[str, torch.Tensor]):
    context = model.prepare([row[real] for row, real in zip(some["text"], some["mask"], strict=True)])
    return context, model.prepare_cameras(some.get("cameras"), some.get("plucker"), SIZE)


@pytest.mark.parametrize("how", STEERED)
@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_velocities_are_those_of_diffusers(name, how, unrounded):
    model, some = randomised(HEADS[name]), steered(how, HEADS[name])
    assert apart(model(**some), run_published(published(model), **some)) < 2e-5


@torch.no_grad()
def test_rounded_inputs_give_diffusers_numbers_to_their_rounding():
    """As loaded: one softmax attention whose inputs are rounded to 8 bits, in both."""
    model, some = randomised(replace(TINY, rounded=True)), steered("both")
    assert apart(model(**some), run_published(published(model), **some)) < 2e-3


@torch.no_grad()
def test_times_are_cut_to_whole_thousandths(model):
    """t = k / 1000 of float32, times 1000, lies below k for some k: it counts as k all the same."""
    some, theirs = steered("no cameras", batch=1), published(model)
    below = [k for k in range(1, 1000) if torch.tensor(k / 1000) * 1000 < k]
    assert below
    each = torch.arange(1000) / 1000
    assert torch.equal(
        model.t_embedder(1000 * each),
        super(type(model.t_embedder), model.t_embedder).forward(torch.arange(1000.0)),
    )
    cut, whole = (model(**{**some, "t": torch.full((1,), t)}) for t in (0.5007, 0.5))
    assert torch.equal(cut, whole)
    assert apart(whole, run_published(theirs, **{**some, "t": torch.full((1,), 0.5007)})) < 2e-3


@pytest.mark.parametrize("how", STEERED)
@torch.no_grad()
def test_sampling_gives_what_training_sees(model, how):
    some = steered(how)
    context, cameras = prepared(model, some)
    out = model.velocity(some["latents"], some["t"], context, cameras=cameras)
    assert apart(out, model(**some)) < 2e-5


@torch.no_grad()
def test_one_time_for_all_one_for_each_and_one_for_each_frame_agree(model):
    some = steered("both")
    context, cameras = prepared(model, some)
    times = (0.7, torch.full((2,), 0.7), torch.full((2, GRID[0]), 0.7), torch.full((1, GRID[0]), 0.7))
    outs = [model.velocity(some["latents"], t, context, cameras=cameras) for t in times]
    assert all(apart(out, outs[0]) < 1e-5 for out in outs)
    assert apart(model(**{**some, "t": torch.full((2,), 0.7)}), outs[0]) < 2e-5


@torch.no_grad()
def test_guidance_shares_latents_and_one_path_serves_all_clips(model):
    some = steered("both")
    context, cameras = prepared(model, some)
    one = model.prepare_cameras(some["cameras"][:1], some["plucker"][:1], SIZE)
    latents, t = some["latents"][:1], some["t"][:1]
    shared = model.velocity(latents, t, context, cameras=one)
    both = model.velocity(latents.repeat(2, 1, 1, 1, 1), t, context, cameras=one)
    assert apart(shared, both) < 1e-5
    four = model.prepare([some["text"][n % 2][some["mask"][n % 2]] for n in range(4)])
    guided = model.velocity(some["latents"], some["t"], four, cameras=cameras)
    assert apart(guided[:2], model.velocity(some["latents"], some["t"], context, cameras=cameras)) < 1e-5
    assert apart(guided[2:], guided[:2]) < 1e-5


@torch.no_grad()
def test_another_path_gives_another_clip_and_a_moved_world_the_same(model):
    some = steered("both", batch=1)
    out = model(**some)
    other = seen(start=0.5)
    assert (
        apart(model(**{**some, "cameras": other.cameras[None], "plucker": other.plucker[None]}), out) > 1e-2
    )
    assert (
        apart(
            model(**steered("no cameras", batch=1) | {k: some[k] for k in ("latents", "t", "text", "mask")}),
            out,
        )
        > 1e-2
    )


def test_gradients_reach_every_weight_but_the_idle_ones(model):
    model(**steered("both")).square().sum().backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    softmax = {f"blocks.3.attn.{name}" for name in ("A_log", "dt_bias")} | {
        f"blocks.3.attn.{gate}_proj.{part}" for gate in ("beta", "gate") for part in ("weight", "bias")
    }
    recall = {f"blocks.{block}.attn.recall_gate" for block in range(4)}
    assert idle == softmax | recall | {"raymap_embedder.proj.weight", "raymap_embedder.proj.bias"}
    model.zero_grad()


@torch.no_grad()
def test_first_weights_make_a_camera_branch_that_adds_nothing():
    torch.manual_seed(1)
    model, some = SanaWM(TINY), steered("both")
    model.init_weights()
    out = model(**some)
    assert torch.isfinite(out).all()
    assert out.abs().max() > 1e-3
    unsteered = {key: value for key, value in some.items() if key not in ("cameras", "plucker")}
    assert torch.equal(model(**unsteered), out)


def test_the_released_size_has_its_published_number_of_parameters():
    with torch.device("meta"):
        ours, theirs = SanaWM(SANA_WM_1600M), SanaWMTransformer3DModel()
    counted = {name: p.numel() for name, p in ours.named_parameters() if not name.endswith("recall_gate")}
    assert sum(counted.values()) == sum(p.numel() for p in theirs.parameters()) == 2_661_800_448
    assert len(ours.state_dict()) == len(theirs.state_dict()) == 870
    delta = sum(count for name, count in counted.items() if name.startswith("blocks.0."))
    softmax = sum(count for name, count in counted.items() if name.startswith("blocks.3."))
    assert (delta, delta - softmax) == (130_764_560, 2 * 2240 * 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cameras": torch.zeros(2, 4, 19)}, "cameras have 19 numbers"),
        ({"cameras": torch.zeros(2, 4, 20)}, "focal lengths"),
        ({"cameras": torch.ones(2, 3, 20)}, "of 2 clips of 18 latents, but there are 2 of 24"),
        ({"cameras": torch.ones(3, 4, 20)}, "of 3 clips of 24 latents"),
        ({"plucker": torch.zeros(2, 40, *GRID)}, "pass B, 48 numbers, frames, 2, 3"),
        ({"plucker": torch.zeros(2, 48, 4, 3, 2)}, "pass B, 48 numbers, frames, 2, 3"),
        ({"plucker": torch.zeros(2, 48, 3, 2, 3)}, "of 2 clips of 18 latents"),
        ({"chunks": [2, 2]}, "These weights see whole clips"),
        ({"t": torch.zeros(2, 3)}, "t has the shape"),
        ({"latents": torch.zeros(2, 4, *GRID)}, "are not a clip's"),
    ],
)
def test_what_does_not_fit_is_refused(model, change, said):
    with pytest.raises((SettingsError, SizeError), match=said):
        model(**steered("both") | change)


@torch.no_grad()
def test_sampling_refuses_what_does_not_fit(model):
    some = steered("both")
    context, cameras = prepared(model, some)
    with pytest.raises(SettingsError, match="no guidance scale"):
        model.velocity(some["latents"], 0.5, context, 4.5)
    with pytest.raises(SettingsError, match="of 2 clips of 24 latents, but there are 2 of 18"):
        model.velocity(some["latents"][:, :, :3], 0.5, context, cameras=cameras)
    with pytest.raises(SettingsError, match="These weights are bidirectional"):
        model.extend(None, some["latents"], context, cameras=cameras)

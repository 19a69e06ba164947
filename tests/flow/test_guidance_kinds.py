"""The formulas of guidance against their equations in float64, and against diffusers' guiders."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.guidance_kinds import PLAIN, GuidanceKind, check_kind, read_kind

SHAPE = (4, 6, 6)


def branches(step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    u, c, p = torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
    return u, u + 0.3 * c, p


def guide(kind: GuidanceKind, w: float, u: Tensor, c: Tensor, p: Tensor | None = None) -> Tensor:
    return kind.combine(w, u, c, p, 5, None)[0]


def test_plain_is_the_base_and_the_scaled_difference():
    u, c, p = branches()
    assert torch.equal(guide(PLAIN, 4.5, u, c), u + 4.5 * (c - u))
    assert torch.equal(guide(GuidanceKind(pag=2), 4.5, u, c, p), u + 4.5 * (c - u) + 2 * (c - p))
    # without the negative prompt, c stands for u
    assert torch.allclose(guide(GuidanceKind(pag=2), 1.0, c, c, p), c + 2 * (c - p))


@pytest.mark.parametrize("scale", [1.0, 3.0, 4.5])
def test_zero_star_scales_the_base_by_its_best_factor_and_waits_in_its_first_steps(scale: float):
    u, c, _ = branches()
    kind = GuidanceKind(combination="zero-star", zero=2)
    factor = torch.linalg.lstsq(u.reshape(-1, 1), c.reshape(-1, 1)).solution.item()  # nearest multiple of u
    expected = factor * u + scale * (c - factor * u)
    torch.testing.assert_close(kind.combine(scale, u, c, None, 2, None)[0], expected, rtol=1e-12, atol=1e-12)
    for step in (0, 1):
        assert not kind.combine(scale, u, c, None, step, None)[0].any()


def apg(w: float, pairs: list[tuple[Tensor, Tensor]], along: float, momentum: float, limit: float) -> Tensor:
    """The paper's equations, on vectors."""
    running = torch.zeros(math.prod(SHAPE), dtype=torch.float64)
    for u, c in pairs:
        running = (c - u).flatten() + momentum * running
        d = running * min(1.0, limit / math.sqrt(float(running @ running)))
        unit = c.flatten() / math.sqrt(float(c.flatten() @ c.flatten()))
        projected = float(d @ unit) * unit
        result = c.flatten() + (w - 1) * (d - projected + along * projected)
    return result.reshape(SHAPE)


@pytest.mark.parametrize("along", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("limit", [0.5, 15.0])
def test_apg_follows_the_equations_over_three_steps_with_momentum(along: float, limit: float):
    kind = GuidanceKind(combination="apg", along=along, momentum=-0.5, limit=limit)
    pairs = [branches(step)[:2] for step in range(3)]
    before = None
    for step, (u, c) in enumerate(pairs):
        found, before = kind.combine(4.5, u, c, None, step, before)
        expected = apg(4.5, pairs[: step + 1], along, -0.5, limit)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_apg_that_keeps_everything_is_plain():
    u, c, _ = branches()
    kind = GuidanceKind(combination="apg", along=1.0, momentum=0.0, limit=1e9)
    torch.testing.assert_close(guide(kind, 4.5, u, c), guide(PLAIN, 4.5, u, c), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_rescale_brings_the_deviation_towards_that_of_the_prompt(share: float):
    u, c, _ = branches()
    plain = guide(PLAIN, 7.0, u, c)
    found = guide(GuidanceKind(rescale=share), 7.0, u, c)
    expected = share * plain * (c.std() / plain.std()) + (1 - share) * plain
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", ["cfg,rescale=0.7", "apg", "zero-star"])
def test_nothing_but_finite_numbers_come_of_branches_that_are_zero_or_alike(text: str):
    zero = torch.zeros(SHAPE)
    ones = torch.ones(SHAPE)
    for u, c in ((zero, zero), (zero, ones), (ones, ones)):
        assert guide(read_kind(text), 4.5, u, c).isfinite().all()


def test_diffusers_guiders_agree():
    guiders = pytest.importorskip("diffusers.guiders")
    pairs = [[part.float()[None] for part in branches(step)[:2]] for step in range(3)]
    theirs = {
        "apg,momentum=-0.5,limit=2,along=0.3": guiders.AdaptiveProjectedGuidance(
            guidance_scale=3.5,  # theirs counts from c
            adaptive_projected_guidance_momentum=-0.5,
            adaptive_projected_guidance_rescale=2.0,
            eta=0.3,
            use_original_formulation=True,
        ),
        "zero-star,zero=1": guiders.ClassifierFreeZeroStarGuidance(guidance_scale=4.5, zero_init_steps=1),
        "cfg,rescale=0.7": guiders.ClassifierFreeGuidance(guidance_scale=4.5, guidance_rescale=0.7),
    }
    for text, guider in theirs.items():
        before = None
        for step, (u, c) in enumerate(pairs):
            guider.set_state(step=step, num_inference_steps=3, timestep=torch.tensor(1.0))
            if step == 0 and hasattr(guider, "momentum_buffer"):
                from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

                guider.momentum_buffer = MomentumBuffer(-0.5)
            expected = guider.forward(c, u).pred[0]
            found, before = read_kind(text).combine(4.5, u[0], c[0], None, step, before)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_interval_holds_both_its_ends():
    kind = read_kind("interval=0.2-0.9")
    assert [kind.at(time) for time in (0.19, 0.2, 0.5, 0.9, 0.91)] == [False, True, True, True, False]
    assert PLAIN.at(1.0)


@pytest.mark.parametrize(
    "text",
    [
        "cfg",
        "apg",
        "zero-star,zero=3",
        "interval=0.2-0.9,rescale=0.7",
        "apg,along=0.5,momentum=-0.25,limit=7.5",
        "pag=2.5,blocks=8+9",
        "interval=0.00001-0.123456789,rescale=0.3333333333333333",
    ],
)
def test_a_kind_is_written_as_it_is_read(text: str):
    assert str(read_kind(text)) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' has a wrong value"),
        ("ag", "'ag' has a wrong value"),
        ("rescale=0.5,apg", "'apg' is not understood"),
        ("rescale=0.5,rescale=0.6", "'rescale=0.6' is not understood"),
        ("interval=0.9", "wrong value"),
        ("interval=0.9-0.2", "the lower first"),
        ("interval=0-2", "the lower first"),
        ("rescale=nan", "rescale is nan"),
        ("rescale=much", "wrong value"),
        ("pag=-1", "0 to 100"),
        ("pag=1,blocks=-1", "numbers of blocks"),
        ("blocks=3", "belongs to pag"),
        ("momentum=0.1", "belongs to apg"),
        ("apg,limit=0", "above 0"),
        ("apg,limit=inf", "above 0"),
        ("apg,zero=2", "belongs to zero-star"),
        ("combination=apg,cfg", "'cfg' is not understood"),
    ],
)
def test_a_slip_is_a_sentence(text: str, told: str):
    with pytest.raises(SettingsError, match=told.replace("'", ".")):
        read_kind(text)


def test_a_model_answers_for_its_blocks_and_a_scale_for_its_effect():
    def checked(text: str, scale: float = 4.5, *, blocks: int = 20, sprint: bool = False) -> GuidanceKind:
        return check_kind(text, scale, model="one", blocks=blocks, sprint=sprint)

    assert checked("pag=2").blocks == (8,)
    assert checked("pag=2", blocks=28).blocks == (14,)
    assert checked("pag=2", blocks=7).blocks == (3,)
    assert checked("pag=2", scale=1.0).pag == 2
    assert checked("cfg", sprint=True, scale=1.0) == PLAIN
    for text, told, others in (
        ("pag=2,blocks=20", "blocks of one are 0 to 19", {}),
        ("pag=2", "keeps its blocks to itself", {"blocks": 0}),
        ("apg", "guidance 1 switches it off", {"scale": 1.0}),
        ("interval=0.2-0.9", "SANA-Sprint", {"sprint": True}),
    ):
        with pytest.raises(SettingsError, match=told):
            checked(text, **others)

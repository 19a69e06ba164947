"""SANA against diffusers' transformer on tiny random weights; its sampling path against `forward`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import SanaTransformer2DModel
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sanakit.errors import SettingsError
from sanakit.models import layers, sana
from sanakit.models.sana import Sana, SanaConfig, TextContext
from sanakit.weights.layouts.diffusers import diffusers_names, write_sana_config

PLAIN = SanaConfig(depth=2, width=64, cross_heads=4, text_width=24, latent_channels=8, sample_size=4)
VARIANTS = {
    "sana": PLAIN,
    "sana-1.5": replace(PLAIN, qk_norm=True),
    "sprint": replace(PLAIN, qk_norm=True, guidance_embed=True, time_scale=1.0),
    "2k": replace(PLAIN, position_interpolation=1.0, sample_size=8),
    "4k": replace(PLAIN, position_interpolation=2.0, sample_size=16),
    "other heads": replace(PLAIN, width=96, cross_heads=2, head_dim=24, mlp_ratio=3.0),
}
GRIDS = {"square": (4, 4), "tall": (6, 3), "wide": (2, 9)}
TOLERANCE = 2e-5  # of the largest number compared: float32 sums in another order


def randomised(config: SanaConfig, std: float = 0.15) -> Sana:
    model = Sana(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=std)
    return model


def published(model: Sana) -> SanaTransformer2DModel:
    """diffusers' model with the same weights."""
    theirs = SanaTransformer2DModel.from_config(write_sana_config(model.config))
    state = {}
    for name, tensor in model.state_dict().items():
        names = diffusers_names(name, guidance_embed=model.config.guidance_embed)
        state |= dict(zip(names, tensor.chunk(len(names)), strict=True))
    state |= {name: buffer for name, buffer in theirs.state_dict().items() if name.endswith("pos_embed")}
    theirs.load_state_dict(state)
    return theirs.eval()


def run_published(theirs, latents: Tensor, t: Tensor, text: Tensor, mask: Tensor, guidance: Tensor | None):
    """As diffusers' pipelines call it: SANA with 1000 t, Sprint with t itself and a tenth of the guidance."""
    sprint = theirs.config.guidance_embeds
    return theirs(
        latents,
        encoder_hidden_states=text,
        encoder_attention_mask=mask.long(),
        timestep=t if sprint else 1000 * t,
        guidance=guidance * theirs.config.guidance_embeds_scale if sprint else None,
    ).sample


def inputs(config: SanaConfig, batch: int = 2, grid: tuple[int, int] = (4, 4), tokens: int = 7) -> dict:
    """A batch whose text is padded, with garbage behind the mask."""
    lengths = torch.tensor([tokens, *range(1, batch)])[:batch]
    return {
        "latents": torch.randn(batch, config.latent_channels, *grid),
        "t": torch.linspace(0.9, 0.2, batch),
        "text": torch.randn(batch, tokens, config.text_width),
        "mask": torch.arange(tokens) < lengths[:, None],
        "guidance": torch.linspace(4.5, 2.0, batch) if config.guidance_embed else None,
    }


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_velocity_equals_diffusers(variant, batch):
    model = randomised(VARIANTS[variant])
    theirs = published(model)
    for grid in GRIDS.values():
        given = inputs(model.config, batch, grid)
        expected = run_published(theirs, **given)
        assert expected.std() > 0.1
        assert apart(model(**given), expected) < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_equal_diffusers(variant):
    model = randomised(VARIANTS[variant])
    theirs = published(model)
    given = inputs(model.config, grid=(3, 5))
    weight = torch.randn_like(given["latents"])
    gradients = []
    for run in (model, lambda **given: run_published(theirs, **given)):
        leaves = {name: given[name].clone().requires_grad_() for name in ("latents", "text")}
        (run(**given | leaves) * weight).sum().backward()
        gradients.append({name: leaf.grad for name, leaf in leaves.items()})
    for name in ("latents", "text"):
        assert apart(gradients[0][name], gradients[1][name]) < TOLERANCE, name
    assert not gradients[0]["text"][~given["mask"]].any()
    wanted = dict(theirs.named_parameters())
    # Relative to the largest of all: gradients that cancel (keys' biases under a softmax) are rounding noise.
    largest = max(parameter.grad.abs().max() for parameter in wanted.values())
    for name, parameter in model.named_parameters():
        names = diffusers_names(name, guidance_embed=model.config.guidance_embed)
        expected = torch.cat([wanted.pop(part).grad for part in names])
        assert (parameter.grad - expected).abs().max() < TOLERANCE * largest, name
    assert not wanted


@pytest.mark.parametrize("variant", ["2k", "4k"])
@torch.no_grad()
def test_positions_tell_where_a_token_lies(variant):
    model = randomised(VARIANTS[variant])
    given = inputs(model.config, batch=1)
    given["latents"] = torch.ones_like(given["latents"])
    middle = model(**given)[..., 1:-1, 1:-1]  # the border knows itself from the convolution's padding
    assert middle.std((2, 3)).min() > 1e-2
    plain = Sana(replace(model.config, position_interpolation=None, depth=1))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "blocks.1" not in k})
    assert plain(**given)[..., 1:-1, 1:-1].std((2, 3)).max() < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("single_time", [True, False])
@torch.no_grad()
def test_prepared_prompts_give_the_velocity_of_forward(variant, single_time):
    model = randomised(VARIANTS[variant])
    given = inputs(model.config, batch=4, grid=(3, 5))  # lengths 7, 1, 2, 3: one prompt is a single token
    t = given["t"] = torch.full((4,), 0.7) if single_time else given["t"]
    guidance = None
    if given["guidance"] is not None:
        guidance, given["guidance"] = 3.0, torch.full((4,), 3.0)
    features = [row[real] for row, real in zip(given["text"], given["mask"], strict=True)]
    context = model.prepare(features)
    assert context.batch == 4
    assert [prompt.constant is not None for prompt in context.layers[0]] == [False, True, False, False]
    before = given["latents"].clone()
    out = model.velocity(given["latents"], 0.7 if single_time else t, context, guidance)
    assert apart(out, model(**given)) < 1e-6 * 2
    assert torch.equal(given["latents"], before)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("values", [1, 3000])
@pytest.mark.parametrize("t", [0.7, torch.tensor([0.9, 0.4])], ids=["one time", "a time each"])
@torch.no_grad()
def test_bands_of_tokens_give_the_velocity_of_the_whole(variant, values, t, monkeypatch):
    model = randomised(VARIANTS[variant])
    latents = torch.randn(2, 8, 7, 5)
    context = model.prepare([torch.randn(1, 24), torch.randn(5, 24)], [2, 2])
    guidance = 3.0 if model.config.guidance_embed else None
    whole = model.velocity(latents, t, context, guidance)
    monkeypatch.setattr(layers, "_BAND_VALUES", values)
    assert apart(model.velocity(latents, t, context, guidance), whole) < 5e-6


class Largest(TorchFunctionMode):
    """Notes the largest tensor that is made, views of the given ones apart."""

    def __init__(self, *given: Tensor) -> None:
        self.values, self.given = 0, {tensor.untyped_storage().data_ptr() for tensor in given}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else [out]
        with torch._C.DisableTorchFunctionSubclass():
            for tensor in made:
                if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.given:
                    self.values = max(self.values, tensor.numel())
        return out


@torch.no_grad()
def test_what_a_block_makes_on_a_cpu_does_not_grow_with_the_picture(monkeypatch):
    monkeypatch.setattr(layers, "_BAND_VALUES", 2**16)
    model = randomised(PLAIN)
    context = model.prepare([torch.randn(1, 24), torch.randn(5, 24)])
    largest = []
    for height in (32, 128):
        x = torch.randn(2, height * 64, 64)
        with Largest(x, *model.parameters()) as made:
            out = model.blocks[0].sample(x, torch.randn(1, 6 * 64), context.layers[0], (height, 64))
        assert out is x
        largest.append(made.values)
    assert largest[0] == largest[1]
    assert largest[0] < 2 * 2**16  # a band, and the two rows that are carried into it


@pytest.mark.parametrize("counts", [[3, 1], [1, 3], [2, 2]])
@torch.no_grad()
def test_samples_of_one_prompt_share_it(counts):
    model = randomised(PLAIN)
    given = inputs(PLAIN, batch=4)
    prompts = [torch.randn(1, PLAIN.text_width), torch.randn(5, PLAIN.text_width)]
    one_each = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
    shared = model.prepare(prompts, counts)
    assert shared.batch == 4
    expected = model.velocity(given["latents"], given["t"], model.prepare(one_each))
    assert apart(model.velocity(given["latents"], given["t"], shared), expected) < 1e-6
    alone = [model(given["latents"][i : i + 1], given["t"][i : i + 1], one_each[i][None]) for i in range(4)]
    assert apart(expected, torch.cat(alone)) < 1e-6 * 2


@pytest.mark.parametrize("t", [0.6, torch.tensor([0.2, 0.9])], ids=["one time", "a time each"])
@torch.no_grad()
def test_latents_may_stand_for_as_many_samples_as_there_are_prompts(t):
    model = randomised(PLAIN)
    latents = torch.randn(2, 8, 4, 4)
    context = model.prepare([torch.randn(1, 24), torch.randn(5, 24)], [2, 2])
    doubled = model.velocity(latents.repeat(2, 1, 1, 1), t if isinstance(t, float) else t.repeat(2), context)
    assert apart(model.velocity(latents, t, context), doubled) < 1e-6
    assert apart(doubled[:2], doubled[2:]) > 1e-2  # or text plays no part


@torch.no_grad()
def test_a_context_serves_every_step_unchanged():
    model = randomised(PLAIN)
    latents = torch.randn(2, 8, 4, 4)
    context = model.prepare([torch.randn(1, 24), torch.randn(3, 24)])
    first = model.velocity(latents, 0.5, context)
    model.velocity(latents, 0.1, context)
    assert torch.equal(model.velocity(latents, 0.5, context), first)
    assert not first.requires_grad


def test_a_context_of_another_batch_is_refused():
    model = randomised(PLAIN)
    context = model.prepare([torch.randn(2, 24)])
    with pytest.raises(SettingsError, match="3 latents came with prompts for 1"):
        model.velocity(torch.randn(3, 8, 4, 4), 0.5, context)


def test_sprint_asks_for_its_guidance():
    model = randomised(VARIANTS["sprint"])
    given = inputs(model.config) | {"guidance": None}
    with pytest.raises(SettingsError, match="pass `guidance`"):
        model(**given)


@pytest.mark.parametrize("sizes", [{"head_dim": 24}, {"cross_heads": 3}, {"head_dim": 0}, {"cross_heads": 0}])
def test_a_width_that_heads_do_not_divide_is_refused(sizes):
    with pytest.raises(SettingsError, match=f"64 is not a multiple of {next(iter(sizes))}"):
        replace(PLAIN, **sizes)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (sana.SANA_600M, 591_747_872),
        (sana.SANA_1600M, 1_604_462_752),
        (sana.SANA_1600M_2K, 1_604_462_752),
        (sana.SANA_1600M_4K, 1_604_462_752),
        (sana.SANA_1_5_1600M, 1_604_641_952),
        (sana.SANA_1_5_4800M, 4_721_825_952),
        (sana.SANA_SPRINT_600M, 593_501_216),
        (sana.SANA_SPRINT_1600M, 1_610_237_472),
    ],
)
def test_parameter_counts_are_the_published_ones(config, count):
    with torch.device("meta"):
        model = Sana(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_published_sizes_scale_time_as_they_were_trained():
    assert {config.time_scale for config in (sana.SANA_SPRINT_600M, sana.SANA_SPRINT_1600M)} == {1.0}
    assert {config.time_scale for config in (sana.SANA_600M, sana.SANA_1600M_4K, sana.SANA_1_5_4800M)} == {
        1e3
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns_once_the_silent_layers_have_moved(variant):
    model = Sana(VARIANTS[variant])
    model.init_weights()
    given = inputs(model.config)
    target = torch.randn_like(given["latents"])

    def silent() -> set[str]:
        model.zero_grad()
        (model(**given) - target).square().mean().backward()
        return {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}

    # The output layer starts at zero, so that nothing but itself has a gradient in the first step.
    names = {name for name, _ in model.named_parameters()}
    assert silent() == names - {"final_layer.linear.weight", "final_layer.linear.bias"}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    assert silent() == set()


def test_initial_weights_predict_nothing_and_ignore_the_prompt():
    model = Sana(PLAIN)
    model.init_weights()
    given = inputs(PLAIN)
    assert not model(**given).any()
    torch.nn.init.normal_(model.final_layer.linear.weight)
    assert torch.equal(model(**given), model(**given | {"text": torch.randn_like(given["text"])}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_stays_near_float32(dtype, variant):
    model = randomised(VARIANTS[variant])
    given = inputs(model.config)
    expected = model(**given).detach()
    model.to(dtype)
    out = model(**{k: v.to(dtype) if k in ("latents", "text") else v for k, v in given.items()})
    assert out.dtype == dtype
    assert apart(out.float(), expected) < (0.1 if dtype == torch.bfloat16 else 0.015)
    out.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    features = [row[real] for row, real in zip(given["text"], given["mask"], strict=True)]
    guidance = 3.0 if model.config.guidance_embed else None
    assert model.velocity(given["latents"], 0.5, model.prepare(features), guidance).isfinite().all()


@pytest.mark.slow
@torch.no_grad()
def test_the_full_600m_equals_diffusers():
    model = randomised(sana.SANA_600M, std=0.02)
    given = inputs(model.config, batch=1, grid=(8, 8), tokens=20)
    expected = run_published(published(model), **given)
    assert apart(model(**given), expected) < 5e-5


def one_each(model: Sana, lengths: list[int]) -> list[TextContext]:
    return [model.prepare([torch.randn(length, PLAIN.text_width)]) for length in lengths]


def test_joining_groups_neighbours_that_are_the_same_object():
    model = randomised(PLAIN)
    first, second = one_each(model, [3, 5])
    twin = TextContext(list(first.layers))  # equal, but another one
    joined = TextContext.join([first, first, second, first, twin])
    assert joined.batch == 5
    assert len(joined.layers) == PLAIN.depth
    for layer, prompts in enumerate(joined.layers):
        assert [prompt.count for prompt in prompts] == [2, 1, 1, 1]
        sources = (first, second, first, first)
        for prompt, source in zip(prompts, sources, strict=True):
            assert prompt.key is source.layers[layer][0].key  # nothing is copied
    assert [prompts[0].count for prompts in first.layers] == [1] * PLAIN.depth


@torch.no_grad()
def test_joined_prompts_give_each_sample_its_own():
    model = randomised(PLAIN)
    negative, first, second = one_each(model, [1, 3, 5])
    latents = torch.randn(3, 8, 4, 5)
    joined = TextContext.join([first, second, second])
    together = model.velocity(latents, 0.4, joined)
    for i, context in enumerate((first, second, second)):
        assert apart(together[i : i + 1], model.velocity(latents[i : i + 1], 0.4, context)) < 2e-6
    guided = model.velocity(latents, 0.4, TextContext.join([negative] * 3 + [first, second, second]))
    assert apart(guided[3:], together) < 2e-6
    assert apart(guided[:3], together) > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("repeats", [1, 2])
@torch.no_grad()
def test_a_time_for_each_sample_equals_separate_calls(variant, repeats):
    model = randomised(VARIANTS[variant])
    latents, times = torch.randn(3, 8, 3, 5), torch.tensor([0.95, 0.5, 0.03])
    guidance = 3.0 if model.config.guidance_embed else None
    contexts = one_each(model, [1, 4, 2, 7, 3, 6][: 3 * repeats])
    together = model.velocity(latents, times, TextContext.join(contexts), guidance)
    assert together.shape == (3 * repeats, 8, 3, 5)
    for i, context in enumerate(contexts):
        own = latents[i % 3 : i % 3 + 1]
        alone = model.velocity(own, times[i % 3].item(), context, guidance)
        assert apart(together[i : i + 1], alone) < 5e-6
    shared = model.velocity(latents, 0.5, TextContext.join(contexts), guidance)
    assert apart(shared, together) > 1e-2


@torch.no_grad()
def test_with_a_time_each_the_first_attention_is_still_computed_once_for_both_prompts():
    model = randomised(PLAIN)
    seen = []
    for block in model.blocks:
        attend = block.attn.add_
        block.attn.add_ = lambda x, *rest, attend=attend: (seen.append(len(x)), attend(x, *rest))
    contexts = one_each(model, [1, 1, 4, 5])
    model.velocity(torch.randn(2, 8, 4, 4), torch.tensor([0.9, 0.1]), TextContext.join(contexts))
    assert seen == [2, 4]

"""Adapters on a whole transformer, in both ways through it, against the same with other weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from sanakit.adapters.adapter import Adapter
from sanakit.adapters.attach import AdapterSet, Use, check_recorded, recorded
from sanakit.adapters.layer import Adapted, AdaptedLatents
from sanakit.adapters.names import products
from sanakit.errors import SettingsError
from sanakit.models import layers
from sanakit.models.sana import Sana, SanaConfig
from sanakit.quant.layer import Quantized
from sanakit.quant.plans import PLANS
from sanakit.quant.quantize import dequantize, quantize
from sanakit.weights import save_diffusers
from sanakit.weights.save import diffusers_state, save_official
from tests.adapters.loras import (
    SANA,
    SPLIT,
    apart,
    became,
    inputs,
    lora,
    sampled_way,
    trained_way,
    transformer,
)

VARIANTS = {
    "sana": SANA,
    "sana-1.5": replace(SANA, qk_norm=True),
    "sprint": replace(SANA, qk_norm=True, guidance_embed=True, time_scale=1.0),
    "4k": replace(SANA, position_interpolation=2.0),
}
TOLERANCE = 1e-5  # of the largest number: float32 sums in another order
both_ways = pytest.mark.parametrize("way", [trained_way, sampled_way])


def attached(model: Sana, *weighed: tuple[Adapter, float]) -> AdapterSet:
    adapters = AdapterSet(model)
    for number, (adapter, weight) in enumerate(weighed):
        adapters.add(adapter, f"a{number}", weight)
    return adapters


@both_ways
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_product_takes_an_adapter(variant: str, way) -> None:
    """All at once: embedders, time, guidance, text, blocks and the last layer."""
    config: SanaConfig = VARIANTS[variant]
    model, adapter = transformer(config), lora(config=config)
    before = way(model)
    wanted = way(became(model, (adapter, 1.0)))
    attached(model, (adapter, 1.0))
    assert apart(before, wanted) > 0.05
    assert apart(way(model), wanted) < TOLERANCE


@both_ways
@pytest.mark.parametrize("module", products(VARIANTS["sprint"]))
def test_each_product_alone_matters(module: str, way) -> None:
    config = VARIANTS["sprint"]
    model, adapter = transformer(config), lora([module], config)
    before, wanted = way(model), way(became(model, (adapter, 1.0)))
    attached(model, (adapter, 1.0))
    assert apart(before, wanted) > 1e-4, "the oracle itself changes nothing"
    assert apart(way(model), wanted) < TOLERANCE


@pytest.mark.parametrize("values", [1, 3000])
def test_bands_of_tokens_are_changed_alike(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where keys and values of a band are computed without its queries."""
    model = transformer()
    attached(model, (lora(), 1.0))
    whole = sampled_way(model)
    monkeypatch.setattr(layers, "_BAND_VALUES", values)
    assert apart(sampled_way(model), whole) < TOLERANCE


@both_ways
@pytest.mark.parametrize("dora", [False, True])
def test_several_are_summed_with_weights_of_any_sign(dora: bool, way) -> None:
    model = transformer()
    weighed = (
        (lora(SPLIT, seed=1, dora=dora), 0.5),
        (lora(["blocks.0.attn.qkv", "blocks.1.mlp.point_conv.conv"], rank=7, alpha=4.0, seed=2), -1.25),
        (lora(seed=3, dora=dora, spread=0.05), 0.8),
    )
    wanted = way(became(model, *weighed))
    adapters = attached(model, *((adapter, 1.0) for adapter, _ in weighed))
    assert apart(way(model), wanted) > 0.01
    adapters.weigh({"a0": 0.5, "a1": -1.25, "a2": 0.8})
    assert adapters.weights == {"a0": 0.5, "a1": -1.25, "a2": 0.8}
    assert apart(way(model), wanted) < TOLERANCE


def test_an_adapter_that_is_not_named_is_turned_off() -> None:
    model = transformer()
    only = sampled_way(became(model, (lora(seed=2), 0.5)))
    adapters = attached(model, (lora(seed=1), 1.0), (lora(seed=2), 1.0))
    adapters.weigh({"a1": 0.5})
    assert adapters.weights == {"a0": 0.0, "a1": 0.5}
    assert apart(sampled_way(model), only) < TOLERANCE


@both_ways
@pytest.mark.parametrize("plan", [None, "int8", "nf4"])
def test_weight_0_and_removal_are_the_base_bit_for_bit(plan: str | None, way) -> None:
    model = transformer()
    if plan is not None:
        quantize(model, PLANS[plan])
    before, own = way(model), dict(model.named_modules())
    adapters = attached(model, (lora(seed=1), 0.0), (lora(seed=2, dora=True), 1.0))
    assert not torch.equal(way(model), before)
    adapters.weigh({})
    assert torch.equal(way(model), before)
    adapters.remove(["a0"])
    assert torch.equal(way(model), before)
    adapters.remove(["a1"])
    assert torch.equal(way(model), before)
    assert dict(model.named_modules()) == own  # the very layers
    assert adapters.weights == {}
    assert adapters.bytes == 0


@pytest.mark.parametrize("plan", ["int4", "nf4", "int8"])
def test_quantising_under_adapters_takes_the_layers_that_it_takes_without(plan: str) -> None:
    before, after = transformer(), transformer()
    quantize(before, PLANS[plan])
    attached(before, (lora(), 0.7))
    attached(after, (lora(), 0.7))
    quantize(after, PLANS[plan])
    kinds = [{name: type(one) for name, one in model.named_modules()} for model in (before, after)]
    assert kinds[0] == kinds[1]
    assert torch.equal(sampled_way(before), sampled_way(after))
    dequantize(after, transformer())
    assert not any(isinstance(one, Quantized) for one in after.modules())


def test_removing_one_leaves_the_others() -> None:
    model = transformer()
    wanted = sampled_way(became(model, (lora(SPLIT, seed=2), 0.5)))
    adapters = attached(model, (lora(seed=1), 1.0), (lora(SPLIT, seed=2), 0.5))
    adapters.remove(["a0"])
    assert apart(sampled_way(model), wanted) < TOLERANCE
    assert not any("x_embedder" in path for path, _ in adapters.parts("a1"))
    assert not isinstance(model.x_embedder, AdaptedLatents)


@both_ways
def test_merged_equals_apart(way) -> None:
    model = transformer()
    adapters = attached(model, (lora(SPLIT, seed=1, dora=True), 0.5), (lora(seed=2), -1.0), (lora(seed=3), 0))
    own, apart_of_it = set(model.state_dict()), way(model)
    assert adapters.merge() == []
    assert apart(way(model), apart_of_it) < TOLERANCE
    assert set(model.state_dict()) == set(transformer().state_dict()) != own
    assert not any(isinstance(layer, Adapted | AdaptedLatents) for layer in model.modules())
    assert adapters.weights == {}
    assert [(use.name, use.weight) for use in adapters.uses] == [("a0", 0.5), ("a1", -1.0)]


def test_merging_into_mapped_16_bit_weights_keeps_float32() -> None:
    """A delta below the step of bfloat16 must not be lost where the model computes in float32."""
    model = transformer()
    for layer in model.modules():
        if isinstance(layer, layers.Linear):
            layer.weight.data = layer.weight.data.bfloat16()
    small = lora(["blocks.0.attn.qkv"], spread=1e-2)
    adapters = attached(model, (small, 1.0))
    base = model.get_parameter("blocks.0.attn.qkv.base.weight").double()
    adapters.merge()
    merged = model.get_parameter("blocks.0.attn.qkv.weight")
    assert merged.dtype == torch.float32
    delta = small.parts[0].scale * small.parts[0].up.double() @ small.parts[0].down.double()
    assert apart(merged.double() - base, delta) < 1e-3


def test_merging_into_few_bits_rounds_again_and_says_so() -> None:
    model, adapter = transformer(), lora(["blocks.0.attn.qkv", "final_layer.linear"], spread=0.5)
    quantize(model, PLANS["int8-weight"])
    base = model.get_submodule("blocks.0.attn.qkv")
    assert isinstance(base, Quantized)
    wanted = base.dequantized().double()
    wanted += adapter.parts[0].scale * adapter.parts[0].up.double() @ adapter.parts[0].down.double()
    notes = attached(model, (adapter, 1.0)).merge()
    assert len(notes) == 1
    assert "1 of the 2 changed layers are quantised" in notes[0]
    merged = model.get_submodule("blocks.0.attn.qkv")
    assert type(merged) is type(base)
    steps = merged.scale[:, None].double()
    assert ((merged.dequantized().double() - wanted).abs() <= 0.5001 * steps).all()
    assert not isinstance(model.get_submodule("final_layer.linear"), Quantized)


def test_prompts_are_prepared_with_the_adapters_of_then() -> None:
    model = transformer()
    prompt = torch.randn(4, SANA.text_width)
    before = model.prepare([prompt])
    adapters = attached(model, (lora(["transformer_blocks.1.attn2.to_v"]), 1.0))
    after = model.prepare([prompt])
    assert torch.equal(after.layers[1][0].key, before.layers[1][0].key)
    assert not torch.equal(after.layers[1][0].value, before.layers[1][0].value)
    adapters.remove(["a0"])
    assert torch.equal(model.prepare([prompt]).layers[1][0].value, before.layers[1][0].value)


@pytest.mark.parametrize("plan", [None, "int8", "nf4"])
def test_an_adapter_learns_over_a_frozen_base(plan: str | None) -> None:
    """A and B get gradients in float32, nothing else does, and a step of them lowers the loss."""
    model = transformer()
    if plan is not None:
        quantize(model, PLANS[plan])
    target = trained_way(became(transformer(), (lora(SPLIT, seed=9), 1.0)))
    start = lora(SPLIT, seed=4)
    for part in start.parts:
        part.up.zero_()
    adapters = attached(model, (start.to(torch.float32), 1.0))
    learned = [p.requires_grad_() for _, part in adapters.parts("a0") for p in part.parameters()]
    assert len(learned) == 2 * len(SPLIT)
    losses = []
    optimiser = torch.optim.SGD(learned, lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        loss = (trained_way(model) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert all(parameter.grad is not None for parameter in learned)
    assert [
        p for p in model.parameters() if p.grad is not None and not any(p is one for one in learned)
    ] == []


def test_a_model_with_adapters_is_not_written_as_if_it_had_none(tmp_path) -> None:
    model = transformer()
    adapters = attached(model, (lora(SPLIT), 1.0))
    with pytest.raises(SettingsError, match="merge them"):
        diffusers_state(model)
    with pytest.raises(SettingsError, match="merge them"):
        save_official(tmp_path / "a.pth", model)
    with pytest.raises(SettingsError, match="merge them"):
        save_diffusers(tmp_path, transformer=model, autoencoder=None, text_encoder=None, plan="int8")  # pyright: ignore
    adapters.merge()
    assert len(diffusers_state(model)) > len(model.state_dict())


def test_names_and_weights_are_checked() -> None:
    adapters = attached(transformer(), (lora(), 1.0))
    with pytest.raises(SettingsError, match="is loaded already"):
        adapters.add(lora(), "a0")
    with pytest.raises(SettingsError, match=r"The adapter 'b' is not loaded; there are: a0"):
        adapters.weigh({"b": 1.0})
    with pytest.raises(SettingsError, match="The adapter 'b' is not loaded"):
        adapters.remove(["b"])
    for weight in (float("nan"), float("inf"), "1", True, 1e9, None):
        with pytest.raises(SettingsError, match="must be a number from -100 to 100"):
            adapters.weigh({"a0": weight})  # pyright: ignore[reportArgumentType]
    assert adapters.weights == {"a0": 1.0}
    for name in ("", "a" * 300, 3):
        with pytest.raises(SettingsError, match="name must be a text"):
            adapters.add(lora(), name)  # pyright: ignore[reportArgumentType]


def test_a_compiled_model_keeps_its_adapters() -> None:
    model = transformer()
    adapters = attached(model, (lora(), 1.0))
    model.blocks[0].sample = copy.copy(model.blocks[0].sample)  # as compile_sampling puts it there
    for change in (
        lambda: adapters.add(lora(), "b"),
        lambda: adapters.weigh({}),
        lambda: adapters.remove(["a0"]),
        adapters.merge,
    ):
        with pytest.raises(SettingsError, match="keeps the adapters that it was compiled with"):
            change()
    adapters.weigh({"a0": 1.0})  # nothing changes


def test_a_record_says_which_file_draws_an_image_again() -> None:
    style = Use(name="a", file="style.safetensors", weight=0.5, fingerprint="c0ffee" * 10)
    text = recorded([style])
    assert recorded([]) == ""
    check_recorded(None, "")
    check_recorded(text, recorded([replace(style, name="other")]))
    with pytest.raises(
        SettingsError, match=r"style.safetensors at a weight of 0.5 \(fingerprint c0ffeec0ffee\)"
    ):
        check_recorded(text, "")
    with pytest.raises(SettingsError, match=r"style.safetensors at a weight of 0.5"):
        check_recorded(text, recorded([replace(style, weight=0.6)]))
    with pytest.raises(SettingsError, match=r"without the adapter style.safetensors"):
        check_recorded("", text)
    for damaged in ("nonsense", "[1]", "[{}]", '{"a": 1}', "[" * 10_000, 3):
        with pytest.raises(SettingsError, match="not a record of adapters"):
            check_recorded(damaged, text)


def test_inputs_hold_a_prompt_of_one_token() -> None:
    """The one-token prompt goes another way: its value times the output projection, once for all steps."""
    assert inputs()["mask"].sum(1).tolist() == [5, 1]

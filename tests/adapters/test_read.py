"""Adapters of many trainers read from files: each as it should be, or refused in a sentence, never silent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.adapters.adapter import Adapter
from sanakit.adapters.names import Place, spellings
from sanakit.adapters.read import AdapterFile
from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.models.sana import SANA_600M, SANA_1600M, SanaConfig
from tests.adapters.loras import SANA, written

NAMES = spellings(SANA)
Q, OUT, CONV, FUSED = (
    "transformer_blocks.0.attn1.to_q",
    "transformer_blocks.1.attn2.to_out.0",
    "transformer_blocks.0.ff.conv_inverted",
    "blocks.1.cross_attn.kv_linear",
)
R = 4


def matrices(
    modules: list[str], rank: int = R, config: SanaConfig = SANA
) -> dict[str, tuple[Tensor, Tensor]]:
    """Down and up of modules, in either spelling."""
    generator, names = torch.Generator().manual_seed(3), spellings(config)
    found = {}
    for module in modules:
        place = names[module]
        down = torch.randn(rank, place.inputs, generator=generator)
        found[module] = (down, torch.randn(place.stop - place.start, rank, generator=generator))
    return found


def deltas(adapter: Adapter) -> dict[Place, Tensor]:
    return {part.place: part.scale * part.up.double() @ part.down.double() for part in adapter.parts}


def check(adapter: Adapter, wanted: dict[str, tuple[Tensor, Tensor]], scale: float = 1.0) -> None:
    """The adapter is scale * up @ down of each module, and nothing else."""
    found = deltas(adapter)
    assert set(found) == {NAMES[module] for module in wanted}
    for module, (down, up) in wanted.items():
        torch.testing.assert_close(found[NAMES[module]], scale * up.double() @ down.double())


Spell = Callable[[str], tuple[str, str]]
# Name of a layout -> how it spells down and up of a module.
LAYOUTS: dict[str, Spell] = {
    "diffusers": lambda m: (f"transformer.{m}.lora_A.weight", f"transformer.{m}.lora_B.weight"),
    "no prefix": lambda m: (f"{m}.lora_A.weight", f"{m}.lora_B.weight"),
    "peft": lambda m: (f"base_model.model.{m}.lora_A.weight", f"base_model.model.{m}.lora_B.weight"),
    "peft, raw": lambda m: (f"{m}.lora_A.default.weight", f"{m}.lora_B.default.weight"),
    "ComfyUI": lambda m: (f"diffusion_model.{m}.lora_A.weight", f"diffusion_model.{m}.lora_B.weight"),
    "older diffusers": lambda m: (f"transformer.{m}.lora.down.weight", f"transformer.{m}.lora.up.weight"),
    "dotted Kohya": lambda m: (f"transformer.{m}.lora_down.weight", f"transformer.{m}.lora_up.weight"),
    "Kohya": lambda m: tuple(f"lora_unet_{m.replace('.', '_')}.lora_{x}.weight" for x in ("down", "up")),
    "OneTrainer": lambda m: tuple(
        f"lora_transformer_{m.replace('.', '_')}.lora_{x}.weight" for x in ("down", "up")
    ),
    "LyCORIS": lambda m: tuple(f"lycoris_{m.replace('.', '_')}.lora_{x}.weight" for x in ("down", "up")),
}


def spelled(layout: str, wanted: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    tensors = {}
    for module, pair in wanted.items():
        tensors |= dict(zip(LAYOUTS[layout](module), pair, strict=True))
    return tensors


def read(path: Path) -> Adapter:
    return AdapterFile(path).read(SANA)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_adapter(layout: str, tmp_path: Path) -> None:
    wanted = matrices([Q, OUT, CONV, FUSED, "blocks.0.attn.proj", "x_embedder.proj", "proj_out"])
    adapter = read(written(tmp_path / "a.safetensors", spelled(layout, wanted)))
    check(adapter, wanted)
    assert adapter.file == "a.safetensors"
    assert adapter.notes == ()


def test_processors_of_early_diffusers_are_read(tmp_path: Path) -> None:
    wanted = matrices([Q])
    stem = "transformer.transformer_blocks.0.attn1.processor.to_q_lora"
    down, up = wanted[Q]
    check(
        read(written(tmp_path / "a.safetensors", {f"{stem}.down.weight": down, f"{stem}.up.weight": up})),
        wanted,
    )


@pytest.mark.parametrize("key", ["alpha", "lora_alpha"])
@pytest.mark.parametrize("layout", ["Kohya", "OneTrainer", "LyCORIS", "dotted Kohya", "no prefix"])
def test_an_alpha_of_its_own_scales_a_layer(layout: str, key: str, tmp_path: Path) -> None:
    wanted = matrices([Q, CONV])
    tensors = spelled(layout, wanted)
    for name in list(tensors):
        tensors[f"{name.split('.lora_')[0]}.{key}"] = torch.tensor(2.0)
    check(read(written(tmp_path / "a.safetensors", tensors)), wanted, scale=2 / R)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (None, 1.0),
        ({"r": R}, 1.0),
        ({"r": R, "lora_alpha": 8}, 2.0),
        ({"r": R, "lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(R)),
        ({"r": R, "lora_alpha": 8, "target_modules": ["to_k"]}, 2.0),  # the tensors decide
        ({"r": 16, "lora_alpha": 8, "rank_pattern": {Q: R}}, 2.0),
        ({"r": R, "lora_alpha": 8, "a_key_of_a_later_peft": {"x": 1}}, 2.0),
        ({"r": R, "lora_alpha": 1, "alpha_pattern": {"to_q": 8}}, 2.0),
        ({"r": R, "lora_alpha": 1, "alpha_pattern": {"attn1.to_q": 8, "to_q": 3}}, 2.0),
    ],
)
def test_the_header_tells_the_scale(config: dict | None, scale: float, tmp_path: Path) -> None:
    wanted = matrices([Q])
    check(read(written(tmp_path / "a.safetensors", spelled("diffusers", wanted), config)), wanted, scale)


def test_an_alpha_of_one_name_is_not_that_of_a_longer_one(tmp_path: Path) -> None:
    modules = ["transformer_blocks.0.attn1.to_q", "transformer_blocks.1.attn1.to_q"]
    config = {"r": R, "lora_alpha": R, "alpha_pattern": {modules[1]: 2 * R, "o_q": 7}}
    wanted = matrices(modules)
    adapter = read(written(tmp_path / "a.safetensors", spelled("diffusers", wanted), config))
    assert [part.scale for part in adapter.parts] == [1.0, 2.0]


def test_peft_settings_lie_beside_its_own_file(tmp_path: Path) -> None:
    wanted = matrices(["blocks.0.attn.qkv", FUSED])
    written(tmp_path / "adapter_model.safetensors", spelled("peft", wanted))
    check(read(tmp_path), wanted)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": R, "lora_alpha": 12}))
    check(read(tmp_path), wanted, scale=3.0)
    check(read(tmp_path / "adapter_model.safetensors"), wanted, scale=3.0)


def test_fused_and_split_are_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """Fused: A stacked, B in blocks along the diagonal, alpha three times as large."""
    parts = matrices([f"transformer_blocks.0.attn1.to_{one}" for one in "qkv"])
    split = written(tmp_path / "split.safetensors", spelled("diffusers", parts), {"r": R, "lora_alpha": 2})
    down = torch.cat([pair[0] for pair in parts.values()])
    up = torch.block_diag(*(pair[1] for pair in parts.values()))
    tensors = spelled("diffusers", {"blocks.0.attn.qkv": (down, up)})
    fused = written(tmp_path / "fused.safetensors", tensors, {"r": 3 * R, "lora_alpha": 6})
    width = SANA.width
    whole = torch.zeros(3 * width, width, dtype=torch.float64)
    for place, delta in deltas(read(split)).items():
        whole[place.start : place.stop] += delta
    ((place, delta),) = deltas(read(fused)).items()
    assert (place.start, place.stop) == (0, 3 * width)
    assert torch.equal(delta, whole)


def test_ranks_may_differ_and_convolutions_have_four_axes(tmp_path: Path) -> None:
    wanted = matrices([Q], rank=2) | matrices([CONV, "patch_embed.proj"], rank=7)
    tensors = spelled("diffusers", wanted)
    tensors = {n: t if Q in n else t[:, :, None, None] for n, t in tensors.items()}
    check(read(written(tmp_path / "a.safetensors", tensors)), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_keep_their_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    wanted = {name: (down.to(dtype), up.to(dtype)) for name, (down, up) in matrices([Q, FUSED]).items()}
    adapter = read(written(tmp_path / "a.safetensors", spelled("no prefix", wanted)))
    assert {tensor.dtype for tensor in adapter.tensors()} == {dtype}
    check(adapter, wanted)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("lora_magnitude_vector", (-1,)),
        ("lora_magnitude_vector.weight", (-1,)),
        ("lora_magnitude_vector", (1, -1, 1, 1)),
        ("dora_scale", (-1, 1)),
        ("dora_scale", (-1, 1, 1, 1)),
    ],
)
def test_magnitudes_of_dora_are_read(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    wanted, magnitude = matrices([Q]), torch.rand(SANA.width)
    tensors = spelled("no prefix", wanted) | {f"{Q}.{key}": magnitude.reshape(shape)}
    (part,) = read(written(tmp_path / "a.safetensors", tensors)).parts
    assert part.magnitude is not None
    assert torch.equal(part.magnitude, magnitude)


def test_what_is_of_the_text_encoder_is_told(tmp_path: Path) -> None:
    wanted = matrices([Q])
    more = {"text_encoder.layers.0.q.lora_A.weight": torch.ones(2, 2), "bundle_emb.cat.x": torch.ones(2)}
    adapter = read(written(tmp_path / "a.safetensors", spelled("diffusers", wanted) | more))
    check(adapter, wanted)
    assert len(adapter.notes) == 2
    assert "1 of its tensors are of the text encoder" in "".join(adapter.notes)
    assert "1 of its tensors are of embeddings trained for new words" in "".join(adapter.notes)


def refused(path: Path, config: SanaConfig = SANA) -> str:
    with pytest.raises(WeightsError) as error:
        AdapterFile(path).read(config)
    return str(error.value)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [("lokr_w1", "LoKr"), ("hada_w1_a", "LoHa"), ("oft_blocks", "OFT"), ("diff", "full differences")],
)
def test_other_kinds_of_adapters_are_refused_by_name(tensor: str, kind: str, tmp_path: Path) -> None:
    tensors = {f"lycoris_blocks_0_attn_qkv.{tensor}": torch.ones(2, 2)}
    assert f"({kind}" in refused(written(tmp_path / "a.safetensors", tensors))


def test_a_file_of_another_family_says_which(tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 8), f"{name}.lora_up.weight": torch.ones(8, 2)}
    said = refused(written(tmp_path / "a.safetensors", tensors))
    assert "0 of its 2 tensors have a place in it (2 blocks of width 64), 2 have none" in said
    assert f"{name}.lora_down.weight" in said
    assert "It seems to be for FLUX" in said


def test_a_file_that_fits_in_part_is_refused_with_what_fits(tmp_path: Path) -> None:
    wanted = matrices([Q])
    strange = {f"transformer.transformer_blocks.7.attn1.to_q.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    said = refused(written(tmp_path / "a.safetensors", spelled("diffusers", wanted) | strange))
    assert "2 of its 4 tensors have a place" in said
    assert "transformer_blocks.7.attn1.to_q.lora_A.weight" in said
    assert "a SANA model of another size" in said


def test_a_file_of_another_size_says_which(tmp_path: Path) -> None:
    wanted = matrices([f"transformer_blocks.{n}.attn1.to_q" for n in range(20)], config=SANA_1600M)
    path = written(tmp_path / "a.safetensors", spelled("diffusers", wanted))
    said = refused(path)
    assert "18" not in said.split("tensors have a place")[0]
    assert "It fits Sana 1.6B and SANA-Sprint 1.6B" in said
    assert "Sana 1.6B" in refused(path, SANA_600M)
    file = AdapterFile(path)
    assert file.fits(SANA_1600M)
    assert not file.fits(SANA)
    assert file.released() == ["Sana 1.6B", "SANA-Sprint 1.6B"]


def test_a_file_for_the_first_blocks_of_a_larger_model_is_told(tmp_path: Path) -> None:
    deep = replace(SANA_1600M, depth=60)
    wanted = matrices([f"transformer_blocks.{n}.attn1.to_q" for n in range(20)], rank=1, config=SANA_1600M)
    adapter = AdapterFile(written(tmp_path / "a.safetensors", spelled("diffusers", wanted))).read(deep)
    assert len(adapter.notes) == 1
    assert "the first 20 of this model's 60 blocks" in adapter.notes[0]


def test_tensors_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    down, up = matrices([Q])[Q]
    stem, path = f"transformer.{Q}", tmp_path / "a.safetensors"
    a, b = f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"
    assert "without its partner" in refused(written(path, {a: down}))
    assert "without its partner" in refused(written(path, {a: down, f"{stem}.alpha": torch.tensor(1.0)}))
    assert "has the rank 4 and its partner 3" in refused(written(path, {a: down, b: up[:, :3]}))
    assert "needs (rank, 64)" in refused(written(path, {a: down[:, :9], b: up}))
    assert "needs (rank, 64)" in refused(written(path, {a: down[None], b: up}))
    assert "is not one number" in refused(written(path, {a: down, b: up, f"{stem}.alpha": torch.ones(2)}))
    assert "quantised by another tool" in refused(written(path, {a: down.to(torch.int8), b: up}))
    twice = {a: down, b: up, f"{Q}.lora_A.weight": down}
    assert "two tensors for one place" in refused(written(path, twice))
    fused = matrices(["blocks.0.attn.qkv"])
    both = {a: down, b: up} | spelled("no prefix", fused)
    assert "blocks.0.attn.qkv twice" in refused(written(path, both))
    rows = {f"{stem}.dora_scale": torch.ones(1, 64)}
    assert "one magnitude for each of 64 outputs" in refused(written(path, {a: down, b: up} | rows))
    assert "has no magnitude" in refused(written(path, {a: down, b: up}, {"use_dora": True}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    wanted = matrices([Q])
    wanted[Q][1][3, 1] = value
    assert "NaN or infinity" in refused(written(tmp_path / "a.safetensors", spelled("diffusers", wanted)))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "not an object of settings"),
        ('{"transformer.lora_alpha": "8"}', "has the alpha '8'"),
        ('{"transformer.lora_alpha": NaN}', "has the alpha nan"),
        ('{"transformer.lora_alpha": true}', "has the alpha True"),
        ('{"transformer.alpha_pattern": [1]}', "alpha_pattern is not an object"),
        ('{"transformer.alpha_pattern": {"to_q": null}}', "has the alpha None"),
        ('{"transformer.alpha_pattern": {"(a+)+$": 1}}', "no patterns"),
        ('{"transformer.peft_type": "LOHA"}', "another kind (LOHA)"),
    ],
)
def test_damaged_settings_are_refused(header: str, said: str, tmp_path: Path) -> None:
    tensors = spelled("diffusers", matrices([Q]))
    path = written(tmp_path / "a.safetensors", tensors, texts={"lora_adapter_metadata": header})
    assert said in refused(path)


def test_what_is_not_an_adapter_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "model.safetensors", {"blocks.0.attn.qkv.weight": torch.ones(2, 2)})
    assert "is not a LoRA: it holds blocks.0.attn.qkv.weight" in refused(whole)
    pickled = tmp_path / "a.pth"
    torch.save({"a": torch.ones(1)}, pickled)
    assert "pickle" in refused(pickled)
    named = tmp_path / "named.safetensors"
    pickled.rename(named)
    assert "pickle" in refused(named)
    (tmp_path / "empty").mkdir()
    assert "has neither" in refused(tmp_path / "empty")
    with pytest.raises(ModelNotFoundError, match=r"No adapter lies at 'nowhere.safetensors'"):
        AdapterFile("nowhere.safetensors")
    told = {"text_encoder.layers.0.q.lora_A.weight": torch.ones(2, 2)}
    assert "changes nothing in the transformer" in refused(written(tmp_path / "te.safetensors", told))


def test_the_fingerprint_knows_tensors_and_scale_but_not_the_name(tmp_path: Path) -> None:
    tensors = spelled("diffusers", matrices([Q]))

    def fingerprint(name: str, values: dict[str, Tensor], config: dict | None) -> str:
        return AdapterFile(written(tmp_path / name, values, config)).fingerprint

    first = fingerprint("a.safetensors", tensors, {"lora_alpha": 4})
    assert first == fingerprint("b.safetensors", tensors, {"lora_alpha": 4})
    assert first != fingerprint("a.safetensors", tensors, {"lora_alpha": 8})
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    next(iter(changed.values()))[2, 17] += 1e-3  # a single value, which samples would miss
    assert first != fingerprint("a.safetensors", changed, {"lora_alpha": 4})


def test_the_file_may_change_after_reading(tmp_path: Path) -> None:
    wanted = matrices([Q])
    path = written(tmp_path / "a.safetensors", spelled("diffusers", wanted))
    adapter = read(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 64)
        file.write(b"\xff" * 64)
    check(adapter, wanted)

"""Strict loading: equal numbers, right dtype, no copies; misfits refused by name; nothing bad is run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanakit.errors import ModelNotFoundError, PrecisionError, SettingsError, WeightsError
from sanakit.models.sana import SANA_600M, SANA_1600M, Sana
from sanakit.weights import describe, load_autoencoder, load_text_encoder, load_transformer, save_official
from sanakit.weights.layouts.diffusers import write_sana_config
from sanakit.weights.read.header import write_safetensors
from sanakit.weights.save import diffusers_state

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def rewrite(folder: Path, change) -> None:
    state = load_file(folder / WEIGHTS)
    state = {name: tensor.clone() for name, tensor in state.items()}
    change(state)
    save_file(state, folder / WEIGHTS)


@torch.no_grad()
def test_all_parts_come_back_bit_for_bit(tiny):
    pairs = [
        (load_transformer(tiny.folder), tiny.transformer),
        (load_autoencoder(tiny.folder), tiny.autoencoder),
        (load_text_encoder(tiny.folder).model, tiny.text_encoder.model),
    ]
    for loaded, original in pairs:
        assert list(loaded.state_dict()) == list(original.state_dict())
        for name, tensor in original.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert not any(parameter.is_meta for parameter in loaded.parameters())
        assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_text_encoder_brings_its_own_tokenizer_and_instruction(tiny):
    loaded = load_text_encoder(tiny.folder)
    assert (loaded.instruction, loaded.max_tokens) == ("Draw this: ", 20)
    ours, theirs = loaded.encode(["two red foxes"])[0], tiny.text_encoder.encode(["two red foxes"])[0]
    assert torch.equal(ours, theirs)


def test_unchanged_tensors_stay_mapped_to_their_file(tiny):
    loaded = load_transformer(tiny.folder)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list its mappings")
    assert str(tiny.folder / WEIGHTS) in maps.read_text()
    assert loaded.final_layer.linear.weight.dtype == torch.float32


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_half_an_autoencoder_reads_half(tiny, part):
    half = load_autoencoder(tiny.folder, part=part)
    assert all(name.startswith(part) for name in half.state_dict())
    with pytest.raises(SettingsError, match="'both', 'encoder' or 'decoder'"):
        load_autoencoder(tiny.folder, part="middle")


def test_a_single_safetensors_file_loads_with_the_config_beside_it(tiny):
    loaded = load_transformer(tiny.folder / WEIGHTS)
    assert loaded.config == tiny.transformer.config


def test_shards_load_as_one_and_a_missing_shard_is_named(tiny):
    from diffusers import SanaTransformer2DModel

    theirs = SanaTransformer2DModel.from_pretrained(tiny.folder / "transformer")
    (tiny.folder / WEIGHTS).unlink()
    theirs.save_pretrained(tiny.folder / "transformer", max_shard_size="100KB")
    shards = sorted((tiny.folder / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    loaded = load_transformer(tiny.folder)
    for name, tensor in tiny.transformer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    shards[1].unlink()
    with pytest.raises(WeightsError, match=r"of the .* shards"):
        load_transformer(tiny.folder)


def test_a_variant_is_found_where_it_is_all_there_is(tiny):
    folder = tiny.folder / "transformer"
    (tiny.folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert load_transformer(tiny.folder).config.depth == 2


def test_half_precision_storage_computes_in_float32_on_a_cpu(tiny):
    def halve(state):
        state |= {name: tensor.half() for name, tensor in state.items()}

    rewrite(tiny.folder, halve)
    loaded = load_transformer(tiny.folder)
    for name, tensor in tiny.transformer.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], tensor.half().float()), name


def test_the_models_precision_rule_is_kept(tiny):
    ours = tiny.folder / "sanakit.json"
    ours.write_text(json.dumps(json.loads(ours.read_text()) | {"precision": "float16"}))
    with pytest.raises(PrecisionError, match="trained for float16"):
        load_transformer(tiny.folder, dtype=torch.bfloat16)
    assert load_transformer(tiny.folder, dtype=torch.float32).config.depth == 2
    with pytest.raises(PrecisionError, match="Gemma 2"):
        load_text_encoder(tiny.folder, dtype=torch.float16)


class Bomb:
    """Would leave a trace if any loader ran it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def damage_empty(path: Path, good: bytes) -> None:
    path.write_bytes(b"")


def damage_junk(path: Path, good: bytes) -> None:
    path.write_bytes(bytes(range(256)) * 8)


def damage_truncated(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) * 2 // 3])


def damage_header_only(path: Path, good: bytes) -> None:
    path.write_bytes(good[:40])


def damage_text(path: Path, good: bytes) -> None:
    path.write_text("these are not the weights you are looking for\n")


def damage_html(path: Path, good: bytes) -> None:
    path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")


def damage_lfs(path: Path, good: bytes) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")


def damage_bomb(path: Path, good: bytes) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Bomb(path.with_suffix(".exploded"))}))


def damage_zipped_bomb(path: Path, good: bytes) -> None:
    torch.save({"state_dict": {"x": Bomb(path.with_suffix(".exploded"))}}, path)


def damage_number(path: Path, good: bytes) -> None:
    torch.save(7, path)


def damage_foreign(path: Path, good: bytes) -> None:
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7), "bn1.bias": torch.zeros(8)}, path)


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__.removeprefix("damage_"))
def test_a_damaged_file_gives_one_sentence_with_a_remedy_and_runs_nothing(tiny, tmp_path, suffix, damage):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        save_official(path, tiny.transformer)
    else:
        path.write_bytes((tiny.folder / WEIGHTS).read_bytes())
    damage(path, path.read_bytes())
    for load in (load_transformer, load_autoencoder, load_text_encoder):
        with pytest.raises(WeightsError) as caught:
            load(path)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        remedies = ("Download or export it again", "use a", "Ask its author", "git lfs pull")
        assert any(remedy in message for remedy in remedies), message
    assert not path.with_suffix(".exploded").exists()


def test_a_header_whose_offsets_and_shapes_differ_is_refused(tiny):
    good = (tiny.folder / WEIGHTS).read_bytes()
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    first = next(entry for name, entry in header.items() if name != "__metadata__")
    first["data_offsets"][0] += 4
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    (tiny.folder / WEIGHTS).write_bytes(good[:8] + text + good[8 + length :])
    with pytest.raises(WeightsError, match="damaged safetensors header"):
        load_transformer(tiny.folder)


@pytest.mark.parametrize(
    "damage", [damage_empty, damage_text, damage_truncated, damage_bomb], ids=lambda f: f.__name__
)
def test_a_damaged_file_inside_a_folder_is_refused(tiny, damage):
    for name in (WEIGHTS, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        damage(tiny.folder / name, (tiny.folder / name).read_bytes())
    for load in (load_transformer, load_autoencoder, load_text_encoder):
        with pytest.raises(WeightsError, match="Download or export it again"):
            load(tiny.folder)


@pytest.mark.parametrize("name", ["model_index.json", "transformer/config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "\x00\x01", None])
def test_a_damaged_json_is_refused(tiny, name, content):
    path = tiny.folder / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(WeightsError, match=r"\.json"):
        load_transformer(tiny.folder)


def test_a_pickled_component_is_refused_unopened(tiny):
    file = tiny.folder / WEIGHTS
    damage_bomb(file.with_name("diffusion_pytorch_model.bin"), b"")
    file.unlink()
    with pytest.raises(WeightsError, match="can run code when opened"):
        load_transformer(tiny.folder)
    assert not list(file.parent.glob("*.exploded"))


def test_foreign_folders_are_named_for_what_they_are(tiny, tmp_path):
    index = json.loads((tiny.folder / "model_index.json").read_text())
    (tiny.folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(WeightsError, match="is a FluxPipeline, not a SANA model"):
        load_transformer(tiny.folder)
    with pytest.raises(WeightsError, match=r"no model_index\.json"):
        load_transformer(tmp_path)
    with pytest.raises(WeightsError, match="holds a AutoencoderDC, not the SanaTransformer2DModel"):
        load_transformer(tiny.folder / "vae")


def test_a_lora_file_is_called_a_lora(tmp_path):
    save_file({"transformer.blocks.0.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match="holds a LoRA"):
        load_transformer(tmp_path / "lora.safetensors")


@pytest.mark.parametrize(
    "name",
    ["./nothing", "/nothing/here", "~/nothing.pth", "nothing.safetensors", "x" * 5000, "", "a\x00b", "a b/c"],
)
def test_what_is_not_there_is_not_found(name):
    with pytest.raises((ModelNotFoundError, WeightsError)):
        load_transformer(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "parameters", "name"),
    [(SANA_600M, 591_747_872, "Sana 0.6B"), (SANA_1600M, 1_604_462_752, "Sana 1.6B")],
    ids=["0.6B", "1.6B"],
)
@torch.no_grad()
def test_a_full_size_model_goes_through_both_layouts(config, parameters, name, tmp_path):
    """At most two copies in memory and two on the disk at a time: 13 GB each for 1.6B."""
    from diffusers import SanaTransformer2DModel

    model = Sana(config).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    latents, t = torch.randn(1, 32, 4, 4), torch.tensor([0.6])
    text, mask = torch.randn(1, 3, 2304), torch.ones(1, 3, dtype=torch.bool)
    expected = model(latents, t, text, mask)

    def check(path: Path, model: Sana) -> None:
        loaded = load_transformer(path)
        assert loaded.config == config
        for ours, original in zip(loaded.state_dict().items(), model.state_dict().items(), strict=True):
            assert ours[0] == original[0]
            assert torch.equal(ours[1], original[1]), (path, ours[0])
        # Not bit for bit: where a file's tensors lie in memory decides which matrix kernel runs.
        assert (loaded(latents, t, text, mask) - expected).abs().max() <= 2e-5 * expected.abs().max()

    pth = tmp_path / "model.pth"
    torch.save({"state_dict": model.state_dict()}, pth)  # as published: without our config beside it
    check(pth, model)
    part = describe(pth).parts[0]
    assert (part.size, part.parameters, part.missing, part.unexpected) == (name, parameters, (), ())
    save_official(pth, model)
    check(pth, model)
    pth.unlink()
    (tmp_path / "config.json").write_text(json.dumps(write_sana_config(config)))
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    write_safetensors(file, diffusers_state(model), torch.float32)
    check(tmp_path, model)
    check(file, model)
    del model
    theirs = SanaTransformer2DModel.from_pretrained(tmp_path)
    velocity = theirs(latents, text, t * 1000, encoder_attention_mask=mask.long(), return_dict=False)[0]
    assert (velocity - expected).abs().max() <= 2e-5 * expected.abs().max()
    del theirs
    state = load_file(file)
    del state["proj_out.bias"]
    save_file(state | {"extra": torch.zeros(1)}, tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=r"proj_out\.bias"):
        load_transformer(tmp_path / "broken.safetensors")


@torch.no_grad()
def test_a_stored_prefix_is_of_one_quantisation_plan(tiny, monkeypatch):
    """Keys and values that exact layers made are not read by quantised ones, nor the other way."""
    monkeypatch.setattr("sanakit.weights.load.KEEP_PREFIX_FROM", 0)
    place = tiny.folder / "text_encoder" / "instruction_cache.safetensors"
    features = {}
    for plan in (None, "int8-weight"):
        place.unlink(missing_ok=True)
        [features[plan]] = load_text_encoder(tiny.folder, plan=plan).encode(["a red apple"])
        assert place.is_file()
    assert not torch.equal(features[None], features["int8-weight"])
    for plan in (None, "int8-weight"):  # each now finds the other's file
        [found] = load_text_encoder(tiny.folder, plan=plan).encode(["a red apple"])
        assert torch.equal(found, features[plan])

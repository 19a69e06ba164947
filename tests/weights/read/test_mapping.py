"""Weights that stay in their file: numbers of a float32 copy, no memory of ours, pages given back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana
from sanakit.weights import (
    load_autoencoder,
    load_text_encoder,
    load_transformer,
    release,
    save_diffusers,
    save_official,
)
from sanakit.weights.layouts.fill import fill, widened
from sanakit.weights.read.files import TensorFiles
from sanakit.weights.read.header import write_safetensors
from sanakit.weights.read.mapping import release_tensors

TOLERANCE = 1e-6  # of the largest number: the same arithmetic, perhaps summed by another kernel
SMAPS = Path("/proc/self/smaps")
AROUND = 2**21  # bytes that the system may map around one that is touched
linux = pytest.mark.skipif(not SMAPS.exists(), reason="this system does not list its mappings")


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype == torch.float32
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


def mappings() -> list[tuple[int, int, str, int]]:
    """First and last address, file and resident bytes of all that is mapped."""
    entries = re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)\n(?:\w+:.*\n)*?Rss: +(\d+)", SMAPS.read_text(), re.M
    )
    return [(int(a, 16), int(b, 16), name, int(rss) * 1024) for a, b, name, rss in entries]


def file_behind(tensor: Tensor) -> str:
    return next(name for a, b, name, _ in mappings() if a <= tensor.data_ptr() < b)


def resident(path: Path) -> int:
    return sum(rss for _, _, name, rss in mappings() if name == str(path))


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def stored(request, tiny, tmp_path) -> Path:
    """The tiny model in 16 bits, written by us."""
    folder = tmp_path / "stored"
    parts = {name: getattr(tiny, name) for name in ("transformer", "autoencoder", "text_encoder")}
    return save_diffusers(folder, **parts, dtype=request.param)


def transformer_inputs(model: Sana) -> tuple:
    guidance = torch.tensor([4.5, 3.0]) if model.config.guidance_embed else None
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    return torch.randn(2, 8, 3, 5), torch.tensor([0.3, 0.9]), torch.randn(2, 5, 48), mask, guidance


def sampled(model: Sana, latents, t, text, mask, guidance) -> Tensor:
    context = model.prepare([row[kept] for row, kept in zip(text, mask, strict=True)])
    return model.velocity(latents, 0.4, context, 4.5 if guidance is not None else None)


@torch.no_grad()
def test_a_mapped_transformer_equals_its_float32_copy_both_ways(variant, tmp_path):
    path = save_official(tmp_path / "model.pth", variant, dtype="bfloat16")
    wide, mapped = load_transformer(path), load_transformer(path, mapped=True)
    inputs = transformer_inputs(wide)
    assert_equal(mapped(*inputs), wide(*inputs))
    assert_equal(sampled(mapped, *inputs), sampled(wide, *inputs))
    assert mapped.dtype == wide.dtype == torch.float32
    for (name, kept), (other, copy) in zip(
        mapped.state_dict().items(), wide.state_dict().items(), strict=True
    ):
        assert (name, kept.shape) == (other, copy.shape)
        assert torch.equal(kept.float(), copy), name
        big = kept.ndim >= 2 and "table" not in name and "depth_conv" not in name
        assert kept.dtype == (torch.bfloat16 if big else torch.float32), name


def test_a_mapped_transformer_has_the_gradients_of_its_float32_copy(stored):
    wide, mapped = load_transformer(stored), load_transformer(stored, mapped=True)
    latents, *others = transformer_inputs(wide)
    gradients = []
    for model in (wide, mapped):
        x = latents.clone().requires_grad_()
        model(x, *others).square().sum().backward()
        assert x.grad is not None
        gradients.append(x.grad)
    assert_equal(gradients[1], gradients[0])
    for (name, ours), theirs in zip(mapped.named_parameters(), wide.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        # The gradient of a 16-bit weight is rounded to its dtype; float16 also loses what is very small.
        error = (ours.grad.float() - theirs.grad).abs().max() / theirs.grad.abs().max()
        assert error <= 2 * torch.finfo(ours.dtype).eps + TOLERANCE, name


@torch.no_grad()
def test_a_mapped_text_encoder_equals_its_float32_copy(stored):
    wide, mapped = load_text_encoder(stored), load_text_encoder(stored, mapped=True)
    layered = load_text_encoder(stored, mapped=True, layer_by_layer=True)
    for prompt in ("two red foxes", ""):
        assert_equal(mapped.encode([prompt])[0], wide.encode([prompt])[0])
        assert_equal(layered.encode([prompt])[0], wide.encode([prompt])[0])
    dtypes = {name: tensor.dtype for name, tensor in mapped.model.state_dict().items()}
    assert {dtype for name, dtype in dtypes.items() if "norm" in name} == {torch.float32}
    assert torch.float32 not in {dtype for name, dtype in dtypes.items() if "norm" not in name}


@torch.no_grad()
def test_a_mapped_autoencoder_equals_its_float32_copy(stored):
    wide, mapped = load_autoencoder(stored), load_autoencoder(stored, mapped=True)
    dtypes = [parameter.dtype for parameter in mapped.parameters()]
    assert sum(dtype != torch.float32 for dtype in dtypes) > len(dtypes) // 4
    latents, images = torch.randn(1, 8, 5, 3), torch.rand(1, 3, 20, 12) * 2 - 1
    for band in (None, 2):
        assert_equal(mapped.decode(latents, band=band), wide.decode(latents, band=band))
        assert_equal(mapped.encode(images, band=band), wide.encode(images, band=band))


@linux
def test_big_weights_are_backed_by_the_file_also_where_three_tensors_are_one_here(stored):
    transformer, encoder = load_transformer(stored, mapped=True), load_text_encoder(stored, mapped=True)
    for module, file in (
        (transformer, stored / "transformer" / "diffusion_pytorch_model.safetensors"),
        (encoder.model, stored / "text_encoder" / "model.safetensors"),
    ):
        names = widened(module)
        assert len(names) > 10
        for name, parameter in module.named_parameters():
            assert (file_behind(parameter) == str(file)) == (name in names), name


@linux
def test_the_matrices_of_an_official_file_are_backed_by_it(tiny, tmp_path):
    path = save_official(tmp_path / "model.pth", tiny.transformer, dtype="bfloat16")
    mapped = load_transformer(path, mapped=True)
    assert file_behind(mapped.blocks[0].attn.qkv.weight) == str(path)
    assert release(mapped) == 0  # torch's own mapping is left alone


@torch.no_grad()
def test_parts_that_lie_apart_in_the_file_are_copied_in_16_bits(tiny, tmp_path):
    from diffusers import SanaTransformer2DModel

    theirs = SanaTransformer2DModel.from_pretrained(tiny.folder / "transformer", torch_dtype=torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")  # sorts by name: keys, out, queries, values
    mapped = load_transformer(tmp_path / "theirs", mapped=True)
    qkv = mapped.blocks[1].attn.qkv.weight
    assert torch.equal(qkv, tiny.transformer.blocks[1].attn.qkv.weight.bfloat16())
    wide = load_transformer(tmp_path / "theirs")
    inputs = transformer_inputs(wide)
    assert_equal(mapped(*inputs), wide(*inputs))


def test_tensors_are_stacked_only_where_they_follow_each_other(tmp_path):
    tensors = {name: torch.randn(rows, 3) for name, rows in (("a", 2), ("b", 4), ("c", 1))}
    write_safetensors(tmp_path / "w.safetensors", tensors, torch.float16)
    files = TensorFiles([tmp_path / "w.safetensors"])
    expected = torch.cat([tensors["a"], tensors["b"], tensors["c"]]).half()
    assert torch.equal(files.read_stacked(["a", "b", "c"]), expected)
    for names in (["a", "c"], ["b", "a"], ["a", "a"]):
        assert files.read_stacked(names) is None


@pytest.mark.parametrize("load", [load_transformer, load_autoencoder, load_text_encoder])
def test_weights_stay_in_their_file_on_a_cpu_only(tiny, load):
    with pytest.raises(SettingsError, match=r"mapped=True .* mapped=False"):
        load(tiny.folder, device="cuda", dtype="bfloat16", mapped=True)


def wide_gemma(tmp_path: Path, **changes) -> tuple[Gemma2, Path]:
    """A Gemma 2 whose layers are large against a page (7 MB in bfloat16), mapped."""
    sizes = {"vocab_size": 600, "width": 512, "depth": 6, "heads": 4, "kv_heads": 2, "head_dim": 64}
    config = Gemma2Config(**{**sizes, **changes}, mlp_width=2048, query_scalar=64)
    path = tmp_path / "model.safetensors"
    write_safetensors(path, Gemma2(config).state_dict(), torch.bfloat16)
    with torch.device("meta"):
        model = Gemma2(config)
    files = TensorFiles([path])
    pairs = [((name,), (name,)) for name in files.infos]
    return fill(model, files, pairs, skipped={}, device="cpu", dtype=torch.float32, mapped=True), path


@linux
@torch.no_grad()
def test_release_gives_the_pages_back_and_changes_no_result(tmp_path):
    model, path = wide_gemma(tmp_path)
    tokens = torch.randint(600, (1, 9))
    before = model(tokens)
    full = resident(path)
    assert full > 0.9 * path.stat().st_size
    assert release(model) > 0.95 * path.stat().st_size
    assert resident(path) < 0.05 * full
    assert torch.equal(model(tokens), before)


@linux
@torch.no_grad()
def test_layer_by_layer_at_most_one_layer_is_resident(tmp_path):
    model, path = wide_gemma(tmp_path)
    tokens = torch.randint(600, (1, 9))
    expected = model(tokens)
    release(model)
    seen = []

    def after_layer(layer: nn.Module) -> None:
        seen.append(resident(path))
        release(layer)

    assert torch.equal(model(tokens, None, after_layer), expected)
    layer = sum(parameter.nbytes for parameter in model.layers[0].parameters())
    assert len(seen) == 1 + model.config.depth
    assert layer > 7e6
    assert max(seen) < layer + 2 * AROUND
    assert resident(path) < 2 * AROUND


@linux
@torch.no_grad()
def test_of_the_embedding_table_only_the_rows_of_the_tokens_are_read(tmp_path):
    model, path = wide_gemma(tmp_path, vocab_size=100_000, depth=1)
    tokens = torch.randint(100_000, (2, 150))
    expected = model(tokens)
    release(model)
    seen = []

    def after_layer(part: nn.Module) -> None:
        seen.append(resident(path))
        release(part)

    assert torch.equal(model(tokens, None, after_layer), expected)
    assert model.embed_tokens.weight.nbytes > 100e6
    assert max(seen) < 17 * AROUND


@torch.no_grad()
def test_release_keeps_weights_that_were_written_to_and_what_is_not_mapped(tmp_path):
    model, path = wide_gemma(tmp_path, depth=1)
    layer = model.layers[0]
    content = path.read_bytes()
    layer.mlp.up_proj.weight.fill_(3)
    layer.input_layernorm.weight.fill_(5)
    release(model)
    assert (layer.mlp.up_proj.weight == 3).all()
    assert (layer.input_layernorm.weight == 5).all()
    assert path.read_bytes() == content
    own = torch.randn(300, 300)
    assert release_tensors([own, own[:, 1:]]) == 0
    assert release(nn.Linear(200, 200)) == 0


@torch.no_grad()
def test_only_a_large_models_instruction_is_kept_in_a_file(tiny, monkeypatch):
    folder = tiny.folder / "text_encoder"
    seen = []

    def features() -> Tensor:
        encoder = load_text_encoder(tiny.folder, mapped=True)
        encoder.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        return encoder.encode(["a fox"])[0]

    names = sorted(path.name for path in folder.iterdir())
    small = features()
    assert sorted(path.name for path in folder.iterdir()) == names
    monkeypatch.setattr("sanakit.weights.load.KEEP_PREFIX_FROM", 0)
    assert torch.equal(features(), small)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "instruction_cache.safetensors"])
    assert seen[:2] == seen[2:]  # the instruction and the prompt, twice
    seen.clear()
    assert torch.equal(features(), small)
    assert len(seen) == 1  # the prompt alone

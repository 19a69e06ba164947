"""The instruction's keys and values from a file: bit for bit, for their weights only, never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.prefix_cache import PrefixCache, default_places
from sanakit.text.tokenizer import train_tokenizer

INSTRUCTION = "Draw a picture of this: "
CONFIG = Gemma2Config(
    vocab_size=600, width=32, depth=3, heads=4, kv_heads=2, head_dim=8, mlp_width=64, query_scalar=8
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a red cat on a table", INSTRUCTION] * 20, 560)


@pytest.fixture
def model() -> Gemma2:
    torch.manual_seed(0)
    model = Gemma2(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


class Run:
    """A new process as far as the encoder can tell: features of one prompt, and the passes it took."""

    def __init__(self, model, tokenizer, *places: Path, fingerprint="f", instruction=INSTRUCTION) -> None:
        cache = PrefixCache(places, fingerprint) if places else None
        self.encoder = TextEncoder(model, tokenizer, instruction, 40, cache)
        self.passes: list[int] = []
        hook = model.register_forward_pre_hook(lambda _, args: self.passes.append(args[0].shape[1]))
        (self.features,) = self.encoder.encode(["a red cat"])
        hook.remove()

    @property
    def computed(self) -> bool:
        return len(self.passes) == 2  # the prefix, then the prompt


def test_a_second_process_reads_what_the_first_wrote_bit_for_bit(model, tokenizer, tmp_path):
    place = tmp_path / "folder" / "cache.safetensors"
    plain, first, second = (Run(model, tokenizer, *at) for at in ((), (place,), (place,)))
    assert (plain.computed, first.computed, second.computed) == (True, True, False)
    assert torch.equal(first.features, plain.features)
    assert torch.equal(second.features, plain.features)
    assert [path.name for path in place.parent.iterdir()] == ["cache.safetensors"]
    readable = os.umask(0)
    os.umask(readable)
    assert place.stat().st_mode & 0o777 == 0o666 & ~readable
    assert all(tensor.dtype == torch.float32 for tensor in load(place.read_bytes()).values())


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def text(path: Path) -> None:
    path.write_text("these are not keys and values")


def foreign(path: Path) -> None:
    save_file({"first": torch.zeros(1, 1, 32)}, path)


@pytest.mark.parametrize("damage", [empty, truncated, flipped, text, foreign])
def test_a_damaged_or_foreign_file_is_computed_anew_and_replaced(model, tokenizer, tmp_path, damage):
    place = tmp_path / "cache.safetensors"
    good = Run(model, tokenizer, place).features
    content = load(place.read_bytes())
    damage(place)
    again = Run(model, tokenizer, place)
    assert again.computed
    assert torch.equal(again.features, good)
    assert all(torch.equal(tensor, content[name]) for name, tensor in load(place.read_bytes()).items())
    assert not Run(model, tokenizer, place).computed


@pytest.mark.parametrize("changed", [{"fingerprint": "g"}, {"instruction": "Draw this: "}])
def test_other_weights_and_other_instructions_have_their_own(model, tokenizer, tmp_path, changed):
    place = tmp_path / "cache.safetensors"
    Run(model, tokenizer, place)
    other = Run(model, tokenizer, place, **changed)
    assert other.computed
    assert torch.equal(other.features, Run(model, tokenizer, **changed).features)
    assert not Run(model, tokenizer, place, **changed).computed
    assert Run(model, tokenizer, place).computed


def test_each_dialect_has_its_own_file_and_neither_replaces_the_other(model, tokenizer, tmp_path):
    place, counts = tmp_path / "cache.safetensors", []
    for dialect in ("diffusers", "native", "diffusers", "native"):
        cache = PrefixCache([place], "f")
        encoder = TextEncoder(model, tokenizer, COMPLEX_HUMAN_INSTRUCTION, 40, cache, dialect=dialect)
        seen = []
        hook = model.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape[1]))
        encoder.encode(["a red cat"])
        hook.remove()
        counts.append(len(seen))
    assert counts == [2, 2, 1, 1]  # the instruction, then the prompt; later the prompt alone
    assert {path.name for path in tmp_path.iterdir()} == {"cache.safetensors", "cache_native.safetensors"}


def test_a_native_negative_prompt_takes_its_beginning_from_the_native_instruction(model, tokenizer):
    """And does not compute diffusers' instruction for it, which takes seconds with a large model."""
    encoder = TextEncoder(model, tokenizer, COMPLEX_HUMAN_INSTRUCTION, 40)
    seen = []
    hook = model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    encoder.encode_negative([""], dialect="native")
    encoder.encode(["a red cat"], dialect="native")
    hook.remove()
    instructed, _ = encoder.windows["native"]
    assert seen[:2] == [len(instructed.prefix), 1]
    assert len(seen) == 3


def test_weights_that_changed_after_loading_neither_read_nor_write_the_file(model, tokenizer, tmp_path):
    place = tmp_path / "cache.safetensors"
    run = Run(model, tokenizer, place)
    content = place.read_bytes()
    with torch.no_grad():
        model.layers[0].mlp.gate_proj.weight.mul_(1.5)
    changed = run.encoder.encode(["a red cat"])[0]
    assert (changed - run.features).abs().max() > 1e-3
    assert torch.equal(changed, Run(model, tokenizer).features)
    assert place.read_bytes() == content


def test_a_place_that_can_not_be_written_gives_way_to_the_next_and_then_to_none(model, tokenizer, tmp_path):
    (tmp_path / "file").write_text("no folder")
    closed, place = tmp_path / "file" / "cache.safetensors", tmp_path / "cache.safetensors"
    Run(model, tokenizer, closed, place)
    assert place.exists()
    assert not Run(model, tokenizer, closed, place).computed
    assert Run(model, tokenizer, closed).computed


def test_a_folder_in_its_place_and_a_full_disk_leave_nothing_behind(model, tokenizer, tmp_path, monkeypatch):
    place = tmp_path / "cache.safetensors"
    place.mkdir()
    assert Run(model, tokenizer, place).computed
    place.rmdir()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert Run(model, tokenizer, place).computed
    assert list(tmp_path.iterdir()) == []


def test_prompts_without_instruction_begin_with_its_first_token_and_take_no_pass(model, tokenizer):
    run = Run(model, tokenizer)
    hook = model.register_forward_pre_hook(lambda _, args: run.passes.append(args[0].shape[1]))
    run.passes.clear()
    (empty_prompt,) = run.encoder.encode_negative([""])
    assert run.passes == []
    (negative,) = run.encoder.encode_negative(["a red cat"])
    assert run.passes == [3]
    hook.remove()
    with torch.no_grad():
        ids = tokenizer.encode("a red cat").ids
        expected = model(torch.tensor([ids]))[0]
    assert torch.equal(empty_prompt, run.features[:1])
    assert (negative - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_file_lies_beside_the_weights_or_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", str(tmp_path / "cache"))
    beside, user = default_places(tmp_path / "model" / "text_encoder")
    assert beside == tmp_path / "model" / "text_encoder" / "instruction_cache.safetensors"
    assert user.parent == tmp_path / "cache" / "sanakit"
    assert default_places(tmp_path / "other")[1] != user

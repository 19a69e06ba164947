"""The same weights have the same fingerprint wherever they lie; other weights have another one."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.weights import fingerprint_weights, save_official
from sanakit.weights.find.catalog import CATALOG
from sanakit.weights.fingerprint import first_digits, other_weights, weights_sha256
from sanakit.weights.read.digest import SAMPLE

PARTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
both = pytest.mark.parametrize("exact", [False, True], ids=["sampled", "exact"])


def shard(path: Path, stem: str) -> None:
    """Write a file's tensors as two shards with an index, in another order than in the file."""
    state = load_file(path)
    names = sorted(state, reverse=True)
    halves = {1: names[: len(names) // 3], 2: names[len(names) // 3 :]}
    weight_map = {}
    for number, half in halves.items():
        shard_name = f"{stem}-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in half}, path.parent / shard_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(half, shard_name)
    (path.parent / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    path.unlink()


def flip(path: Path, place: int) -> None:
    """Change one byte of a file's data, counted from their begin; from their end if negative."""
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little") if place >= 0 else len(content)
    content[begin + place] ^= 1
    path.write_bytes(content)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of one tensor, much longer than its samples."""
    save_file({"a": torch.arange(100_000, dtype=torch.float32)}, tmp_path / "large.safetensors")
    return tmp_path / "large.safetensors"


@both
def test_moving_and_renaming_change_nothing(tiny, tmp_path, exact):
    before = fingerprint_weights(tiny.folder, exact=exact)
    assert before.parts.keys() == PARTS.keys()
    other = tmp_path / "other" / "renamed"
    shutil.copytree(tiny.folder, other, copy_function=shutil.copyfile)  # no times of change either
    assert fingerprint_weights(other, exact=exact) == before
    assert str(before) == before.whole
    assert before.whole.startswith("exact-" if exact else "sampled-")


@both
@pytest.mark.parametrize("part", PARTS)
def test_shards_and_metadata_change_nothing(tiny, part, exact):
    before = fingerprint_weights(tiny.folder, exact=exact)
    shard(tiny.folder / part / PARTS[part], PARTS[part].removesuffix(".safetensors"))
    assert fingerprint_weights(tiny.folder, exact=exact) == before


@pytest.mark.parametrize("part", PARTS)
def test_one_changed_byte_of_a_small_tensor_is_seen_in_its_part_alone(tiny, part):
    before = fingerprint_weights(tiny.folder)
    flip(tiny.folder / part / PARTS[part], 5)
    after = fingerprint_weights(tiny.folder)
    assert after.whole != before.whole
    assert [name for name in PARTS if after.parts[name] != before.parts[name]] == [part]


@pytest.mark.parametrize("place", [0, 200_000, -1])
def test_one_changed_byte_in_a_sample_changes_the_sampled_fingerprint(large, place):
    before = fingerprint_weights(large)
    flip(large, place)
    assert fingerprint_weights(large).whole != before.whole


@pytest.mark.parametrize("place", [SAMPLE + 1, 123_456, -SAMPLE - 1])
def test_one_changed_byte_anywhere_changes_the_exact_fingerprint(large, place):
    before, sampled = fingerprint_weights(large, exact=True), fingerprint_weights(large)
    flip(large, place)
    assert fingerprint_weights(large, exact=True).whole != before.whole
    assert fingerprint_weights(large) == sampled  # as documented: a single byte may lie between samples


@both
def test_a_file_a_part_and_its_folder_agree(tiny, exact):
    whole = fingerprint_weights(tiny.folder, exact=exact)
    for part, name in PARTS.items():
        alone = fingerprint_weights(tiny.folder / part, exact=exact)
        assert alone.parts == {part: whole.parts[part]}
        assert fingerprint_weights(tiny.folder / part / name, exact=exact) == alone


@both
def test_a_pickled_file_and_safetensors_of_the_same_names_agree(variant, tmp_path, exact):
    save_official(tmp_path / "model.pth", variant)
    save_file(variant.state_dict(), tmp_path / "model.safetensors")
    pickled = fingerprint_weights(tmp_path / "model.pth", exact=exact)
    assert pickled == fingerprint_weights(tmp_path / "model.safetensors", exact=exact)
    assert pickled.parts.keys() == {"transformer"}


@both
@pytest.mark.parametrize(
    "change",
    [
        lambda state: {name: tensor.half() for name, tensor in state.items()},
        lambda state: {f"other.{name}": tensor for name, tensor in state.items()},
        lambda state: {name: tensor.flatten() for name, tensor in state.items()},
        lambda state: state | {"extra": torch.zeros(0)},
        lambda state: dict(zip(state, reversed(state.values()), strict=True)),
    ],
    ids=["dtype", "names", "shapes", "an empty tensor more", "swapped"],
)
def test_other_dtypes_names_and_shapes_are_other_weights(tmp_path, change, exact):
    state = {"a": torch.ones(4, 4), "b": torch.zeros(4, 4)}
    save_file(state, tmp_path / "a.safetensors")
    save_file(change(state), tmp_path / "b.safetensors")
    first, second = (fingerprint_weights(tmp_path / f"{name}.safetensors", exact=exact) for name in "ab")
    assert first.whole != second.whole


def test_settings_are_not_weights(tiny):
    before = fingerprint_weights(tiny.folder)
    (tiny.folder / "sanakit.json").unlink()
    assert fingerprint_weights(tiny.folder) == before


@both
def test_a_prefix_of_all_names_changes_nothing(tmp_path, variant, exact):
    state = variant.state_dict()
    save_file(state, tmp_path / "plain.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "wrapped.safetensors")
    plain, wrapped = (
        fingerprint_weights(tmp_path / f"{name}.safetensors", exact=exact) for name in ("plain", "wrapped")
    )
    assert plain == wrapped


@both
def test_graphs_are_told_apart_by_their_files(tmp_path, exact):
    """A network's graph may keep its weights in a second file."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "SanaGraphs", "runtime": "openvino"}')
    for part in ("transformer", "vae_decoder"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
        (tmp_path / part / "model.xml").write_text("<net/>")
        (tmp_path / part / "model.bin").write_bytes(bytes(5000))
    before = fingerprint_weights(tmp_path, exact=exact)
    assert before.parts.keys() == {"transformer", "vae_decoder"}
    assert before.parts["transformer"] == before.parts["vae_decoder"]
    (tmp_path / "transformer" / "model.bin").write_bytes(bytes(4999) + b"x")
    after = fingerprint_weights(tmp_path, exact=exact)
    assert after.parts["transformer"] != before.parts["transformer"]
    assert after.parts["vae_decoder"] == before.parts["vae_decoder"]


def test_any_file_has_a_fingerprint_of_its_bytes(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07" * 5000)
    before = fingerprint_weights(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").rename(tmp_path / "other.bin")
    assert fingerprint_weights(tmp_path / "other.bin") == before
    assert before.parts.keys() == {"file"}


def test_a_tensor_that_repeats_its_numbers_is_not_copied_out(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**13)}, tmp_path / "vast.pth")
    with pytest.raises(WeightsError, match="a repeats stored numbers"):
        fingerprint_weights(tmp_path / "vast.pth", exact=True)


def test_nothing_there_and_a_damaged_file_are_errors(tmp_path):
    with pytest.raises(ModelNotFoundError):
        fingerprint_weights(tmp_path / "nothing")
    (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(WeightsError, match="truncated"):
        fingerprint_weights(tmp_path / "x.safetensors")


def test_a_folder_of_safetensors_needs_no_torch():
    code = (
        "import sys; from sanakit.weights import fingerprint_weights; fingerprint_weights('pocket'); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


# A module in memory


def test_a_module_is_known_by_its_names_shapes_and_float32_values() -> None:
    module = nn.Linear(3, 2)
    digest = hashlib.sha256()
    for name, shape in (("weight", "(2, 3)"), ("bias", "(2,)")):
        digest.update(f"{name} {shape}\n".encode() + module.get_parameter(name).detach().numpy().tobytes())
    assert weights_sha256(module) == digest.hexdigest()


def test_one_changed_weight_is_another_module_and_a_wider_dtype_is_the_same() -> None:
    module: nn.Module = nn.Linear(3, 2)
    with torch.no_grad():
        module.get_parameter("weight").fill_(1 / 3)
    before = weights_sha256(module)
    assert weights_sha256(module) == before
    with torch.no_grad():
        module.get_parameter("weight")[1, 2] += 1e-6
    assert weights_sha256(module) != before
    half = weights_sha256(module.half())
    assert half != before  # 1/3 is rounded
    assert weights_sha256(module.float()) == half


def test_images_record_the_first_digits() -> None:
    found = fingerprint_weights("pocket")
    assert first_digits("pocket") == found.whole.partition("-")[2][:12]
    assert first_digits("pocket", "vae") == found.parts["vae"].partition("-")[2][:12]
    assert first_digits("pocket", "controlnet") == first_digits("pocket")


def test_other_weights_are_told_and_unknown_ones_are_not() -> None:
    (told,) = other_weights("aaaaaaaaaaaa", "tiny", "bbbbbbbbbbbb")
    assert "(fingerprint aaaaaaaaaaaa) than those of tiny here (bbbbbbbbbbbb)" in told
    assert [other_weights(*pair) for pair in (("a", "t", "a"), ("", "t", "a"), ("a", "t", ""))] == [()] * 3


@both
def test_a_shared_text_encoder_counts_as_one_of_its_own(tiny, exact: bool) -> None:
    pocket = CATALOG["pocket"].folder
    assert pocket is not None
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(tiny.folder / name)
    shutil.copytree(pocket / "text_encoder", tiny.folder / "text_encoder")
    own = fingerprint_weights(tiny.folder, exact=exact)
    shutil.rmtree(tiny.folder / "text_encoder")
    path = tiny.folder / "sanakit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text_encoder_of": "pocket"}))
    assert fingerprint_weights(tiny.folder, exact=exact) == own

"""Checkpoints are whole or not there, damage is noticed, and the one before it takes over."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.errors import OutputError, WeightsError
from sanakit.train.state import checkpoint
from sanakit.train.state.checkpoint import (
    MANIFEST,
    SINGLE_FILE,
    has_checkpoint,
    load_average,
    open_checkpoint,
    save_checkpoint,
)

TENSORS = {
    "model.weight": torch.arange(1000.0).reshape(10, 100),
    "model.frozen": torch.full((2, 2), 7.0),
    "model.channels_last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "average.weight": torch.arange(1000.0).reshape(10, 100) + 0.5,
    "optimizer.weight.half": torch.ones(3, dtype=torch.bfloat16),
    "optimizer.weight.bytes": torch.arange(256, dtype=torch.uint8),
}
NUMBERS = {"optimizers": {"optimizer.weight.step": 3.0}, "guard": {"losses": [0.1, 1e-300], "high": 0}}


def save(folder: Path, step: int = 7) -> Path:
    return save_checkpoint(folder, step, TENSORS, NUMBERS)


def read(folder: Path) -> dict[str, Tensor]:
    saved = open_checkpoint(folder)
    assert saved is not None
    tensors = {name: torch.empty_like(like, device="cpu") for name, like in saved.tensors.items()}
    saved.read(tensors)
    return tensors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    assert open_checkpoint(tmp_path) is None
    assert not has_checkpoint(tmp_path)
    path = save(tmp_path / "run")
    assert path == tmp_path / "run" / "checkpoint-0000007"
    assert has_checkpoint(tmp_path / "run")
    saved = open_checkpoint(tmp_path / "run")
    assert (saved.step, saved.numbers, saved.notes) == (7, NUMBERS, ())
    found = read(tmp_path / "run")
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


def test_nothing_in_it_is_a_pickle(tmp_path):
    assert {file.suffix for file in save(tmp_path).iterdir()} == {".safetensors", ".json"}


def test_the_average_holds_what_is_trained_and_the_rest_of_the_model(tmp_path):
    save(tmp_path)
    average = load_average(tmp_path)
    assert set(average) == {"weight", "frozen", "channels_last"}
    assert torch.equal(average["weight"], TENSORS["average.weight"])
    assert torch.equal(average["frozen"], TENSORS["model.frozen"])
    assert load_average(tmp_path / "nothing") is None


def test_the_last_two_are_kept_and_a_course_that_was_left_goes(tmp_path):
    for step in (5, 10, 15, 20):
        save(tmp_path, step)
    assert names(tmp_path) == ["checkpoint-0000015", "checkpoint-0000020"]
    save(tmp_path, 16)
    assert names(tmp_path) == ["checkpoint-0000015", "checkpoint-0000016"]
    save(tmp_path, 16)
    assert names(tmp_path) == ["checkpoint-0000015", "checkpoint-0000016"]


@pytest.mark.parametrize("following", [8, 9])
def test_an_interrupted_save_leaves_the_last_checkpoint(tmp_path, monkeypatch, following):
    save(tmp_path)

    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_checksums", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 8)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint-0000008.part").exists()
    assert open_checkpoint(tmp_path).step == 7
    save(tmp_path, following)  # which begins from scratch, and removes what was left
    assert names(tmp_path) == ["checkpoint-0000007", f"checkpoint-000000{following}"]


@pytest.mark.parametrize("module", ["torch.distributed.checkpoint.filesystem", "sanakit.whole"])
def test_a_full_disk_is_an_output_error_and_leaves_the_last_checkpoint(tmp_path, monkeypatch, module):
    save(tmp_path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"{module}.os.fsync", full)
    with pytest.raises(OutputError, match=r"cannot be written to .*0000008: No space left on device"):
        save(tmp_path, 8)
    assert names(tmp_path) == ["checkpoint-0000007"]
    assert open_checkpoint(tmp_path).step == 7


def test_a_folder_that_can_not_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose --output"):
        save(tmp_path / "file" / "run")


@pytest.mark.parametrize("name", ["safetensors", MANIFEST])
def test_every_truncation_is_noticed(tmp_path, name):
    file = next(save(tmp_path).glob(f"*{name}"))
    data = file.read_bytes()
    for length in range(0, len(data), len(data) // 40):
        file.write_bytes(data[:length])
        with pytest.raises(WeightsError, match="damaged"):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["safetensors", MANIFEST])
def test_a_flipped_bit_is_an_error_or_harmless_but_never_another_number(tmp_path, name):
    file = next(save(tmp_path).glob(f"*{name}"))
    data = file.read_bytes()
    refused = 0
    places = torch.randint(len(data), (100,)).tolist()
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            saved = open_checkpoint(tmp_path)
        except WeightsError:
            refused += 1
        else:
            assert (saved.step, saved.numbers) == (7, NUMBERS)
    assert refused > 90


@pytest.mark.parametrize("damage", ["missing", "foreign"])
def test_files_that_do_not_belong_together_are_noticed(tmp_path, damage):
    file = next(save(tmp_path).glob("*.safetensors"))
    if damage == "missing":
        file.unlink()
    else:
        shutil.copy(file, file.with_name("shard-00002-model-00001-of-00001.safetensors"))
    with pytest.raises(WeightsError, match="damaged"):
        open_checkpoint(tmp_path)


def test_the_one_before_takes_over_from_a_damaged_one_and_says_so(tmp_path):
    save(tmp_path, 5)
    damaged = next(save(tmp_path, 10).glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    saved = open_checkpoint(tmp_path)
    assert saved.step == 5
    assert len(saved.notes) == 1
    assert "checkpoint-0000010 is damaged (checksum" in saved.notes[0]
    assert saved.notes[0].endswith("Continuing from the checkpoint before it.")


def test_when_all_are_damaged_it_says_what_to_do(tmp_path):
    for step in (5, 10):
        (save(tmp_path, step) / MANIFEST).unlink()
    with pytest.raises(
        WeightsError, match=r"0000010 is damaged .* There is no earlier checkpoint: delete it"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "shape"), [("model.other", (10, 100)), ("model.weight", (100, 10))], ids=["name", "shape"]
)
def test_tensors_of_another_model_are_refused_by_name(tmp_path, name, shape):
    save(tmp_path)
    with pytest.raises(WeightsError, match=f"another model or optimiser .{name}"):
        open_checkpoint(tmp_path).read({name: torch.empty(shape)})


def test_a_later_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(WeightsError, match="has format 2"):
        open_checkpoint(tmp_path)


class Malicious:
    ran = False

    def __reduce__(self):
        return (setattr, (Malicious, "ran", True))


@pytest.mark.parametrize("place", [".metadata", "shard-00001-model-00001-of-00001.safetensors", MANIFEST])
def test_code_in_a_checkpoint_is_never_run(tmp_path, place):
    path = save(tmp_path)
    (path / place).write_bytes(pickle.dumps(Malicious()))
    if place == ".metadata":  # which torch's own format would unpickle
        assert torch.equal(read(tmp_path)["model.weight"], TENSORS["model.weight"])
    else:
        with pytest.raises(WeightsError, match="damaged"):
            open_checkpoint(tmp_path)
    assert not Malicious.ran


def test_large_states_are_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 4000)
    path = save(tmp_path)
    assert len(list(path.glob("*.safetensors"))) == 3
    assert torch.equal(read(tmp_path)["average.weight"], TENSORS["average.weight"])
    assert len(json.loads((path / MANIFEST).read_text())["files"]) == 3


def test_a_single_file_of_an_earlier_version_gives_its_average_but_is_not_resumed(tmp_path):
    average = {"weight": torch.arange(3.0)}
    torch.save({"step": 1, "model": {}, "average": average, "optimizers": []}, tmp_path / SINGLE_FILE)
    assert has_checkpoint(tmp_path)
    assert torch.equal(load_average(tmp_path)["weight"], average["weight"])
    with pytest.raises(WeightsError, match="earlier version"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(500)], ids=["empty", "text", "zeros"])
def test_another_kind_of_single_file_is_refused(tmp_path, content):
    (tmp_path / SINGLE_FILE).write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged"):
        load_average(tmp_path)


def test_code_in_a_single_file_is_refused_and_not_run(tmp_path):
    torch.save({"step": 1, "average": Malicious()}, tmp_path / SINGLE_FILE)
    with pytest.raises(WeightsError, match="not a checkpoint of a training run"):
        load_average(tmp_path)
    assert not Malicious.ran


def test_a_flipped_bit_in_a_single_file_is_noticed(tmp_path):
    path = tmp_path / SINGLE_FILE
    torch.save({"average": {"weight": torch.arange(1000.0)}}, path)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + 2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="checksum"):
        load_average(tmp_path)


def forge(path: Path, change: dict) -> None:
    """Change a manifest as somebody does who knows how its checksum is made."""
    manifest = json.loads((path / MANIFEST).read_text())
    body = {name: manifest[name] for name in ("format", "step", "numbers", "tensors", "files")} | change
    (path / MANIFEST).write_text(
        json.dumps(body | {"checksum": checkpoint._text_checksum(body)})  # pyright: ignore[reportPrivateUsage]
    )


WEIGHT = {"model.weight": ["torch.float32", [10, 100]]}
FORGED = {
    "a dtype that there is not": {"tensors": {"model.weight": ["torch.object", [10, 100]]}},
    "a dtype that is an object": {"tensors": {"model.weight": [["torch.float32"], [10, 100]]}},
    "another dtype": {"tensors": {"model.weight": ["torch.int32", [10, 100]]}},
    "another shape": {"tensors": {"model.weight": ["torch.float32", [100, 10]]}},
    "a negative side": {"tensors": {"model.weight": ["torch.float32", [-1]]}},
    "a side of text": {"tensors": {"model.weight": ["torch.float32", ["10", 100]]}},
    "an endless side": {"tensors": {"model.weight": ["torch.float32", [2**62, 2**62]]}},
    "a tensor that is nowhere": {"tensors": {"model.other": ["torch.float32", [2]]}},
    "a tensor without a shape": {"tensors": {"model.weight": "torch.float32"}},
    "tensors as a list": {"tensors": [WEIGHT]},
    "files as a list": {"files": ["shard"]},
    "a file that is a folder": {"files": {"": [0, 0]}},
    "a file with a NUL": {"files": {"a\0b.safetensors": [0, 0]}},
    "a file outside": {"files": {"../../etc/passwd": [0, 0]}},
    "no files": {"files": {}},
    "a step of text": {"step": "10"},
    "another step": {"step": 999},
    "a step that is true": {"step": True},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_forged_manifest_falls_back_to_the_checkpoint_before_it(tmp_path, change):
    save(tmp_path, 5)
    forge(save(tmp_path, 10), change)
    saved = open_checkpoint(tmp_path)
    assert saved.step == 5
    assert "checkpoint-0000010 is damaged" in saved.notes[0]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "[]", "null", "3", '{"format": 1', "\xff"], ids=lambda text: text[:9]
)
def test_a_manifest_of_any_other_json_falls_back_too(tmp_path, text):
    save(tmp_path, 5)
    (save(tmp_path, 10) / MANIFEST).write_bytes(text.encode("latin-1"))
    assert open_checkpoint(tmp_path).step == 5


def test_numbers_that_the_caller_cannot_use_fall_back_too(tmp_path):
    save(tmp_path, 5)
    forge(save(tmp_path, 10), {"numbers": {"guard": "gone"}})
    assert open_checkpoint(tmp_path).step == 10  # as they are, they are anybody's
    assert open_checkpoint(tmp_path, lambda numbers: numbers["optimizers"]).step == 5


def test_tensors_that_are_stored_in_part_only_are_noticed(tmp_path):
    """Its header says that the tensor begins further on: what is before would be whatever lies in memory."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = save(tmp_path)
    (file,) = path.glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        tensors, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
    offsets = json.loads(metadata["DCP_SHARDING_INFO"])
    offsets["model.weight"]["saved_offsets"] = [0, 50]
    tensors["model.weight"] = tensors["model.weight"][:, 50:].contiguous()
    save_file(tensors, file, metadata | {"DCP_SHARDING_INFO": json.dumps(offsets)})
    forge(path, {"files": {file.name: checkpoint._checksum(file)}})  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(WeightsError, match=r"model\.weight is not in its files as"):
        open_checkpoint(tmp_path)


def test_a_result_of_an_older_checkpoint_is_told(tmp_path, caplog):
    save(tmp_path, 5)
    (save(tmp_path, 10) / MANIFEST).write_text("{}")
    assert load_average(tmp_path) is not None
    assert "checkpoint-0000010 is damaged" in caplog.text


WRONG_AVERAGES = ({}, [1], None, {7: torch.ones(1)}, {"a": 1}, {"a": torch.eye(2).to_sparse()})
WRONG_AVERAGES = (*WRONG_AVERAGES, {"a": torch.tensor([1.0, math.nan])}, {"a": {"b": torch.ones(1)}})


@pytest.mark.parametrize(
    "content",
    [{"step": 1}, [1, 2], torch.ones(2), *({"average": average} for average in WRONG_AVERAGES)],
    ids=str,
)
def test_a_single_file_without_averages_is_refused(tmp_path, content):
    torch.save(content, tmp_path / SINGLE_FILE)
    with pytest.raises(WeightsError, match="not a checkpoint of a training run"):
        load_average(tmp_path)


def test_a_checkpoint_of_nothing_is_damaged(tmp_path):
    forge(save(tmp_path), {"tensors": {}})
    with pytest.raises(WeightsError, match=r"damaged \(manifest"):
        open_checkpoint(tmp_path)


def test_a_checkpoint_without_a_model_is_told_and_strange_parts_are_left_out(tmp_path):
    save_checkpoint(tmp_path / "a", 1, {"optimizer.x": torch.ones(2), "y": torch.ones(1)}, {})
    with pytest.raises(WeightsError, match="holds no weights of a model"):
        load_average(tmp_path / "a")
    save_checkpoint(tmp_path / "b", 1, {"model.x": torch.ones(2), "other.y": torch.ones(1)}, {})
    assert [*load_average(tmp_path / "b")] == ["x"]

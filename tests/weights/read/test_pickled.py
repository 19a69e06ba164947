"""A .pth file is bounded before it is opened: a small one takes little memory, whatever it holds."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from sanakit.errors import WeightsError
from sanakit.weights import describe, load_transformer, save_official
from sanakit.weights.read import pickled
from sanakit.weights.read.files import open_file
from sanakit.weights.read.pickled import unpickle


def repacked(path: Path, compression: int, only: str = "") -> None:
    """Write a zip file again with another compression, of all its content or of one file in it."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            kind = compression if name.endswith(only) else zipfile.ZIP_STORED
            archive.writestr(name, data, compress_type=kind)


@pytest.mark.parametrize("only", ["", "data.pkl", "data/0"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_refused_unopened(tmp_path, monkeypatch, only, compression):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"a": torch.zeros(1000)}}, path)
    repacked(path, compression, only)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    for read in (unpickle, load_transformer, describe):
        with pytest.raises(WeightsError, match=r"compressed, which torch\.save never does"):
            read(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_a_huge_pickle_is_refused_unopened(tmp_path, monkeypatch, zipped):
    path = tmp_path / "x.pth"
    monkeypatch.setattr(pickled, "MAX_PICKLE", 10_000)
    torch.save(
        {"a": torch.zeros(10), "lists": [[] for _ in range(20_000)]},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(WeightsError, match="more than 10,000 bytes beside its tensors"):
        unpickle(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_a_few_bytes_that_ask_for_any_memory_are_refused_unopened(tmp_path, monkeypatch, zipped):
    class Vast:
        def __reduce__(self):
            return bytearray, (10**12,)

    path = tmp_path / "x.pth"
    torch.save({"a": Vast()}, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(WeightsError, match="bytearray"):
        unpickle(path)
    path.write_bytes(pickle.dumps({"a": Vast()}, protocol=2))
    with pytest.raises(WeightsError, match="bytearray"):
        unpickle(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_what_torch_writes_is_read(tmp_path, variant, zipped):
    path = tmp_path / "x.pth"
    state = variant.state_dict()
    torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    files = open_file(path)
    assert list(files.infos) == list(state)
    for name, tensor in state.items():
        assert torch.equal(files.read(name), tensor)


def test_an_archive_without_checksums_is_read(tmp_path, variant):
    """torch can leave them out, which its own reader never looks at."""
    torch.serialization.set_crc32_options(False)
    try:
        save_official(tmp_path / "x.pth", variant)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_transformer(tmp_path / "x.pth").config == variant.config


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"sanakit": {}, "state_dict": {}}, "not a state_dict"),
        ({"sanakit": {}}, "not a state_dict"),
        ([1, 2], "holds a list"),
        ({"a": 1}, "1 entries that are not tensors"),
        (None, r"holds nothing \(null\), not a state_dict"),
        ({"a": torch.eye(3).to_sparse()}, r"1 tensors that are sparse.*\(first: 'a'\)"),
    ],
)
def test_what_is_not_a_state_dict_is_named(tmp_path, content, said):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=said):
        open_file(tmp_path / "x.pth")

"""A safetensors header is refused wherever the library refuses it, with the tensor and the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from sanakit.errors import WeightsError
from sanakit.weights.read import header as module
from sanakit.weights.read.files import TensorFiles
from sanakit.weights.read.header import TensorInfo, read_header, write_safetensors


def entry(start: Any, end: Any, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def write(path: Path, header: dict[str, Any] | bytes, data: int) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


FORBIDDEN = {  # header, bytes of data, what is said
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "'a' and 'b' overlap"),
    "the same bytes twice": ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "'a' and 'b' overlap"),
    "one within another": ({"a": entry(0, 16, (4,)), "b": entry(4, 12)}, 16, "'a' and 'b' overlap"),
    "a hole": ({"a": entry(0, 8), "b": entry(12, 20)}, 20, "4 bytes before the tensor 'b'"),
    "a hole at the begin": ({"a": entry(4, 12)}, 12, "4 bytes before the tensor 'a'"),
    "sides as text": ({"a": entry(0, 8, ("2",))}, 8, r"'a' has the shape \['2'\]"),
    "sides as fractions": ({"a": entry(0, 8, (2.0,))}, 8, r"'a' has the shape \[2\.0\]"),
    "a negative side": ({"a": entry(0, 8, (-2, -1))}, 8, r"'a' has the shape"),
    "a flag as side": ({"a": entry(0, 4, (True,))}, 4, r"'a' has the shape \[True\]"),
    "a shape that is not a list": ({"a": {**entry(0, 8), "shape": 2}}, 8, "'a' has the shape 2"),
    "offsets as text": ({"a": entry("0", "8")}, 8, "'a' lies in the bytes"),
    "offsets as fractions": ({"a": entry(0.0, 8.0)}, 8, "'a' lies in the bytes"),
    "three offsets": ({"a": {**entry(0, 8), "data_offsets": [0, 4, 8]}}, 8, "'a' lies in the bytes"),
    "offsets from end to begin": ({"a": entry(8, 0)}, 8, "'a' lies in the bytes"),
    "too few bytes": ({"a": entry(0, 8, (3,))}, 8, r"'a' has 8 bytes, its shape \[3\] in F32 needs 12"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, 8, "'a' needs dtype"),
    "a number as dtype": ({"a": entry(0, 8, dtype=32)}, 8, "'a' has the dtype 32"),
    "a tensor that is a list": ({"a": [0, 8]}, 8, "'a' needs"),
    "metadata that are not texts": ({"__metadata__": {"n": 1}, "a": entry(0, 8)}, 8, "__metadata__"),
    "metadata as a list": ({"__metadata__": ["n"], "a": entry(0, 8)}, 8, "__metadata__"),
    "another encoding": (json.dumps({"a": entry(0, 8)}).encode("utf-16-le"), 8, "not JSON"),
    "no end": (b'{"a": {"dtype"', 8, "not JSON"),
    "deep nesting": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0, "not JSON"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_the_format_forbids_is_refused_with_the_reason(tmp_path, name):
    header, data, said = FORBIDDEN[name]
    path = write(tmp_path / "x.safetensors", header, data)
    with pytest.raises(WeightsError, match=f"damaged safetensors header: .*{said}") as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert "Download or export it again" in str(caught.value)
    with pytest.raises((SafetensorError, ValueError)), safe_open(path, framework="np") as file:
        file.keys()


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 8)).encode(),) * 2),
        b'{"a": {"dtype": "F32", "shape": [2], "shape": [2], "data_offsets": [0, 8]}}',
    ],
    ids=["tensor", "key"],
)
def test_a_name_that_stands_twice_is_refused(tmp_path, text):
    with pytest.raises(WeightsError, match=r"names '(a|shape)' twice"):
        read_header(write(tmp_path / "x.safetensors", text, 8))


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_HEADER", 50)
    with pytest.raises(WeightsError, match="50 are allowed"):
        read_header(write(tmp_path / "x.safetensors", {"a": entry(0, 8)}, 8))


def test_a_long_name_is_shortened_in_the_message(tmp_path):
    path = write(tmp_path / "x.safetensors", {"n" * 100_000: entry(4, 12)}, 12)
    with pytest.raises(WeightsError) as caught:
        read_header(path)
    assert len(str(caught.value)) < 500


def test_any_order_empty_tensors_and_further_keys_are_read(tmp_path):
    header = {
        "b": entry(8, 16),
        "empty": entry(8, 8, (0, 3)),
        "a": {**entry(0, 8), "note": "ignored, as the library does"},
        "scalar": entry(16, 20, ()),
        "__metadata__": {"format": "pt"},
    }
    path = write(tmp_path / "x.safetensors", header, 20)
    assert set(load_file(path)) == {"a", "b", "empty", "scalar"}
    found = read_header(path)
    assert found.keys() == {"a", "b", "empty", "scalar"}
    assert found["empty"][0] == TensorInfo((0, 3), "float32")
    begin = path.stat().st_size - 20
    assert found["b"][1:] == (begin + 8, begin + 16)


def test_what_the_library_writes_is_read_and_what_is_written_the_library_reads(tmp_path):
    state = {
        "half": torch.arange(6).half().reshape(2, 3),
        "whole": torch.arange(5),
        "flag": torch.tensor(True),
        "none": torch.zeros(0, 4),
    }
    save_file(state, tmp_path / "theirs.safetensors")
    theirs = TensorFiles([tmp_path / "theirs.safetensors"])
    write_safetensors(tmp_path / "ours.safetensors", state, torch.float32, as_they_are=["half"])
    ours = load_file(tmp_path / "ours.safetensors")
    for name, tensor in state.items():
        assert torch.equal(theirs.read(name), tensor)
        assert torch.equal(ours[name], tensor)
        assert ours[name].dtype == tensor.dtype
    with safe_open(tmp_path / "ours.safetensors", framework="np") as file:
        assert np.array_equal(file.get_tensor("whole"), np.arange(5))

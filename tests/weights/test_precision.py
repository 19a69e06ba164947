"""A dtype is chosen that gives right images, or refused with the one that does."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import PrecisionError
from sanakit.weights import precision
from sanakit.weights.precision import check_rule, choose_dtype, parse_dtype

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", torch.float16])
@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_computes_in_float32_whatever_is_stored(stored, native, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert choose_dtype("cpu", stored) == F32


def test_a_cpu_without_bfloat16_refuses_it_and_one_with_it_obeys(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(PrecisionError, match="use float32"):
        choose_dtype("cpu", "bfloat16", "bf16")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_dtype("cpu", "bfloat16", "bf16") == BF16


@pytest.mark.parametrize(
    ("stored", "rule", "expected"),
    [
        ("float16", "float16", F16),
        ("bfloat16", "bfloat16", BF16),
        ("float16", "bfloat16", BF16),  # the text encoder of an fp16 folder
        ("float16", "any", F16),
        ("float32", "float16", F32),
        ("float16", "float32", F32),
    ],
)
def test_an_accelerator_computes_in_the_rules_dtype(stored, rule, expected, monkeypatch):
    monkeypatch.setattr(precision, "computes", lambda device, dtype: True)
    assert choose_dtype("cuda", stored, rule=rule) == expected


def test_an_accelerator_without_bfloat16_falls_back_to_float32(monkeypatch):
    monkeypatch.setattr(precision, "computes", lambda device, dtype: dtype != BF16)
    assert choose_dtype("cuda", "bfloat16", rule="bfloat16") == F32


@pytest.mark.parametrize(
    ("rule", "wrong", "right"), [("float16", BF16, F16), ("bfloat16", F16, BF16), ("float32", F16, F32)]
)
def test_the_wrong_half_is_refused_with_the_right_one(rule, wrong, right):
    with pytest.raises(PrecisionError, match=rule):
        check_rule(wrong, rule)
    check_rule(right, rule)
    check_rule(F32, rule)


@pytest.mark.parametrize("name", ["float8", "int8", "", "half", torch.int64, None])
def test_what_is_no_dtype_is_refused(name):
    with pytest.raises(PrecisionError, match="use auto, float32, float16 or bfloat16"):
        parse_dtype(name)

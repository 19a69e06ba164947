"""What can go wrong in the pipeline is told in a sentence, and nothing that was drawn is lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sanakit.errors import MemoryLimitError, NumericsError, SanaError, SettingsError, SizeError
from sanakit.models.dc_ae import DCAE
from sanakit.pipelines.memory import choose_device
from sanakit.pipelines.text_to_image import TextToImage

PROMPT = "two green foxes on a table"

BAD_SETTINGS = [
    ({"prompt": None}, "list of 1 to"),
    ({"prompt": []}, "list of 1 to"),
    ({"prompt": b"fox"}, "list of 1 to"),
    ({"prompt": ["fox", 3]}, "prompts are texts"),
    ({"prompt": ["fox"] * 257}, "list of 1 to 256"),
    ({"prompt": "half \ud83d"}, "surrogate"),
    ({"prompt": "a fox\0"}, "NUL"),
    ({"prompt": ["a fox", "an\0owl"]}, "NUL"),
    ({"negative_prompt": "\0"}, "NUL"),
    ({"negative_prompt": None}, "prompts are texts"),
    ({"negative_prompt": [7]}, "prompts are texts"),
    ({"steps": 0}, "1 to 1000"),
    ({"steps": -1}, "1 to 1000"),
    ({"steps": 1001}, "1 to 1000"),
    ({"steps": 2.5}, "1 to 1000"),
    ({"steps": True}, "1 to 1000"),
    ({"steps": np.bool_(True)}, "1 to 1000"),
    ({"steps": np.float64(2)}, "1 to 1000"),
    ({"seed": np.int64(-1)}, "whole number from 0"),
    ({"strength": 0.6}, "`sana edit` or ImageToImage"),
    ({"best_of": 16, "score": 31.2}, "`sana generate`, or by this call without best_of and score"),
    ({"guidance": float("nan")}, "finite"),
    ({"guidance": float("inf")}, "finite"),
    ({"guidance": -0.1}, "0 or more"),
    ({"guidance": "4.5"}, "must be a number"),
    ({"seed": -1}, "whole number from 0"),
    ({"seed": 2**63}, "whole number from 0"),
    ({"seed": 1.0}, "whole number from 0"),
    ({"num_images": 0}, "from 1 to 256"),
    ({"num_images": 10**9}, "from 1 to 256"),
    ({"prompt": ["fox", "owl"], "num_images": 129}, "from 1 to 128"),
    ({"solver": "heun"}, '"dpm"'),
    ({"solver": 3}, '"dpm"'),
    ({"solver": "scm"}, 'tiny supports only "dpm"'),
    ({"output": "jpg"}, '"pil"'),
    ({"latents": torch.zeros(1, 8, 3, 2)}, r"\(1, 8, 2, 3\)"),
    ({"latents": torch.zeros(8, 2, 3)}, r"\(1, 8, 2, 3\)"),
    ({"latents": torch.zeros(1, 8, 2, 3), "num_images": 2}, r"\(2, 8, 2, 3\)"),
    ({"latents": torch.zeros(1, 8, 2, 3, dtype=torch.int64)}, "floats"),
    ({"latents": np.zeros((1, 8, 2, 3))}, "floats"),
    ({"latents": torch.full((1, 8, 2, 3), torch.nan)}, "finite"),
]
BAD_SIZES = [
    ({"width": 100}, "96x64"),
    ({"height": 4128}, "96x4096"),
    ({"width": 0}, "64x64"),
    ({"width": -64}, "64x64"),
    ({"height": 32}, "96x64"),
    ({"width": 64.0}, "whole numbers"),
    ({"height": True}, "whole numbers"),
    ({"width": "64"}, "whole numbers"),
]


@pytest.mark.parametrize(("settings", "says"), BAD_SETTINGS + BAD_SIZES, ids=lambda value: repr(value)[:50])
def test_bad_settings_are_told_before_any_work(pipe, monkeypatch, settings, says) -> None:
    monkeypatch.setattr(pipe.text_encoder, "encode", lambda *_: pytest.fail("worked"))
    kind = SizeError if {"width", "height"} & set(settings) else SettingsError
    with pytest.raises(kind, match=says) as caught:
        pipe.stream(**{"prompt": "fox"} | settings)
    assert len(str(caught.value)) < 300


def test_a_name_that_is_no_setting_is_a_type_error_as_of_any_function(pipe) -> None:
    for call in (pipe, pipe.stream):
        with pytest.raises(TypeError, match=r"^guidence is not an argument here: did you mean guidance\?"):
            call(PROMPT, guidence=4.5)


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta?", ""])
def test_an_absent_device_is_a_settings_error(name) -> None:
    with pytest.raises(SettingsError, match="no device"):
        choose_device(name)


def broken(pipe: TextToImage, part: str, value: float) -> TextToImage:
    """The pipeline with one weight of one part spoiled."""
    spoiled = copy.copy(pipe)
    module = copy.deepcopy(getattr(pipe, part))
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] = value
    setattr(spoiled, part, module)
    return spoiled


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_spoiled_weights_are_a_numerics_error_that_says_where(pipe, value) -> None:
    with pytest.raises(NumericsError, match=r"Step 1 of 3 .* damaged"):
        broken(pipe, "transformer", value)(PROMPT)
    with pytest.raises(NumericsError, match=r"decoded image .* damaged"):
        broken(pipe, "autoencoder", value)(PROMPT)


def test_in_16_bits_a_numerics_error_names_the_dtype_and_the_models_rule(pipe) -> None:
    spoiled = broken(pipe, "transformer", torch.nan)
    spoiled.transformer.to(torch.bfloat16)
    with pytest.raises(NumericsError, match=r'in torch.bfloat16: .*dtype="float32".*"any"'):
        spoiled(PROMPT)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_decoding_out_of_memory_keeps_the_denoised_latents(pipe, monkeypatch, error) -> None:
    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(DCAE, "decode_rows", fail)
        with pytest.raises(MemoryLimitError, match="latents") as caught:
            pipe(PROMPT, seed=2)
    kept = pipe.decode(caught.value.latents).clamp(-1, 1)
    assert torch.equal(kept, pipe(PROMPT, seed=2, output="pt").images)


def test_other_runtime_errors_are_not_taken_for_a_lack_of_memory(pipe, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(type(pipe.transformer), "velocity", fail)
    with pytest.raises(RuntimeError, match="multiplied") as caught:
        pipe(PROMPT)
    assert not isinstance(caught.value, SanaError)

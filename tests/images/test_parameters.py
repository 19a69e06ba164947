"""The text that other programs read: written as they read it, and theirs read by our names."""

from __future__ import annotations

import json
import re

import pytest

from sanakit.images.parameters import read_fooocus, read_parameters, write_parameters

OURS = {
    **{"prompt": "a fox, in snow", "negative_prompt": "a dog", "width": 256, "height": 192, "steps": 10},
    **{"guidance": 2.5, "solver": "dpm", "seed": 7, "model": "pocket", "fingerprint": "195fc73a70fb"},
    **{"version": "0.1.0", "strength": 0.6, "control": 'edges 1 of 9f by "a, b"@90'},
}
FOOOCUS = {
    **{"prompt": "a cat", "negative_prompt": "", "full_prompt": ["a cat, cinematic"], "steps": 30},
    **{"resolution": "(1152, 896)", "guidance_scale": 4.0, "sampler": "dpmpp_2m_sde_gpu", "seed": "123"},
    **{"base_model": "juggernautXL", "loras": [["offset", 0.1, "ab"]], "version": "Fooocus v2.5.0"},
}


def parsed(text: str) -> dict[str, str]:
    """Read a text as galleries do: by line, and in the last line by name, a value quoted or up to a comma.

    Written from the notation alone; it shares nothing with the package.
    """
    lines = text.split("\n")
    fields = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', lines[-1])
    assert len(fields) >= 3, "fewer are taken for a part of the prompt"
    found = {name: json.loads(value) if value.startswith('"') else value for name, value in fields}
    start = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines) - 1)
    found["prompt"] = "\n".join(lines[:start])
    found["negative"] = "\n".join(lines[start:-1]).removeprefix("Negative prompt:").strip()
    return found


def test_other_programs_find_what_they_know() -> None:
    found = parsed(write_parameters(OURS))
    assert found == {
        **{"prompt": "a fox, in snow", "negative": "a dog", "Steps": "10", "Sampler": "DPM++ 2M"},
        **{"CFG scale": "2.5", "Seed": "7", "Size": "256x192", "Model hash": "195fc73a70", "Model": "pocket"},
        **{"Denoising strength": "0.6", "Control": OURS["control"], "Version": "sanakit 0.1.0"},
    }


@pytest.mark.parametrize("prompt", ["a fox\nin two lines", "naïve 狐", "Steps: 3, Seed: 4", ""])
@pytest.mark.parametrize("negative", ["", "a dog\nand a cat"])
def test_any_prompt_is_told_and_read_back(prompt: str, negative: str) -> None:
    text = write_parameters(OURS | {"prompt": prompt, "negative_prompt": negative})
    assert (parsed(text)["prompt"], parsed(text)["negative"]) == (prompt, negative)
    settings, others = read_parameters(text)
    assert settings == {
        **{"prompt": prompt, "negative_prompt": negative, "steps": 10, "seed": 7, "guidance": 2.5},
        **{"width": 256, "height": 192},
    }
    assert others["Control"] == OURS["control"]


def test_what_is_not_known_is_left_out() -> None:
    assert write_parameters({"prompt": "a", "steps": 1}) == "a\nSteps: 1"
    assert write_parameters({"prompt": "a"}) == write_parameters({}) == ""


@pytest.mark.parametrize(
    "text",
    ["", "a fox", "Steps: many, Seed: 1", "a fox\nSeed: 1, Steps: 20", "Steps", '"' * 20_000, "a:" * 20_000],
)
def test_another_text_is_no_record(text: str) -> None:
    assert read_parameters(text) == ({}, {})


@pytest.mark.parametrize(
    ("fields", "kept"),
    [("Size: 5x", {"Size": "5x"}), ("Seed: -1", {"Seed": "-1"}), ("CFG scale: nan", {"CFG scale": "nan"})],
)
def test_a_value_that_is_none_of_ours_stays_under_its_name(fields: str, kept: dict[str, str]) -> None:
    assert read_parameters(f"a\nSteps: 2, {fields}")[1] == kept


def test_a_negative_prompt_begins_a_line() -> None:
    settings, _ = read_parameters("a sign: Negative prompt: x\nNegative prompt: y\nSteps: 2")
    assert (settings["prompt"], settings["negative_prompt"]) == ("a sign: Negative prompt: x", "y")


def test_fooocus_is_read_into_the_same_names() -> None:
    settings, others = read_fooocus(json.dumps(FOOOCUS))
    assert settings == {
        **{"prompt": "a cat", "negative_prompt": "", "steps": 30, "seed": 123, "guidance": 4.0},
        **{"width": 1152, "height": 896},
    }
    assert others == {
        **{"Sampler": "dpmpp_2m_sde_gpu", "Model": "juggernautXL", "Version": "Fooocus v2.5.0"},
        "loras": "[['offset', 0.1, 'ab']]",
    }


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"prompt": "a"}', '{"prompt": 1, "steps": []}', "[" * 100_000]
)
def test_other_json_is_none_of_fooocus(text: str) -> None:
    assert read_fooocus(text) == ({}, {})

"""`sana generate --from`: images are drawn again by their files, and what cannot be done is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from sanakit.cli.drawing.options import parse_adapters
from sanakit.images.image import read_metadata, save
from sanakit.weights.fingerprint import first_digits

DRAWN = (
    "--steps",
    3,
    "--guidance",
    1.5,
    "--solver",
    "euler",
    "--negative",
    "blue",
    "--seed",
    5,
    "--size",
    "64x96",
)
WEB_UI = (
    "a (red:1.3) fox <lora:ink:0.7>\nNegative prompt: blue\nSteps: 2, Sampler: Euler a, CFG scale: 3, "
    "Seed: 9, Size: 64x96, Model hash: ab, Model: dream, Clip skip: 2, Version: v1.10"
)


def same(one: str | Path, other: str | Path) -> bool:
    with Image.open(one) as first, Image.open(other) as second:
        difference = ImageChops.difference(first.convert("RGB"), second.convert("RGB"))
    return max(high for _, high in difference.getextrema()) <= 1  # pyright: ignore


def foreign(path: str, text: str) -> str:
    chunks = PngInfo()
    chunks.add_text("parameters", text)
    Image.new("RGB", (64, 96)).save(path, pnginfo=chunks)
    return path


def rewritten(source: str, target: str, **settings: object) -> str:
    """Save an image with some of its settings changed; None takes one out."""
    kept = {key: value for key, value in (read_metadata(source) | settings).items() if value is not None}
    with Image.open(source) as image:
        save(image.convert("RGB"), target, kept)
    return target


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_file_of_ours_draws_its_image_again(sana, tiny: Path, suffix: str) -> None:
    sana("generate", "a fox, (red)", "--model", tiny, *DRAWN, "-o", "plain.png")
    sana("generate", "a fox, (red)", "--model", tiny, *DRAWN, "-o", f"one.{suffix}")
    outcome = sana("generate", "--from", f"one.{suffix}", "--model", tiny, "-o", "two.png")
    assert (outcome.code, outcome.err) == (0, "")
    assert read_metadata("two.png") == read_metadata("plain.png") == read_metadata(f"one.{suffix}")
    assert same("plain.png", "two.png")


def test_what_is_typed_counts_more_and_a_users_defaults_less(sana, tiny: Path, tmp_path: Path) -> None:
    sana("generate", "a fox", "--model", tiny, *DRAWN, "-o", "one.png")
    (tmp_path / "config" / "sanakit").mkdir(parents=True)
    (tmp_path / "config" / "sanakit" / "config.toml").write_text(
        'steps = 9\nnegative = "x"\nprompt-weights = true'
    )
    sana(
        "generate",
        "an owl",
        "--from",
        "one.png",
        "--model",
        tiny,
        "--seed",
        6,
        "-H",
        64,
        "-W",
        64,
        "-o",
        "b.png",
    )
    expected = {"prompt": "an owl", "seed": 6, "width": 64, "height": 64}
    assert read_metadata("b.png") == read_metadata("one.png") | expected


def test_the_model_is_known_by_its_fingerprint(sana, tiny: Path, sprint: Path) -> None:
    sana("generate", "a fox", "--model", tiny, *DRAWN, "-o", "one.png")
    assert read_metadata("one.png")["fingerprint"] == first_digits(tiny)
    other = rewritten("one.png", "other.png", fingerprint="0" * 12)
    told = sana("generate", "--from", other, "--model", tiny, "-o", "two.png").err
    assert f"other weights (fingerprint {'0' * 12}) than those of {tiny} here ({first_digits(tiny)})" in told
    refused = sana("generate", "--from", "one.png", "-o", "two.png")
    assert refused.code == 2
    assert "was drawn by 'tiny'" in refused.err
    assert "give its folder with --model" in refused.err
    renamed = rewritten("one.png", "named.png", model=str(tiny))  # a name that is a folder here
    assert sana("generate", "--from", renamed, "-o", "three.png").code == 0
    unknown = rewritten("one.png", "unknown.png", fingerprint=None)
    assert (
        "It was drawn by tiny;" in sana("generate", "--from", unknown, "--model", tiny, "-o", "two.png").err
    )


def test_the_embedded_model_is_found_by_its_name(sana) -> None:
    sana("generate", "a fox", "--steps", 1, "--seed", 1, "-o", "one.png")
    again = sana("generate", "--from", "one.png", "-o", "two.png")
    assert (again.code, again.err) == (0, "")
    assert same("one.png", "two.png")


def test_a_grid_of_images_is_refused(sana, tiny: Path) -> None:
    sana("generate", "a fox", "--model", tiny, *DRAWN, "-o", "one.png")
    grid = rewritten("one.png", "grid.png", grid_across="Steps: 1; 2", grid_down="Nothing: ")
    outcome = sana("generate", "--from", grid, "--model", tiny, "-o", "two.png")
    assert (outcome.code, Path("two.png").exists()) == (2, False)
    assert "grid.png is a grid of images, and --from draws a single one" in outcome.err


def test_images_that_no_file_holds_are_told(sana, tiny: Path) -> None:
    sana("generate", "a fox", "--model", tiny, *DRAWN, "-o", "one.png")
    made = rewritten(
        "one.png",
        "made.png",
        strength=0.6,
        control="edges 0.8 from 0 to 0.5 of 00ff by net@11",
        version="0.0.1",
    )
    told = sana("generate", "--from", made, "--model", tiny, "-o", "two.png").err
    assert "made from an image at a strength of 0.6, which no file holds" in told
    assert "It was steered (edges 0.8 from 0 to 0.5 of 00ff by net@11)" in told
    assert "give the image with --control" in told
    assert "drawn by version 0.0.1" in told
    again = sana("generate", "--from", made, "--model", tiny, "-o", "other.png", "--json")
    warned = json.loads(again.out)["warnings"]
    assert len(warned) == 3
    assert again.err == "".join(f"Warning: {one}\n" for one in warned), "each once"
    noise = rewritten("one.png", "noise.png", seed=None)
    assert "noise that no file holds" in sana("generate", "--from", noise, "--model", tiny, "-o", "b.png").err
    assert "noise" not in sana("generate", "--from", noise, "--model", tiny, "-s", 1, "-o", "b.png").err
    assert same("one.png", "two.png")


def test_the_controlnet_of_an_image_steers_again_and_another_is_told(sana, tmp_path: Path) -> None:
    sketch = tmp_path / "sketch.png"
    Image.linear_gradient("L").save(sketch)
    sana("generate", "a fox", "--steps", 1, "-s", 1, "--control", sketch, "-o", "one.png")
    again = sana("generate", "--from", "one.png", "--control", sketch, "-o", "two.png")
    assert (again.code, again.err) == (0, "")
    assert same("one.png", "two.png")
    record = str(read_metadata("one.png")["control"]).replace("by pocket-lines@", "by mine@")
    other = rewritten("one.png", "other.png", control=record)
    told = sana("generate", "--from", other, "--control", sketch, "-o", "two.png").err
    assert "steered by the ControlNet mine; pocket-lines steers instead: give it with --control-model" in told


def test_adapters_are_found_beside_the_image_or_named(sana, tiny: Path, ink: Path) -> None:
    sana("generate", "a fox", "--model", tiny, *DRAWN, "--adapter", f"{ink}:0.8", "-o", "one.png")
    ink.rename(ink.with_name("elsewhere.safetensors"))
    told = sana("generate", "--from", "one.png", "--model", tiny, "-o", "without.png").err
    assert "drawn with the adapter ink.safetensors (fingerprint " in told
    assert "--adapter FILE:0.8" in told
    ink.with_name("elsewhere.safetensors").rename("ink.safetensors")
    outcome = sana("generate", "--from", "one.png", "--model", tiny, "-o", "two.png")
    assert (outcome.code, outcome.err) == (0, "")
    assert read_metadata("two.png") == read_metadata("one.png")
    assert same("one.png", "two.png")
    assert not same("one.png", "without.png")


def test_settings_of_other_programs_are_taken_and_the_rest_is_named(sana, tiny: Path) -> None:
    outcome = sana("generate", "--from", foreign("theirs.png", WEB_UI), "--model", tiny, "-o", "two.png")
    assert outcome.code == 0
    found = read_metadata("two.png")
    expected = {
        "prompt": "a (red:1.3) fox",
        "negative_prompt": "blue",
        "steps": 2,
        "guidance": 3.0,
        "seed": 9,
    }
    assert expected.items() <= found.items()
    assert (found["width"], found["height"], found["solver"]) == (64, 96, "dpm")
    assert found["prompt_weights"] is True
    assert "Its model dream is not a SANA model" in outcome.err
    assert "Left out, as sana has no such setting or file: Sampler Euler a, Clip skip 2, " in outcome.err
    assert "in the prompt lora ink at 0.7." in outcome.err
    assert "read as --prompt-weights does" in outcome.err


@pytest.mark.parametrize(("sampler", "solver"), [("Euler", "euler"), ("DPM++ 2M", "dpm")])
def test_a_sampler_that_we_have_is_taken_by_our_name(sana, tiny: Path, sampler: str, solver: str) -> None:
    text = f"a fox\nSteps: 2, Sampler: {sampler}, Seed: 1, Size: 64x64"
    told = sana("generate", "--from", foreign("a.png", text), "--model", tiny, "-o", "two.png").err
    assert "Left out" not in told
    assert read_metadata("two.png")["solver"] == solver


def test_what_another_program_wrote_cannot_steer_the_terminal(sana, tiny: Path) -> None:
    text = "a fox\nSteps: 2, Sampler: \x1b[2J\x07odd, Seed: 1, Size: 64x64"
    told = sana("generate", "--from", foreign("a.png", text), "--model", tiny, "-o", "two.png").err
    assert "Sampler  [2J odd" in told
    assert not {"\x1b", "\x07"} & {*told}


def test_weights_that_cannot_be_read_stay_text(sana, tiny: Path) -> None:
    text = "a ((red:1.3) fox\nSteps: 2, Seed: 1, Size: 64x64"
    told = sana("generate", "--from", foreign("a.png", text), "--model", tiny, "-o", "two.png").err
    assert "Its weights are read as text: The prompt has a ( without a )" in told
    assert "prompt_weights" not in read_metadata("two.png")


def test_our_own_text_is_enough_where_another_program_wrote_the_file_again(sana, tiny: Path) -> None:
    sana("generate", "a fox", "--model", tiny, *DRAWN, "-o", "one.png")
    with Image.open("one.png") as image:
        text = image.info["parameters"]
    again = sana("generate", "--from", foreign("kept.png", text), "--model", tiny, "-o", "two.png")
    assert (again.code, again.err) == (0, "")
    assert read_metadata("two.png") == read_metadata("one.png")


def test_a_graph_of_comfyui_is_drawn_by(sana, tiny: Path) -> None:
    inputs = {
        "seed": 4,
        "steps": 2,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "karras",
        "positive": ["2", 0],
    }
    graph = {"1": {"class_type": "KSampler", "inputs": inputs}}
    graph["2"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}}
    chunks = PngInfo()
    chunks.add_text("prompt", json.dumps(graph))
    Image.new("RGB", (64, 64)).save("graph.png", pnginfo=chunks)
    told = sana("generate", "--from", "graph.png", "--model", tiny, "-o", "two.png").err
    expected = {"prompt": "a fox", "seed": 4, "steps": 2, "guidance": 2.0, "solver": "euler"}
    assert expected.items() <= read_metadata("two.png").items()
    assert "Left out, as sana has no such setting or file: Schedule type karras." in told


def test_what_cannot_be_taken_from_is_refused(sana, tiny: Path) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    for words, told in {
        ("plain.png",): "It carries no settings",
        ("missing.png",): "is not an image",
        (str(tiny),): "is not an image",
        ("plain.png", "--prompts", "a.txt"): "cannot be combined",
    }.items():
        outcome = sana("generate", "--from", *words)
        assert outcome.code == 2
        assert told in outcome.err


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files_can_be_written_without_settings(sana, tiny: Path, suffix: str) -> None:
    sana("generate", "a fox", "--model", tiny, "--no-metadata", "-o", f"a.{suffix}")
    with Image.open(f"a.{suffix}") as image:
        image.load()
        assert not image.getexif()
        assert not getattr(image, "text", {})
    assert "--no-metadata cannot be" in sana("generate", "--prompts", "a.txt", "--no-metadata").err


def test_an_edit_keeps_the_graph_that_comfyui_opens(sana, tiny: Path) -> None:
    workflow = json.dumps({"nodes": [{"id": 3, "type": "KSampler"}], "links": []})
    chunks = PngInfo()
    chunks.add_text("workflow", workflow)
    chunks.add_text("prompt", json.dumps({"3": {"class_type": "KSampler", "inputs": {}}}))
    Image.new("RGB", (64, 64), "red").save("graph.png", pnginfo=chunks)
    before = Path("graph.png").read_bytes()
    sana("edit", "graph.png", "a fox", "--model", tiny, "-o", "new.png")
    with Image.open("new.png") as image:
        image.load()
        assert image.text["workflow"] == workflow  # pyright: ignore
    assert read_metadata("new.png")["prompt"] == "a fox"
    sana("edit", "graph.png", "a fox", "--model", tiny, "--no-metadata", "-o", "bare.png")
    assert "workflow" not in Image.open("bare.png").info
    assert Path("graph.png").read_bytes() == before


@pytest.fixture
def ink(tmp_path: Path) -> Path:
    """An adapter of the tiny model that changes its images."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    name = "transformer.transformer_blocks.0.attn1.to_q"
    tensors = {
        f"{name}.lora_{which}.weight": torch.randn(shape) for which, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    save_file(tensors, tmp_path / "ink.safetensors")
    assert parse_adapters([f"{tmp_path / 'ink.safetensors'}:0.8"])[0][1] == 0.8
    return tmp_path / "ink.safetensors"

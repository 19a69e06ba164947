"""Settings in graphs of ComfyUI: of the only sampler, by the links that lead to it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from sanakit.images.graphs import read_graph

GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            **{"seed": 5, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "karras"},
            **{"denoise": 0.8, "model": ["10", 0], "positive": ["9", 0], "negative": ["9", 1]},
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dream.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox ", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["4", 1]}},
    "9": {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"strength": 1.0, "positive": ["6", 0], "negative": ["7", 0], "image": ["11", 0]},
    },
    "10": {
        "class_type": "LoraLoader",
        "inputs": {
            "lora_name": "ink.safetensors",
            "strength_model": 0.7,
            "model": ["4", 0],
            "clip": ["4", 1],
        },
    },
    "12": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "a"}},
}
OURS = {
    "1": {"class_type": "SanakitLoadModel", "inputs": {"model": "pocket", "device": "auto"}},
    "2": {
        "class_type": "SanakitTextToImage",
        "inputs": {
            **{"model": ["1", 0], "prompt": "a red apple", "negative_prompt": "", "seed": 3, "steps": 0},
            **{"guidance": -1.0, "solver": "auto", "width": 0, "height": 0, "batch_size": 1},
        },
    },
}


def test_the_only_samplers_settings_are_read_through_its_links() -> None:
    settings, others, note = read_graph(json.dumps(GRAPH))
    assert settings == {
        **{"prompt": "a fox", "negative_prompt": "a dog", "steps": 20, "seed": 5, "guidance": 7.5},
        **{"width": 512, "height": 768},
    }
    assert others == {
        **{"Sampler": "euler", "Schedule type": "karras", "Denoising strength": "0.8"},
        **{"Model": "dream.safetensors", "LoRA": "ink.safetensors (0.7)"},
    }
    assert note == ""


def test_the_models_own_values_of_our_nodes_are_left_to_the_model() -> None:
    settings, others, _ = read_graph(json.dumps(OURS))
    assert settings == {"prompt": "a red apple", "negative_prompt": "", "seed": 3}
    assert others == {"Model": "pocket", "Solver": "auto"}


def test_a_graph_of_several_samplers_says_so() -> None:
    both = copy.deepcopy(GRAPH) | {"13": copy.deepcopy(GRAPH["3"])}
    for graph, number in ((both, 2), ({"5": GRAPH["5"]}, 0)):
        settings, others, note = read_graph(json.dumps(graph))
        assert (settings, others) == ({}, {})
        assert f"has {number} samplers" in note


@pytest.mark.parametrize("link", [["3", 0], ["99", 0], [], [None], {"a": 1}, None, 7])
def test_any_link_ends(link: Any) -> None:
    """A sampler that leads to itself, to nothing, or is not a link."""
    graph = copy.deepcopy(GRAPH)
    graph["3"]["inputs"] |= {"positive": link, "latent_image": link, "model": link, "steps": link}
    settings, _, _ = read_graph(json.dumps(graph))
    assert settings["negative_prompt"] == "a dog"
    assert "width" not in settings


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"a": 1}', '{"3": {"inputs": 4}}', "[" * 100_000])
def test_any_other_text_has_no_settings(text: str) -> None:
    assert read_graph(text)[0] == {}

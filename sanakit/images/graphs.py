"""Graphs that ComfyUI writes into image files, and the settings in those that draw one image in one way.

    prompt      the graph as it ran: {"3": {"class_type": "KSampler", "inputs": {"model": ["4", 0]}}}
    workflow    the same as its page shows it: {"nodes": [{"id": 3, "type": "KSampler", ...}], "links": ...}

An input is a value, or a link: the number of a node and of its output.
Source: files of ComfyUI 0.3; its own nodes' inputs, and those of `comfy/`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sanakit.images.parameters import Fields, Settings, json_object

WORKFLOW = "workflow"
GRAPH = ("prompt", WORKFLOW)  # ComfyUI's chunks
MOST_NODES = 10_000  # that are looked at from one input
_NODE = {"class_type", "type"}  # one of which names the class of a node
_SEEDS = ("seed", "noise_seed")
_MODELS = ("ckpt_name", "unet_name", "model")
_TEXTS = ("text", "prompt")

Inputs = Mapping[str, Any]


def is_graph(text: str) -> bool:
    """Return whether a chunk holds a graph of ComfyUI: a JSON object of nodes."""
    graph = json_object(text)
    nodes = graph.values() if "nodes" not in graph else graph["nodes"]
    if not isinstance(nodes, Collection):
        return False
    return bool(nodes) and all(isinstance(node, dict) and _NODE & node.keys() for node in nodes)


def workflow_of(texts: Mapping[Any, object]) -> str:
    """Return the graph in an image's texts that ComfyUI's page opens; "" without one."""
    text = str(texts.get(WORKFLOW, ""))
    return text if is_graph(text) else ""


def read_graph(text: str) -> tuple[Settings, Fields, str]:
    """Return the settings of a graph's only sampler by our names, other values by theirs, and a note.

    text: of the chunk `prompt`. Without exactly one sampler there are no settings, and the note says so.
    """
    graph = {str(number): node for number, node in json_object(text).items() if isinstance(node, dict)}
    nodes = {number: node["inputs"] for number, node in graph.items() if isinstance(node.get("inputs"), dict)}
    samplers = [inputs for inputs in nodes.values() if "steps" in inputs and {*_SEEDS} & inputs.keys()]
    if len(samplers) != 1:
        return {}, {}, f"Its graph has {len(samplers)} samplers: settings are read where there is one."
    sampler = samplers[0]
    fields: Fields = {}
    positive = _text(sampler, ("prompt", "positive"), nodes)
    negative = _text(sampler, ("negative_prompt", "negative"), nodes)
    found: Settings = {"prompt": positive, "negative_prompt": negative}
    found |= {"steps": steps} if (steps := _number(sampler, "steps")) >= 1 else {}
    for name in _SEEDS:
        found |= {"seed": int(seed)} if (seed := _number(sampler, name)) >= 0 else {}
    for name in ("cfg", "guidance"):
        found |= {"guidance": float(scale)} if (scale := _number(sampler, name)) >= 0 else {}
    for inputs in _upstream(sampler, ("latent_image", "latent"), nodes):
        sides = {side: int(_number(inputs, side)) for side in ("width", "height")}
        if min(sides.values()) > 0:
            found |= sides
            break
    named = {"Sampler": "sampler_name", "Schedule type": "scheduler", "Solver": "solver"}
    fields |= {ours: str(sampler[name]) for ours, name in named.items() if isinstance(sampler.get(name), str)}
    denoise = sampler.get("denoise", sampler.get("strength", 1))
    if isinstance(denoise, int | float) and denoise != 1:
        fields["Denoising strength"] = str(denoise)
    loras = []
    for inputs in _upstream(sampler, ("model",), nodes):
        if isinstance(inputs.get("lora_name"), str):
            loras.append(f"{inputs['lora_name']} ({inputs.get('strength_model', 1)})")
        for name in _MODELS:
            if isinstance(inputs.get(name), str):
                fields.setdefault("Model", inputs[name])
    fields |= {"LoRA": ", ".join(loras)} if loras else {}
    return found, fields, ""


def _number(inputs: Inputs, name: str) -> int | float:
    """Return a number of a node; -1 where it has none, or another node computes it."""
    value = inputs.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else -1


def _text(sampler: Inputs, inputs: tuple[str, ...], nodes: Mapping[str, Inputs]) -> str:
    """Return the prompt that reaches one of a sampler's inputs, or stands in it; "" where there is none."""
    for name in inputs:
        if isinstance(sampler.get(name), str):
            return sampler[name].strip()
    for found in _upstream(sampler, inputs, nodes):
        for name in _TEXTS:
            if isinstance(found.get(name), str):
                return found[name].strip()
    return ""


def _upstream(start: Inputs, through: tuple[str, ...], nodes: Mapping[str, Inputs]) -> Iterator[Inputs]:
    """Yield a node and those that lead to some of its inputs, each once, the nearest first.

    Of a node on the way, inputs of the same names come first: the positive prompt's way stays its own.
    """
    yield start
    waiting = [start[name] for name in through if name in start]
    seen: set[str] = set()
    while waiting and len(seen) < MOST_NODES:
        link = waiting.pop(0)
        if not isinstance(link, list) or not link or str(link[0]) in seen or str(link[0]) not in nodes:
            continue
        seen.add(str(link[0]))
        inputs = nodes[str(link[0])]
        yield inputs
        waiting += [inputs[name] for name in sorted(inputs, key=lambda name: name not in through)]

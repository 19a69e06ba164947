"""Names of our options in other programs of this field: a habit gets an answer instead of a riddle."""

from __future__ import annotations

from collections.abc import Collection

# An option of another program -> ours, or what to do.
OTHERS = {
    "--count": "--num-images",
    "--batch-count": "--num-images",
    "--n-iter": "--num-images",
    "--num-images-per-prompt": "--num-images",
    "--cfg": "--guidance",
    "--cfg-scale": "--guidance",
    "--guidance-scale": "--guidance",
    "--num-inference-steps": "--steps",
    "--sampling-steps": "--steps",
    "--negative-prompt": "--negative",
    "--sampler": "--solver",
    "--sampling-method": "--solver",
    "--scheduler": "--solver",
    "--lora": "--adapter",
    "--lora-paths": "--adapter",
    "--controlnet": "--control-model",
    "--control-image": "--control",
    "--quantize": "--plan",
    "--precision": "--dtype",
    "--torch-dtype": "--dtype",
    "--low-ram": "--memory",
    "--lowvram": "--memory",
    "--max-vram": "--memory",
    "--resolution": "--size",
    "--out": "--output",
    "--save": "--output",
    "--num-frames": "--frames",
    "--image": "sana edit IMAGE PROMPT",
    "--init-img": "sana edit IMAGE PROMPT",
    "--init-image": "sana edit IMAGE PROMPT",
    "--prompt": "the prompt alone, in quotes",
}


def ours(option: str, known: Collection[str]) -> str:
    """Return in a sentence what to use instead of an option, "" where that is not known.

    known: the options of the command.

    >>> ours("--cfg-scale", ["--guidance"])
    'Use --guidance.'
    >>> ours("--cfg-scale", ["--steps"])
    ''
    """
    instead = OTHERS.get(option, "")
    if instead.startswith("--"):
        return f"Use {instead}." if instead in known else ""
    return f"Use {instead}." if instead else ""

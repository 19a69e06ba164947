"""Names of our options in other programs of this field: a habit gets an answer instead of a riddle."""

from __future__ import annotations

from collections.abc import Collection

# An option of another program -> ours, the first that a command has.
OTHERS = {
    "--count": (
        "--num-images",
        "--num-clips",
    ),
    "--batch-count": (
        "--num-images",
        "--num-clips",
    ),
    "--n-iter": (
        "--num-images",
        "--num-clips",
    ),
    "--num-images-per-prompt": (
        "--num-images",
        "--num-clips",
    ),
    "--cfg": ("--guidance",),
    "--cfg-scale": ("--guidance",),
    "--guidance-scale": ("--guidance",),
    "--num-inference-steps": ("--steps",),
    "--sampling-steps": ("--steps",),
    "--negative-prompt": ("--negative",),
    "--sampler": ("--solver",),
    "--sampling-method": ("--solver",),
    "--scheduler": ("--solver",),
    "--lora": ("--adapter",),
    "--lora-paths": ("--adapter",),
    "--controlnet": ("--control-model",),
    "--control-image": ("--control",),
    "--quantize": ("--plan",),
    "--precision": ("--dtype",),
    "--torch-dtype": ("--dtype",),
    "--low-ram": ("--memory",),
    "--lowvram": ("--memory",),
    "--max-vram": ("--memory",),
    "--resolution": ("--size",),
    "--out": ("--output",),
    "--save": ("--output",),
    "--num-frames": ("--frames",),
    "--action": ("--path",),
    "--camera-path": ("--camera",),
}
# An option of another program -> what to do; of commands that take a sentence.
INSTEAD = {
    "--image": "sana edit IMAGE PROMPT, or sana video PROMPT --image IMAGE",
    "--init-img": "sana edit IMAGE PROMPT, or sana video PROMPT --image IMAGE",
    "--init-image": "sana edit IMAGE PROMPT, or sana video PROMPT --image IMAGE",
    "--prompt": "the prompt alone, in quotes",
}
# Ours of one command -> ours of another.
ELSEWHERE = {"--num-images": ("--num-clips",), "--num-clips": ("--num-images",)}


def ours(option: str, known: Collection[str], *, prompted: bool) -> str:
    """Return in a sentence what to use instead of an option, "" where that is not known.

    known: the options of the command. prompted: whether it takes a sentence.

    >>> ours("--cfg-scale", ["--guidance"], prompted=True)
    'Use --guidance.'
    >>> ours("--cfg-scale", ["--steps"], prompted=True)
    ''
    """
    targets = (*OTHERS.get(option, ()), *ELSEWHERE.get(option, ()))
    if found := next((target for target in targets if target in known), ""):
        return f"Use {found}."
    return f"Use {INSTEAD[option]}." if prompted and option in INSTEAD else ""

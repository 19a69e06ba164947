"""Names of our options in other programs of this field: a habit gets an answer instead of a riddle."""

from __future__ import annotations

from collections.abc import Collection, Sequence

# Names that people or other programs have for a command -> ours.
COMMANDS = {
    **dict.fromkeys(("page", "web", "webui", "gui", "browser", "gradio"), "ui"),
    **dict.fromkeys(("image", "picture", "txt2img", "t2i", "create", "run"), "generate"),
    **dict.fromkeys(("img2img", "i2i", "inpaint", "outpaint"), "edit"),
    **dict.fromkeys(("clip", "txt2vid", "t2v", "i2v", "animate"), "video"),
    **dict.fromkeys(("server", "api"), "serve"),
    **dict.fromkeys(("download", "get"), "pull"),
}
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


def our_command(words: Sequence[str]) -> str:
    """Return in a sentence which of our commands is meant by a command line, "" where that is not known.

    >>> our_command(["page", "--port", "0"]), our_command(["help", "page"]), our_command(["edit", "a.png"])
    ('Use sana ui.', 'Use sana ui.', '')
    """
    named = words[1:2] if words[:1] == ["help"] else words[:1]
    return f"Use sana {COMMANDS[named[0]]}." if named and named[0] in COMMANDS else ""


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

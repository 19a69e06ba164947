"""The text by which image files tell their settings to other programs, written and read.

    a cat                                                        prompt, of any number of lines
    Negative prompt: a dog                                       left out where there is none
    Steps: 20, Sampler: DPM++ 2M, CFG scale: 7, Seed: 1, ...     the last line

Stable Diffusion web UI writes it as the chunk `parameters` of PNG files and into the Exif user comment of
others; Civitai and most galleries read it. Fooocus writes it too, or JSON in its place.
Source: files of Stable Diffusion web UI 1.10 and Fooocus 2.5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Fields = dict[str, str]
Settings = dict[str, str | int | float]  # prompt, negative_prompt, width, height, steps, guidance, seed, ...

SAMPLERS = {"dpm": "DPM++ 2M", "euler": "Euler", "scm": "SCM"}  # our solvers by their names
MOST_FIELDS = 20_000  # characters of the line of settings
_BY_US = "sanakit "
HASH = 10  # digits of a model's hash
# Our further settings under names that no other program gives another meaning.
_FURTHER = {
    "strength": "Denoising strength",
    "guidance_kind": "Guidance kind",
    "dialect": "Dialect",
    "prompt_weights": "Prompt weights",
    "adapters": "Adapters",
    "control": "Control",
    "upscale": "Hires upscale",  # the web UI's own name
    "upscale_strength": "Upscale strength",
    "upscale_model": "Upscale model",
}
_NEGATIVE = re.compile(r"^\s*Negative prompt:", re.MULTILINE)
_FIELD = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')  # up to a comma that no quotes hold
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
_RESOLUTION = re.compile(r"\(\s*'?(\d{1,6})'?\s*,\s*'?(\d{1,6})'?\s*\)")
_NUMBER = re.compile(r"\d{1,6}(\.\d{1,6})?")
# Of Fooocus -> what the web UI calls it.
_FOOOCUS = {
    "sampler": "Sampler",
    "scheduler": "Schedule type",
    "base_model": "Model",
    "base_model_hash": "Model hash",
    "seed": "Seed",
    "guidance_scale": "CFG scale",
    "version": "Version",
}


def write_parameters(metadata: Mapping[str, object]) -> str:
    """Return the text of settings by our names; "" of what does not have at least a prompt and steps.

    >>> write_parameters({"prompt": "a cat", "steps": 2, "solver": "euler", "seed": 7, "model": "tiny"})
    'a cat\\nSteps: 2, Sampler: Euler, Seed: 7, Model: tiny'
    """
    if not {"prompt", "steps"} <= metadata.keys():
        return ""
    fields: dict[str, object] = {"Steps": metadata["steps"]}
    solver = str(metadata.get("solver", ""))
    fields["Sampler"] = SAMPLERS.get(solver, solver)
    fields["CFG scale"], fields["Seed"] = metadata.get("guidance"), metadata.get("seed")
    if {"width", "height"} <= metadata.keys():
        fields["Size"] = f"{metadata['width']}x{metadata['height']}"
    fields["Model hash"] = str(metadata.get("fingerprint", ""))[:HASH]
    fields["Model"] = metadata.get("model")
    fields |= {theirs: metadata.get(ours) for ours, theirs in _FURTHER.items()}
    if "version" in metadata:
        fields["Version"] = f"{_BY_US}{metadata['version']}"
    told = [f"{name}: {_quoted(value)}" for name, value in fields.items() if value not in (None, "")]
    negative = metadata.get("negative_prompt")
    lines = [str(metadata["prompt"]), *([f"Negative prompt: {negative}"] if negative else [])]
    return "\n".join([*lines, ", ".join(told)])


def read_parameters(text: str) -> tuple[Settings, Fields]:
    """Return the settings in a text by our names, and its other fields by theirs.

    Both are empty for any other text.
    >>> read_parameters("a cat\\nNegative prompt: a dog\\nSteps: 20, CFG scale: 7, Sampler: Euler a")
    ({'prompt': 'a cat', 'negative_prompt': 'a dog', 'steps': 20, 'guidance': 7.0}, {'Sampler': 'Euler a'})
    """
    words, _, last = text.strip().rpartition("\n")
    if not last.startswith("Steps:"):
        return {}, {}
    named = [one.partition(":") for one in _FIELD.findall(last[:MOST_FIELDS])]
    fields = {name.strip(): _unquoted(value.strip()) for name, colon, value in named if colon}
    prompt, *negative = _NEGATIVE.split(words, maxsplit=1)
    return _taken(prompt, "".join(negative), fields)


def ours_in(settings: Settings, fields: Fields) -> dict[str, str]:
    """Return the texts of our settings where a text of `write_parameters` was read; {} for any other.

    That is what remains of them when another program writes an image again.
    """
    version = fields.get("Version", "")
    if not version.startswith(_BY_US) or "Model" not in fields:
        return {}
    texts = {name: str(value) for name, value in settings.items()}
    texts |= {"version": version.removeprefix(_BY_US), "model": fields["Model"]}
    texts |= {ours: fields[theirs] for ours, theirs in _FURTHER.items() if theirs in fields}
    solvers = {theirs: ours for ours, theirs in SAMPLERS.items()}
    texts |= {"solver": solvers[fields["Sampler"]]} if fields.get("Sampler") in solvers else {}
    return texts | ({"fingerprint": fields["Model hash"]} if "Model hash" in fields else {})


def read_fooocus(text: str) -> tuple[Settings, Fields]:
    """Return the same of the JSON that Fooocus writes; both are empty for any other text.

    >>> read_fooocus('{"prompt": "a cat", "steps": 30, "sharpness": 2.0}')
    ({'prompt': 'a cat', 'negative_prompt': '', 'steps': 30}, {'sharpness': '2.0'})
    """
    content = json_object(text)
    if not {"prompt", "steps"} <= content.keys():
        return {}, {}
    prompt, negative = (str(content.pop(key, "")) for key in ("prompt", "negative_prompt"))
    for key in ("full_prompt", "full_negative_prompt", "metadata_scheme"):  # made of the others
        content.pop(key, None)
    fields = {"Steps": str(content.pop("steps"))}
    if size := _RESOLUTION.fullmatch(str(content.get("resolution", ""))):
        fields["Size"] = f"{size[1]}x{size[2]}"
        del content["resolution"]
    fields |= {_FOOOCUS.get(str(key), str(key)): str(value) for key, value in content.items()}
    return _taken(prompt, negative, fields)


def json_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object that a text in a file is; an empty one for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _taken(prompt: str, negative: str, fields: Fields) -> tuple[Settings, Fields]:
    """Return the settings in fields of the web UI's names, and the fields that are none of ours."""
    steps = fields.pop("Steps", "")
    if not re.fullmatch(r"\d{1,9}", steps):
        return {}, {}
    found: Settings = {"prompt": prompt.strip(), "negative_prompt": negative.strip(), "steps": int(steps)}
    if re.fullmatch(r"\d{1,20}", fields.get("Seed", "")):
        found["seed"] = int(fields.pop("Seed"))
    if size := _SIZE.fullmatch(fields.get("Size", "")):
        found |= {"width": int(size[1]), "height": int(size[2])}
        del fields["Size"]
    if _NUMBER.fullmatch(scale := fields.get("CFG scale", "")):
        found["guidance"] = float(scale)
        del fields["CFG scale"]
    return found, fields


def _quoted(value: object) -> str:
    """Return a value as it may stand between commas: as JSON where it holds a sign that parts fields."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:\n"') else text


def _unquoted(text: str) -> str:
    if text.startswith('"'):
        try:
            return str(json.loads(text))
        except ValueError:
            pass
    return text.strip('"')

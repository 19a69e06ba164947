"""Read how an image was made from its file: `sana inspect IMAGE`.

Our own PNG files carry their settings as text chunks (`image.py`). Stable Diffusion web UI writes one text,
`parameters`; into JPEG and WebP files as the Exif user comment. ComfyUI writes its graph as JSON, in the
chunks `prompt` (to run) and `workflow` (to open in its page).
Source: files of Stable Diffusion web UI 1.10 and ComfyUI.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image

from sanakit.errors import SettingsError
from sanakit.images.image import Metadata, read_metadata
from sanakit.images.opening import open_image
from sanakit.reading import check_file

SANAKIT, WEB_UI, COMFYUI = "sanakit", "Stable Diffusion web UI", "ComfyUI"
GRAPH = ("prompt", "workflow")  # ComfyUI's chunks
MOST_FIELDS = 20_000  # characters of a web UI's line of settings
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # PNG, JPEG; WebP has its size in between
_NEGATIVE = "Negative prompt:"
_FIELD = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')  # up to a comma that no quotes hold
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
_NODE = {"class_type", "type"}  # one of which names the class of a graph's node


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """An image's file. width, height: in pixels. by: which program's settings it carries; "": none.

    settings: by our names, as far as its file tells them. others: what another program wrote besides, by its
    names. chunks: names of text chunks that hold a graph of ComfyUI.
    """

    path: str
    format: str
    width: int
    height: int
    by: str = ""
    settings: Metadata = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    chunks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def describe_image(path: str | os.PathLike[str]) -> ImageFacts | None:
    """Return the facts of a PNG, JPEG or WebP file, whatever it is called; None for any other place.

    Raises SettingsError, SizeError for a damaged or too large one.
    """
    if not _begins_as_image(path):
        return None
    image = open_image(path, os.fspath(path))
    texts = {str(name): str(text) for name, text in getattr(image, "text", {}).items()}
    about: dict[str, Any] = {
        "path": os.fspath(path),
        "format": "WebP" if image.format == "WEBP" else str(image.format),
        "width": image.width,
        "height": image.height,
        "chunks": tuple(name for name in GRAPH if _is_graph(texts.get(name, ""))),
    }
    try:
        return ImageFacts(**about, by=SANAKIT, settings=read_metadata(path))
    except SettingsError:  # not ours
        pass
    written = texts.get("parameters") or _comment(image)
    settings, others = read_parameters(written)
    if settings:
        note = f"These are settings of {WEB_UI}: sana draws another image by them."
        return ImageFacts(**about, by=WEB_UI, settings=settings, others=others, notes=(note,))
    if about["chunks"]:
        note = f"It carries a graph of {COMFYUI}: drop the file on its page to open that."
        return ImageFacts(**about, by=COMFYUI, notes=(note,))
    kept = "" if image.format == "PNG" else ", as only PNG files of sana do"
    return ImageFacts(**about, notes=(f"It carries no settings{kept}: how it was made is not known.",))


def read_parameters(text: str) -> tuple[Metadata, dict[str, str]]:
    """Return the settings in a text of Stable Diffusion web UI by our names, and its other fields.

    Both are empty for any other text.
    >>> read_parameters("a cat\\nNegative prompt: a dog\\nSteps: 20, CFG scale: 7, Sampler: Euler a")
    ({'prompt': 'a cat', 'negative_prompt': 'a dog', 'steps': 20, 'guidance': 7.0}, {'Sampler': 'Euler a'})
    """
    words, _, last = text.strip().rpartition("\n")
    named = [one.partition(":") for one in _FIELD.findall(last[:MOST_FIELDS])]
    fields = {name.strip(): value.strip().strip('"') for name, colon, value in named if colon}
    steps = fields.pop("Steps", "")
    if not re.fullmatch(r"\d{1,9}", steps) or not last.startswith("Steps:"):
        return {}, {}
    prompt, _, negative = words.partition(_NEGATIVE)
    found: Metadata = {"prompt": prompt.strip(), "negative_prompt": negative.strip(), "steps": int(steps)}
    if re.fullmatch(r"\d{1,20}", fields.get("Seed", "")):
        found["seed"] = int(fields.pop("Seed"))
    if size := _SIZE.fullmatch(fields.get("Size", "")):
        found |= {"width": int(size[1]), "height": int(size[2])}
        del fields["Size"]
    if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", scale := fields.get("CFG scale", "")):
        found["guidance"] = float(scale)
        del fields["CFG scale"]
    return found, fields


def _begins_as_image(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as an image does. Raises SettingsError for what is not a plain file."""
    try:
        if not os.path.isfile(path):
            return False
        check_file(path)
        with open(path, "rb") as file:
            start = file.read(16)
    except (OSError, ValueError):
        return False
    return start.startswith(_BEGINNINGS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def _is_graph(text: str) -> bool:
    """Return whether a chunk holds a graph of ComfyUI: a JSON object of nodes."""
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(graph, dict):
        return False
    nodes = graph.values() if "nodes" not in graph else graph["nodes"]
    if not isinstance(nodes, Collection):
        return False
    return bool(nodes) and all(isinstance(node, dict) and _NODE & node.keys() for node in nodes)


def _comment(image: Image.Image) -> str:
    """Return the Exif user comment of an image; "" without one."""
    try:
        raw = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    except Exception:  # damaged Exif data raise what their reader stumbles over; the pixels are sound
        return ""
    if not isinstance(raw, bytes):
        return str(raw)
    if raw.startswith(b"UNICODE\0"):
        return raw[8:].decode("utf-16-be", "replace")
    return raw.removeprefix(b"ASCII\0\0\0").decode("ascii", "replace")

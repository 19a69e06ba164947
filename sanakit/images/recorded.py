"""Read how an image was made from its file: `sana inspect IMAGE`.

Our own files carry their settings (`settings.py`). Stable Diffusion web UI and Fooocus write one text,
`parameters.py`; into JPEG and WebP files as the Exif user comment. ComfyUI writes its graph, `graphs.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sanakit.images.graphs import GRAPH, is_graph, read_graph
from sanakit.images.opening import open_image
from sanakit.images.parameters import ours_in, read_fooocus, read_parameters
from sanakit.images.settings import Metadata, as_settings, metadata_of, user_comment
from sanakit.reading import check_file

SANAKIT, WEB_UI, FOOOCUS, COMFYUI = "sanakit", "Stable Diffusion web UI", "Fooocus", "ComfyUI"
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # PNG, JPEG; WebP has its size in between


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
        "chunks": tuple(name for name in GRAPH if is_graph(texts.get(name, ""))),
    }
    if ours := metadata_of(image):
        return ImageFacts(**about, by=SANAKIT, settings=ours)
    written = texts.get("parameters") or user_comment(image)
    for read, by in ((read_parameters, WEB_UI), (read_fooocus, FOOOCUS)):
        settings, others = read(written)
        if texts_of_ours := ours_in(settings, others):
            with suppress(ValueError, KeyError):
                return ImageFacts(**about, by=SANAKIT, settings=settings | as_settings(texts_of_ours))
        if settings:
            by = FOOOCUS if others.get("Version", "").startswith(FOOOCUS) else by
            return ImageFacts(**about, by=by, settings=settings, others=others, notes=(_foreign(by),))
    if about["chunks"]:
        settings, others, note = read_graph(texts.get(GRAPH[0], ""))
        notes = f"It carries a graph of {COMFYUI}: drop the file on its page to open that.", note
        kept = tuple(one for one in notes if one)
        return ImageFacts(**about, by=COMFYUI, settings=settings, others=others, notes=kept)
    return ImageFacts(**about, notes=("It carries no settings: how it was made is not known.",))


def _foreign(by: str) -> str:
    return f"These are settings of {by}: sana draws another image by them."


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

"""Settings in image files: text chunks of PNG, Exif of JPEG and WebP.

PNG            a text chunk for each setting by our names, and `parameters`, which other programs read
JPEG, WebP     Exif: `parameters` as the user comment, and all settings as JSON in the maker note

Text in printable ASCII is a tEXt chunk, which every reader knows, any other is iTXt (UTF-8).
Source: PNG (third edition) 11.3.3, Exif 2.32 (UserComment, MakerNote).
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from sanakit import __version__
from sanakit.errors import SettingsError
from sanakit.images.parameters import Settings as Metadata
from sanakit.images.parameters import json_object, write_parameters

EXIF_FORMATS = ("JPEG", "WEBP")
GRID = ("grid_across", "grid_down")  # settings of a sheet of images, one for each pair of values
MOST_EXIF = 65_533 - 6  # bytes in a JPEG file, less the signature
_OURS = "sanakit"  # the only key of the maker note's object
_UNICODE = b"UNICODE\0"  # a user comment in UTF-16, in the byte order that other programs write
_PLAIN = re.compile(r"[\n -~]*")
# The texts that are settings, besides "size"; those of other programs are left alone.
_KINDS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("steps", "seed", "best_of"), int),
    **dict.fromkeys(("guidance", "strength", "score", "upscale", "upscale_strength"), float),
    **dict.fromkeys(("prompt", "negative_prompt", "guidance_kind", "solver", "dialect", "adapters"), str),
    **dict.fromkeys(("control", "model", "fingerprint", "upscale_model", "version"), str),
    **dict.fromkeys(GRID, str),
    "prompt_weights": {"True": True, "False": False}.__getitem__,
}


def file_options(file_format: str, metadata: Mapping[str, object], quality: int) -> dict[str, Any]:
    """Return Pillow's options for writing a file of a format with its settings. file_format: as Pillow's.

    Warns where a JPEG file has no room for them.
    """
    if file_format == "PNG":
        return {"pnginfo": _chunks(metadata)}
    told = {"quality": quality}
    if not metadata:
        return told
    exif = _exif(metadata)
    if file_format == "JPEG" and len(exif.tobytes()) > MOST_EXIF:
        warnings.warn(
            "The settings take more than the 64 KB that a JPEG file has for them, so it carries none: save "
            "it as PNG to keep them.",
            stacklevel=4,
        )
        return told
    return {**told, "exif": exif}


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Read back a file's settings alone, as they stood in `Result.metadata`. Raises SettingsError.

    path: of a PNG, JPEG or WebP file.
    """
    try:
        if isinstance(path, str | os.PathLike) and not os.path.isfile(path):
            raise OSError  # reading a pipe may never end
        with Image.open(path, formats=["PNG", *EXIF_FORMATS]) as image:  # another reader may start a program
            image.load()  # text chunks may come after the pixels
            if found := metadata_of(image):
                return found
    # SyntaxError: what Pillow calls a broken PNG; a bomb is an image of far too many pixels
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass
    raise SettingsError(f"{path} carries no settings: use an image file written by this package.")


def metadata_of(image: Image.Image) -> Metadata:
    """Return the settings in the file of a loaded image, as `read_metadata`; {} where it carries none."""
    texts = dict(getattr(image, "text", {})) if image.format == "PNG" else _noted(image)
    try:
        found = as_settings(texts)
        found["width"], found["height"] = (int(side) for side in texts["size"].split("x"))
    except (ValueError, KeyError):
        return {}
    return found if {"prompt", "steps", "model"} <= set(found) else {}


def as_settings(texts: Mapping[str, str]) -> Metadata:
    """Return the settings in texts by our names, but for the size. Raises ValueError or KeyError."""
    return {key: kind(texts[key]) for key, kind in _KINDS.items() if key in texts}


def user_comment(image: Image.Image) -> str:
    """Return the Exif user comment of an image; "" without one."""
    raw = _exif_fields(image).get(ExifTags.Base.UserComment, b"")
    if not isinstance(raw, bytes):
        return str(raw)
    if raw.startswith(_UNICODE):
        return raw[len(_UNICODE) :].decode("utf-16-be", "replace")
    return raw.removeprefix(b"ASCII\0\0\0").decode("ascii", "replace")


def _texts(metadata: Mapping[str, object]) -> dict[str, str]:
    """Return settings as the texts that a file carries."""
    texts = {key: str(value) for key, value in metadata.items() if key not in ("width", "height")}
    if {"width", "height"} <= set(metadata):
        texts["size"] = f"{metadata['width']}x{metadata['height']}"
    return texts


def _chunks(metadata: Mapping[str, object]) -> PngInfo:
    chunks, texts = PngInfo(), _texts(metadata)
    if parameters := write_parameters(metadata):
        texts["parameters"] = parameters
    for key, text in texts.items():
        (chunks.add_text if _PLAIN.fullmatch(text) else chunks.add_itxt)(key, text)
    return chunks


def _exif(metadata: Mapping[str, object]) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = f"{_OURS} {__version__}"
    fields = exif.get_ifd(ExifTags.IFD.Exif)
    if parameters := write_parameters(metadata):
        fields[ExifTags.Base.UserComment] = _UNICODE + parameters.encode("utf-16-be", "replace")
    fields[ExifTags.Base.MakerNote] = json.dumps({_OURS: _texts(metadata)}).encode("ascii")
    return exif


def _noted(image: Image.Image) -> dict[str, str]:
    """Return the texts of our maker note; {} for anything else."""
    note = _exif_fields(image).get(ExifTags.Base.MakerNote)
    texts = json_object(note).get(_OURS) if isinstance(note, bytes) else None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        return {}
    return texts


def _exif_fields(image: Image.Image) -> Mapping[int, Any]:
    try:
        return image.getexif().get_ifd(ExifTags.IFD.Exif)
    except Exception:  # damaged Exif data raise what their reader stumbles over; the pixels are sound
        return {}

"""ComfyUI's services for a running node: progress, previews, interruption, model folders.

Its modules are looked up among the loaded ones, never imported. Inside ComfyUI they are loaded; elsewhere (a
test, a script) another package called `comfy` must not be mistaken for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sanakit.errors import SanaError
from sanakit.weights.find.resolve import CLIPS
from sanakit.weights.read.disk import read_json
from sanakit.whole import told_unfinished

PREVIEW_SIDE = 512  # pixels at most, where ComfyUI does not say


class NodeProgress:
    """The progress bar of the running node; does nothing outside ComfyUI."""

    def __init__(self) -> None:
        utils = sys.modules.get("comfy.utils")
        self._bar: Any = None if utils is None else utils.ProgressBar(1)

    def show(self, done: int, total: int, preview: Callable[[], Image.Image]) -> None:
        """Show how many steps are done, and what preview gives if the user has previews switched on.

        Raises ComfyUI's own interruption if the user asked for it; so stops whoever calls this.
        """
        stop_if_interrupted()
        if self._bar is not None:
            side = _preview_side()
            shown = ("JPEG", preview(), side) if side else None  # the form that its server sends on
            self._bar.update_absolute(done, total, shown)


def stop_if_interrupted() -> None:
    """Raise ComfyUI's own interruption if the user asked for it."""
    management = sys.modules.get("comfy.model_management")
    if management is not None:
        management.throw_exception_if_processing_interrupted()


def device() -> str | torch.device:
    """Return the device that ComfyUI works on; elsewhere "auto"."""
    management = sys.modules.get("comfy.model_management")
    return "auto" if management is None else management.get_torch_device()


def model_folders(*, clips: bool = False) -> dict[str, Path]:
    """Return the SANA models below ComfyUI's `models/diffusers`, by their path from there.

    clips: those of clips in place of those of images.
    """
    paths: Any = sys.modules.get("folder_paths")
    found: dict[str, Path] = {}
    for root in map(Path, paths.get_folder_paths("diffusers") if paths is not None else []):
        for index in sorted(root.glob("*/model_index.json")) + sorted(root.glob("*/*/model_index.json")):
            if _is_sana(index, clips) and not told_unfinished(index):
                found.setdefault(index.parent.relative_to(root).as_posix(), index.parent)
    return found


def adapter_files() -> dict[str, Path]:
    """Return the files below ComfyUI's `models/loras`, by their path from there; not all are for SANA."""
    paths: Any = sys.modules.get("folder_paths")
    found: dict[str, Path] = {}
    for root in map(Path, paths.get_folder_paths("loras") if paths is not None else []):
        for file in sorted(root.rglob("*.safetensors")):
            found.setdefault(file.relative_to(root).as_posix(), file)
    return found


def controlnets() -> dict[str, Path]:
    """Return files and diffusers folders below ComfyUI's `models/controlnet`; not all are for SANA."""
    paths: Any = sys.modules.get("folder_paths")
    found: dict[str, Path] = {}
    for root in map(Path, paths.get_folder_paths("controlnet") if paths is not None else []):
        files = [file for file in sorted(root.rglob("*")) if file.suffix in (".safetensors", ".pth")]
        for file in files:
            place = file.parent if (file.parent / "config.json").is_file() and file.parent != root else file
            found.setdefault(place.relative_to(root).as_posix(), place)
    return found


def _preview_side() -> int:
    """Return the longest side of a preview in pixels; 0 if the user switched previews off."""
    args = getattr(sys.modules.get("comfy.cli_args"), "args", None)
    method = getattr(args, "preview_method", None)
    if getattr(method, "value", "none") == "none":
        return 0
    return getattr(args, "preview_size", PREVIEW_SIDE)


def _is_sana(index: Path, clips: bool) -> bool:
    """Return whether a diffusers index belongs to a SANA model, of clips or not; a broken one does not."""
    try:
        name = str(read_json(index).get("_class_name"))
    except (SanaError, OSError):
        return False
    drawn = "Video" in name if clips else name not in CLIPS  # no node draws worlds, or edits clips
    return name.startswith("Sana") and drawn

"""The nodes that load a model and its adapters; all other nodes use their output."""

from __future__ import annotations

from typing import Any

from sanakit.comfy import host
from sanakit.comfy.widgets import AUTO, CATEGORY, DTYPE, MEMORY, MODEL
from sanakit.errors import SettingsError
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights.find.catalog import CATALOG

FOLDERS = "diffusers/"  # before the names of those that lie in ComfyUI's folder `models/diffusers`
NONE = "none"  # of the adapters in ComfyUI's folder


class LoadModel:
    """Load a model with all its parts, and keep it as long as ComfyUI keeps this node's result."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads a SANA model: the embedded one (pocket), a folder, a file, or one from the Hub."
    RETURN_TYPES = ("SANAKIT_MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The model, for the other SANA nodes of this pack.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs; asked again whenever the page is loaded, so new folders show up."""
        known = [entry.name for entry in CATALOG.values() if not entry.unsupported]
        names = sorted(known, key=lambda name: CATALOG[name].repo is not None)
        names += [FOLDERS + name for name in host.model_folders()]
        tip = "pocket is embedded. Other models are downloaded from the Hub at first use: gigabytes."
        where = (
            "A diffusers folder, a .safetensors or .pth file, or a Hub organisation/name; overrides model."
        )
        return {
            "required": {"model": (names, {"default": "pocket", "tooltip": tip})},
            "optional": {
                "path": ("STRING", {"default": "", "tooltip": where}),
                "dtype": DTYPE,
                "memory": MEMORY,
            },
        }

    def load(self, model: str, path: str = "", dtype: str = AUTO, memory: str = AUTO) -> tuple[TextToImage]:
        """Load it onto the device that ComfyUI uses. Raises as `TextToImage.from_pretrained` does."""
        source: Any = path.strip() or model
        if not path.strip() and model.startswith(FOLDERS):
            source = host.model_folders()[model.removeprefix(FOLDERS)]
        pipe = TextToImage.from_pretrained(
            source, device=host.device(), dtype=dtype, memory=memory.strip() or AUTO, encoder=True
        )
        return (pipe,)


class LoadAdapter:
    """Add an adapter (LoRA) to a model; the model that came in stays as it is."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Adds an adapter (LoRA) to a SANA model. Several of these nodes in a row are summed."
    RETURN_TYPES = ("SANAKIT_MODEL",)
    RETURN_NAMES = ("model",)
    OUTPUT_TOOLTIPS = ("The same model with the adapter; its weights are not copied.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs; asked again whenever the page is loaded, so new files show up."""
        names = [NONE, *host.adapter_files()]
        tip = "A file of ComfyUI's models/loras that was trained on this SANA model."
        strength = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}
        return {
            "required": {
                "model": MODEL,
                "adapter": (names, {"default": NONE, "tooltip": tip}),
                "weight": ("FLOAT", {**strength, "tooltip": "1 is usual, 0 turns it off."}),
            },
            "optional": {
                "path": ("STRING", {"default": "", "tooltip": "A .safetensors file; overrides adapter."})
            },
        }

    def load(self, model: TextToImage, adapter: str, weight: float, path: str = "") -> tuple[TextToImage]:
        """Return a pipeline with the adapter. Raises as `load_adapter` does."""
        file: Any = path.strip() or host.adapter_files().get(adapter)
        if file is None and adapter != NONE:
            raise SettingsError(f"The adapter {adapter!r} left ComfyUI's models/loras: choose another one.")
        if file is None:
            return (model,)
        twin = model.twin()
        twin.load_adapter(file, weight)
        return (twin,)

"""The node that loads a model; all other nodes use its output."""

from __future__ import annotations

from typing import Any

from sanakit.comfy import host
from sanakit.comfy.widgets import AUTO, CATEGORY
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights.find.catalog import CATALOG

FOLDERS = "diffusers/"  # before the names of those that lie in ComfyUI's folder `models/diffusers`
DTYPES = (AUTO, "float32", "bfloat16", "float16")


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
        lean = 'Memory limit: a size such as "8GB"; auto: what is there; all: keep everything.'
        return {
            "required": {"model": (names, {"default": "pocket", "tooltip": tip})},
            "optional": {
                "path": ("STRING", {"default": "", "tooltip": where}),
                "dtype": (
                    list(DTYPES),
                    {"default": AUTO, "tooltip": "auto: the dtype that the model was trained for."},
                ),
                "memory": ("STRING", {"default": AUTO, "tooltip": lean}),
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

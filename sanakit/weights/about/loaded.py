"""The `repr` of pipelines: which model is loaded, and its parts."""

from __future__ import annotations

from torch import nn

from sanakit.weights.settings import ModelSettings
from sanakit.weights.video.settings import VideoSettings

_PARTS = ("transformer", "autoencoder", "text_encoder")


class Loaded:
    """A pipeline of a transformer, an autoencoder and a text encoder."""

    fingerprint: str = ""  # of the weights, the first digits; "" of parts that were not read from one place

    def __repr__(self) -> str:
        """Tell model, fingerprint, dtype, device, and of each part its class and parameters."""
        have = vars(self)
        adapters = have["adapter_set"].weights if "adapter_set" in have else {}
        using = ", ".join(f"{name} at {weight:g}" for name, weight in adapters.items())
        known = f", fingerprint {self.fingerprint}" if self.fingerprint else ""
        settings: ModelSettings | VideoSettings = have["settings"]
        own = settings.shared if isinstance(settings, VideoSettings) else settings
        rows = [f"{type(self).__name__}: {own.name}{known}, on {have['device']}"]
        parts = [(name, getattr(have[name], "model", have[name])) for name in _PARTS]
        parts += [(f"controlnet {net.label}".strip(), net) for net in have.get("controlnets", ())]
        rows += [f"{name:<13} {_told(part)}" for name, part in parts]
        return "\n  ".join([*rows, *([f"{'adapters':<13} {using}"] if using else [])])


def _told(part: nn.Module) -> str:
    """Return a part's class, parameters and the dtypes that they are held in."""
    tensors = [tensor for tensor in part.state_dict().values() if tensor.numel()]
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    count = sum(tensor.numel() for tensor in tensors)
    return f"{type(part).__name__}, {count:,} parameters in {', '.join(dtypes)}"

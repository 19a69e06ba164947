"""Load the autoencoder of any model, of images or of clips, by what its folder or file holds."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from sanakit.errors import SettingsError
from sanakit.models.dc_ae import DCAE
from sanakit.models.video.wan_vae import WanVAE
from sanakit.weights.find.resolve import ModelSource, resolve
from sanakit.weights.layouts.fill import fill
from sanakit.weights.layouts.parts import empty
from sanakit.weights.layouts.wan_vae import holds_wan_vae, official_name, open_wan_vae, wan_vae_pairs
from sanakit.weights.load import load_image_autoencoder
from sanakit.weights.precision import choose_dtype, parse_dtype
from sanakit.weights.save import exported

_HALVES = {"encoder": ("encoder.", "quant_conv."), "decoder": ("decoder.", "post_quant_conv.")}


def load_autoencoder(
    path: str | os.PathLike[str],
    *,
    part: Literal["both", "encoder", "decoder"] = "both",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    mapped: bool = False,
    home: str | torch.device | None = None,
) -> DCAE | WanVAE:
    """Load an autoencoder of images (DC-AE) or of clips (Wan 2.1), or only one half of it.

    path, mapped, home: as for `load_transformer`; a file may also hold the official Wan2.1_VAE.pth. part:
    "both", "encoder" or "decoder". dtype: None chooses: float32 on a CPU. Raises as `load_transformer` does.
    """
    source = resolve(path, ("vae",))
    if source.runtime or not holds_wan_vae(source):
        return load_image_autoencoder(path, part=part, device=device, dtype=dtype, mapped=mapped, home=home)
    return _load_wan_vae(source, part, device, dtype, mapped, home)


def _load_wan_vae(
    source: ModelSource,
    part: Literal["both", "encoder", "decoder"],
    device: str | torch.device,
    dtype: torch.dtype | str | None,
    mapped: bool,
    home: str | torch.device | None,
) -> WanVAE:
    if part not in ("both", *_HALVES):
        raise SettingsError(f"part is {part!r}; it must be 'both', 'encoder' or 'decoder'.")
    files, layout, config = open_wan_vae(source)
    for note in files.notes:
        warnings.warn(note, stacklevel=3)
    dtype = choose_dtype(device, files.dtype, dtype or "auto", what="The video autoencoder")
    names = empty(partial(WanVAE, config), source).state_dict()
    left_out = next((starts for half, starts in _HALVES.items() if part not in ("both", half)), ())
    pairs = [pair for pair in wan_vae_pairs(names, layout, config) if not pair[1][0].startswith(left_out)]
    skipped = {
        theirs[0]: "the half that was not asked for"
        for theirs, ours in wan_vae_pairs(names, layout, config)
        if ours[0].startswith(left_out)
    }
    module = empty(partial(WanVAE, config, part), source)
    return fill(module, files, pairs, skipped=skipped, device=home or device, dtype=dtype, mapped=mapped)


def save_official_autoencoder(
    path: str | os.PathLike[str], autoencoder: WanVAE, *, dtype: torch.dtype | str = torch.float32
) -> Path:
    """Write a video autoencoder as the official .pth of Wan 2.1: its tensors in the official names.

    dtype: to store in. The file has no sizes: other than the published ones need a folder
    (`save_autoencoder`). Returns the path. Raises OutputError when it cannot be written.
    """
    target, depth, stored = Path(path).expanduser(), autoencoder.config.depth, parse_dtype(dtype)
    state = {
        official_name(name, depth): tensor.detach().to("cpu", stored).contiguous()
        for name, tensor in autoencoder.state_dict().items()
    }
    with exported(target) as partial_file:
        torch.save(state, partial_file)
    return target

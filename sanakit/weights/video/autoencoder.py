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
from sanakit.models.video.ltx2_vae import LTX2VAE
from sanakit.weights.find.resolve import resolve
from sanakit.weights.layouts.fill import fill
from sanakit.weights.layouts.ltx2_vae import official_ltx2_name
from sanakit.weights.layouts.parts import empty
from sanakit.weights.layouts.video_vae import VideoVAE, open_video_vae
from sanakit.weights.layouts.wan_vae import official_name
from sanakit.weights.load import load_image_autoencoder
from sanakit.weights.precision import choose_dtype, parse_dtype
from sanakit.weights.read.header import write_safetensors
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
) -> DCAE | VideoVAE:
    """Load an autoencoder of images (DC-AE) or of clips (Wan 2.1, LTX-2), or only one half of it.

    path, mapped, home: as for `load_transformer`; a file may also hold the official Wan2.1_VAE.pth, or
    LTX-2's, alone or in a whole checkpoint. part: "both", "encoder" or "decoder". dtype: None chooses:
    float32 on a CPU. Raises as `load_transformer` does.
    """
    source = resolve(path, ("vae",))
    opened = None if source.runtime else open_video_vae(source)
    if opened is None:
        return load_image_autoencoder(path, part=part, device=device, dtype=dtype, mapped=mapped, home=home)
    if part not in ("both", *_HALVES):
        raise SettingsError(f"part is {part!r}; it must be 'both', 'encoder' or 'decoder'.")
    files = opened.files
    for note in files.notes:
        warnings.warn(note, stacklevel=2)
    dtype = choose_dtype(device, files.dtype, dtype or "auto", what="The video autoencoder")
    left_out = next((starts for half, starts in _HALVES.items() if part not in ("both", half)), ())
    other = {
        theirs: "the half that was not asked for"
        for (theirs,), (ours,) in opened.pairs
        if ours.startswith(left_out)
    }
    pairs = [pair for pair in opened.pairs if pair[0][0] not in other]
    module = empty(partial(opened.build, part), source)
    skipped = {**opened.skipped, **other}
    return fill(module, files, pairs, skipped=skipped, device=home or device, dtype=dtype, mapped=mapped)


def save_official_autoencoder(
    path: str | os.PathLike[str], autoencoder: VideoVAE, *, dtype: torch.dtype | str = torch.float32
) -> Path:
    """Write an autoencoder of clips in its official names: a .pth of Wan 2.1, a .safetensors of LTX-2.

    dtype: to store in. The file has no sizes: other than the published ones need a folder
    (`save_autoencoder`). Returns the path. Raises OutputError when it cannot be written.
    """
    target, stored, state = Path(path).expanduser(), parse_dtype(dtype), autoencoder.state_dict()
    if isinstance(autoencoder, LTX2VAE):
        steps = len(autoencoder.config.steps)
        official = {official_ltx2_name(name, steps): tensor for name, tensor in state.items()}
        with exported(target) as partial_file:
            write_safetensors(partial_file, official, stored)
        return target
    depth = autoencoder.config.depth
    pickled = {
        official_name(name, depth): tensor.detach().to("cpu", stored).contiguous()
        for name, tensor in state.items()
    }
    with exported(target) as partial_file:
        torch.save(pickled, partial_file)
    return target

"""The layouts of the Wan 2.1 video autoencoder: the official Wan2.1_VAE.pth and diffusers' AutoencoderKLWan.

Our modules' names are diffusers'; the official ones number all layers of a half in a row. Tensors are equal.
Source: names of Wan-Video/Wan2.1 as the public conversion of diffusers reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

from sanakit.errors import WeightsError
from sanakit.models.video.wan_config import CLASS
from sanakit.models.video.wan_vae import WAN_VAE, WanVAE, WanVAEConfig
from sanakit.weights.find.resolve import ModelSource, kind_words, open_network, recognised
from sanakit.weights.layouts.fields import WAN_VAE as FIELDS
from sanakit.weights.layouts.fields import check_fields
from sanakit.weights.layouts.parts import Pairs, described, empty
from sanakit.weights.read.disk import read_json
from sanakit.weights.read.files import TensorFiles, open_component

KIND = "video_autoencoder"
_UP = re.compile(r"up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.")  # a stage's blocks, and its step
_OUTER = {
    "quant_conv": "conv1",
    "post_quant_conv": "conv2",
    "conv_in": "conv1",
    "norm_out": "head.0",
    "conv_out": "head.2",
    "mid_block.resnets.0": "middle.0",
    "mid_block.attentions.0": "middle.1",
    "mid_block.resnets.1": "middle.2",
}
_BLOCK = {  # within a residual block
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}


def holds_wan_vae(source: ModelSource) -> bool:
    """Return whether the autoencoder of a source is Wan's; of a file, any of clips. Only names are read."""
    if source.is_file:
        return open_network(source.path)[1] == KIND
    config = (source.path / "vae" if source.is_pipeline else source.path) / "config.json"
    return config.is_file() and read_json(config).get("_class_name") == CLASS


def open_wan_vae(source: ModelSource) -> tuple[TensorFiles, str, WanVAEConfig]:
    """Return the tensors, layout and config of a source's video autoencoder; nothing but headers is read.

    An official file is of the published size. Raises WeightsError for another one.
    """
    if not source.is_file:
        folder = source.part("vae", CLASS)
        files = open_component(folder, source.variant)
        recognised(files)
        path = folder / "config.json"
        content = read_json(path)
        check_fields(content, FIELDS, path)
        config = described(path, content, WanVAEConfig.from_diffusers, "video autoencoder")
        files.notes += tuple(f"{path} {told}" for told in config.told_apart(content))
        return files, "diffusers", config
    files, kind, layout = open_network(source.path)
    if kind != KIND:
        raise WeightsError(f"{source.path} holds {kind_words(kind)}, not a video autoencoder.")
    names = empty(partial(WanVAE, WAN_VAE), source).state_dict()
    if set(files.infos) != {theirs for (theirs,), _ in wan_vae_pairs(names, layout, WAN_VAE)}:
        raise WeightsError(
            f"{source.path} holds a video autoencoder of an unpublished size: load it from a diffusers "
            "folder, whose config.json describes it."
        )
    return files, layout, WAN_VAE


def wan_vae_pairs(names: Iterable[str], layout: str, config: WanVAEConfig) -> Pairs:
    """Pair the names in a file of this layout with the module's own `names`."""
    if layout == "diffusers":
        return [((name,), (name,)) for name in names]
    return [((official_name(name, config.depth),), (name,)) for name in names]


def official_name(name: str, depth: int) -> str:
    """Return the official name of a parameter. depth: residual blocks of a stage of the encoder.

    >>> official_name("decoder.up_blocks.1.resnets.0.conv_shortcut.weight", 2)
    'decoder.upsamples.4.shortcut.weight'
    """
    half = name.partition(".")[0] if name.startswith(("encoder.", "decoder.")) else ""
    inner = name.removeprefix(f"{half}.")
    if found := _UP.match(inner):
        stage, kind, number = int(found[1]), found[2], int(found[3])
        place = f"upsamples.{stage * (depth + 2) + (depth + 1 if kind == 'upsamplers' else number)}"
        rest = inner[found.end() :]
    elif inner.startswith("down_blocks."):
        _, number, rest = inner.split(".", 2)
        place = f"downsamples.{number}"
    else:
        ours = next(ours for ours in _OUTER if inner.startswith(f"{ours}."))
        place, rest = _OUTER[ours], inner.removeprefix(f"{ours}.")
    module, _, field = rest.rpartition(".")
    return ".".join(filter(None, (half, place, _BLOCK.get(module, module), field)))

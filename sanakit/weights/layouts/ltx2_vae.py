"""The layouts of the LTX-2 video autoencoder: official files and diffusers' AutoencoderKLLTX2Video.

Our modules' names are diffusers'; the official ones number residual blocks and steps in a row. Tensors are
equal. A whole LTX-2 checkpoint, whose autoencoder's names begin with `vae.`, is an official file, too.
Source: names of Lightricks/LTX-2 as the public conversion of diffusers reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

from sanakit.errors import WeightsError
from sanakit.models.video.ltx2_config import CAUSAL_CLASS, CLASS
from sanakit.models.video.ltx2_vae import LTX2_VAE, LTX2VAE, LTX23_VAE, LTX2VAEConfig
from sanakit.weights.find.resolve import WITH_OTHERS, ModelSource, kind_words, open_network, recognised
from sanakit.weights.layouts.fields import LTX2_VAE as FIELDS
from sanakit.weights.layouts.fields import check_fields
from sanakit.weights.layouts.parts import Pairs, config_beside, described, empty
from sanakit.weights.layouts.wan_vae import KIND
from sanakit.weights.read.disk import read_json
from sanakit.weights.read.files import TensorFiles, open_component

CLASSES = (CLASS, CAUSAL_CLASS)
_STATISTICS = {
    "latents_mean": "per_channel_statistics.mean-of-means",
    "latents_std": "per_channel_statistics.std-of-means",
}
TOLD_BY = (*_STATISTICS, *_STATISTICS.values())  # names that only files of this autoencoder have
_UNUSED = ("per_channel_statistics.channel", "per_channel_statistics.mean-of-stds")  # begin what is not used
_BLOCK = re.compile(
    r"(encoder|decoder)\.(?:mid_block|(?:down|up)_blocks\.(\d+))\.(resnets|(?:down|up)samplers\.0)\."
)


def holds_ltx2_vae(source: ModelSource) -> bool:
    """Return whether the autoencoder of a source is LTX-2's; only names are read."""
    if source.is_file:
        files, kind, _ = open_network(source.path)
        return kind == KIND and any(name.endswith(TOLD_BY) for name in files.infos)
    config = (source.path / "vae" if source.is_pipeline else source.path) / "config.json"
    return config.is_file() and read_json(config).get("_class_name") in CLASSES


def open_ltx2_vae(source: ModelSource) -> tuple[TensorFiles, str, LTX2VAEConfig]:
    """Return the tensors, layout and config of a source's LTX-2 autoencoder; only headers are read.

    A file without a config.json beside it is of a published size: LTX-2's or LTX-2.3's. Raises WeightsError
    for another one.
    """
    if not source.is_file:
        folder = source.path / "vae" if source.is_pipeline else source.path
        path = folder / "config.json"
        files, layout = open_component(folder, source.variant), "diffusers"
        recognised(files)
    else:
        files, kind, layout = open_network(source.path)
        if kind != KIND:
            raise WeightsError(f"{source.path} holds {kind_words(kind)}, not a video autoencoder.")
        if any(name.startswith(WITH_OTHERS) for name in files.infos):
            files.keep(WITH_OTHERS)
        path = config_beside(source, layout, *CLASSES)
    if path is None:
        return files, layout, _published(source, files, layout)
    content = read_json(path)
    check_fields(content, FIELDS, path)
    config = described(path, content, LTX2VAEConfig.from_diffusers, "video autoencoder")
    files.notes += tuple(f"{path} {told}" for told in config.told_apart(content))
    return files, layout, config


def ltx2_vae_pairs(names: Iterable[str], layout: str, config: LTX2VAEConfig) -> Pairs:
    """Pair the names in a file of this layout with the module's own `names`."""
    if layout == "diffusers":
        return [((name,), (name,)) for name in names]
    return [((official_ltx2_name(name, len(config.steps)),), (name,)) for name in names]


def ltx2_vae_skipped(names: Iterable[str]) -> dict[str, str]:
    """Return the `names` in a file that are left out, each with the reason."""
    return {name: "statistics that no latent is normalised by" for name in names if name.startswith(_UNUSED)}


def official_ltx2_name(name: str, steps: int) -> str:
    """Return the official name of a parameter or buffer. steps: down, in the encoder.

    >>> official_ltx2_name("decoder.up_blocks.0.upsamplers.0.conv.conv.weight", 4)
    'decoder.up_blocks.1.conv.conv.weight'
    """
    found = _BLOCK.match(name)
    if found is None:
        return _STATISTICS.get(name, name)
    half, stage, part, rest = found[1], int(found[2] or 0), found[3], name[found.end() :]
    blocks, middle, after = ("down_blocks", 2 * steps, 0) if half == "encoder" else ("up_blocks", 0, 2)
    place = middle if found[2] is None else 2 * stage + (after if part == "resnets" else 1)
    return f"{half}.{blocks}.{place}.{'res_blocks.' if part == 'resnets' else ''}{rest}"


def _published(source: ModelSource, files: TensorFiles, layout: str) -> LTX2VAEConfig:
    """Return the published sizes that have the names of a lone file. Raises WeightsError for none."""
    came = set(files.infos) - set(ltx2_vae_skipped(files.infos))
    for config in (LTX2_VAE, LTX23_VAE):
        names = empty(partial(LTX2VAE, config), source).state_dict()
        if came == {theirs for (theirs,), _ in ltx2_vae_pairs(names, layout, config)}:
            return config
    raise WeightsError(
        f"{source.path} holds a video autoencoder of an unpublished size: load it from a diffusers folder, "
        "whose config.json describes it."
    )

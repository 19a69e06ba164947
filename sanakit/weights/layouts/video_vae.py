"""Which autoencoder of clips a source holds, and all that loading or describing it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from sanakit.models.contracts import VideoCodecConfig
from sanakit.models.dc_ae import Halves
from sanakit.models.video.ltx2_vae import LTX2VAE
from sanakit.models.video.wan_vae import WanVAE
from sanakit.weights.find.resolve import ModelSource
from sanakit.weights.layouts.ltx2_vae import holds_ltx2_vae, ltx2_vae_pairs, ltx2_vae_skipped, open_ltx2_vae
from sanakit.weights.layouts.parts import Pairs, empty
from sanakit.weights.layouts.wan_vae import holds_wan_vae, open_wan_vae, wan_vae_pairs
from sanakit.weights.read.files import TensorFiles

VideoVAE = WanVAE | LTX2VAE


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoVAEFiles:
    """The headers of an autoencoder of clips. pairs: of both halves, names in the files and in the module."""

    files: TensorFiles
    config: VideoCodecConfig
    layout: str  # official | diffusers
    name: str  # as `sana inspect` tells: family, compression along sides and time, channels
    names: Iterable[str]  # of the module's tensors
    pairs: Pairs
    skipped: Mapping[str, str]  # names in the files that are left out, with the reason
    build: Callable[[Halves], VideoVAE]


def open_video_vae(source: ModelSource) -> VideoVAEFiles | None:
    """Return the files of a source's autoencoder of clips, or None for another kind.

    Raises WeightsError for one whose sizes are not known.
    """
    if holds_ltx2_vae(source):
        files, layout, config = open_ltx2_vae(source)
        names = list(empty(partial(LTX2VAE, config), source).state_dict())
        pairs, skipped = ltx2_vae_pairs(names, layout, config), ltx2_vae_skipped(files.infos)
        build: Callable[[Halves], VideoVAE] = partial(LTX2VAE, config)
        family = "LTX-2"
    elif holds_wan_vae(source):
        files, layout, config = open_wan_vae(source)
        names = list(empty(partial(WanVAE, config), source).state_dict())
        pairs, skipped, family = wan_vae_pairs(names, layout, config), {}, "Wan"
        build = partial(WanVAE, config)
    else:
        return None
    return VideoVAEFiles(
        files=files,
        config=config,
        layout=layout,
        name=f"{family} VAE f{config.compression}t{config.frame_rule.per_latent}c{config.latent_channels}",
        names=names,
        pairs=pairs,
        skipped=skipped,
        build=build,
    )

"""Sizes of the Wan 2.1 video autoencoder; the config.json of diffusers' AutoencoderKLWan both ways.

The published one and smaller ones of its shape are known. Wan 2.2, whose blocks have shortcuts around whole
stages and whose pixels are patched, is another architecture and refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sanakit.errors import SettingsError
from sanakit.models.video.frame_rule import FrameRule

CLASS = "AutoencoderKLWan"
_OURS = {  # our field: its key in config.json
    "width": "base_dim",
    "multipliers": "dim_mult",
    "depth": "num_res_blocks",
    "latent_channels": "z_dim",
    "halve_time": "temperal_downsample",
    "latents_mean": "latents_mean",
    "latents_std": "latents_std",
}
_LISTS = ("multipliers", "halve_time", "latents_mean", "latents_std")
# Of another architecture unless they have these values, which are also diffusers' defaults.
_FIXED = {
    "attn_scales": [],
    "dropout": 0.0,
    "is_residual": False,
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WanVAEConfig:
    """Sizes of one autoencoder; stages run from the finest (image) to the coarsest (latent).

    multipliers: the width of each stage over `width`. halve_time: for each step between stages whether it
    halves the frames, too. depth: residual blocks of a stage of the encoder; the decoder has one more.
    latents_mean, latents_std: of each channel of the data's latents; the diffusion model sees
    (latents - mean) / std. Raises SettingsError if the lists do not fit together.
    """

    width: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    depth: int = 2
    latent_channels: int = 16
    halve_time: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = (
        *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
        *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    )
    latents_std: tuple[float, ...] = (
        *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
        *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    )

    def __post_init__(self) -> None:
        if len(self.halve_time) != len(self.multipliers) - 1:
            raise SettingsError(
                f"A video autoencoder of {len(self.multipliers)} stages has {len(self.multipliers) - 1} "
                f"steps between them, but halve_time names {len(self.halve_time)}."
            )
        if min(self.width * multiplier for multiplier in self.multipliers) < 2:
            raise SettingsError(
                "A video autoencoder has stages of 1 channel: its decoder halves them, use 2."
            )
        if any(deviation <= 0 for deviation in self.latents_std):
            raise SettingsError("latents_std has a value that is not above 0: latents are divided by it.")

    @property
    def compression(self) -> int:
        """Pixels of a latent, along one side."""
        return 2 ** len(self.halve_time)

    @property
    def lookahead(self) -> int:
        """How many later latents a frame depends on: none."""
        return 0

    @property
    def frame_rule(self) -> FrameRule:
        """How many frames a clip may have, and how many latents they are."""
        return FrameRule(2 ** sum(self.halve_time))

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of each stage, from the finest."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> WanVAEConfig:
        """Read the config.json of an AutoencoderKLWan; SettingsError for another architecture of that class.

        The fields scale_factor_spatial and scale_factor_temporal are not read, since they follow from the
        lists; `told_apart` tells where they contradict them.
        """
        for name, value in _FIXED.items():
            if (came := config.get(name, value)) != value:
                raise SettingsError(f"{name} is {came!r}, and only {value!r} is known, as Wan 2.1 has it")
        width = config.get("base_dim", 96)
        if (came := config.get("decoder_base_dim")) not in (None, width):
            raise SettingsError(
                f"decoder_base_dim is {came}, and only that of the encoder, {width}, is known"
            )
        given: dict[str, Any] = {ours: config[theirs] for ours, theirs in _OURS.items() if theirs in config}
        given |= {name: tuple(given[name]) for name in _LISTS if name in given}
        return cls(**given)

    def to_diffusers(self) -> dict[str, Any]:
        """Write the config.json of a diffusers AutoencoderKLWan: a `vae` folder's."""
        given = {theirs: getattr(self, ours) for ours, theirs in _OURS.items()}
        lists = {_OURS[name]: list(getattr(self, name)) for name in _LISTS}
        return {"_class_name": CLASS, **given, **lists, **_FIXED, **self._factors()}

    def told_apart(self, config: Mapping[str, Any]) -> list[str]:
        """Return a sentence for each field of a config.json that contradicts what follows from its lists."""
        return [
            f"says {name} = {config[name]}, but its lists make it {factor}, which is used."
            for name, factor in self._factors().items()
            if config.get(name, factor) not in (None, factor)
        ]

    def _factors(self) -> dict[str, int]:
        rule = self.frame_rule
        return {"scale_factor_temporal": rule.per_latent, "scale_factor_spatial": self.compression}


WAN_VAE = WanVAEConfig()  # Wan 2.1's, which SANA-Video at 480p uses

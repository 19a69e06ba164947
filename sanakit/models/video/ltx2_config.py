"""Sizes of the LTX-2 video autoencoder; the config.json of diffusers' AutoencoderKLLTX2Video both ways.

Every list is in the order in which a clip passes: down from pixels in the encoder, up from latents in the
decoder. Noise injection and conditioning on a time, which no release of SANA has, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sanakit.errors import SettingsError
from sanakit.models.video.frame_rule import FrameRule

CLASS = "AutoencoderKLLTX2Video"
CAUSAL_CLASS = "AutoencoderKLCausalLTX2Video"  # of SANA-Streaming and SANA-WM: the same weights' names
STEPS = {"spatial": (1, 2, 2), "temporal": (2, 1, 1), "spatiotemporal": (2, 2, 2)}  # frames, rows, columns
PADDINGS = ("zeros", "reflect")
_DOWN_BLOCK = "LTX2VideoDownBlock3D"
_OURS = {  # our field: its key in config.json
    "latent_channels": "latent_channels",
    "patch": "patch_size",
    "encoder_causal": "encoder_causal",
    "decoder_causal": "decoder_causal",
    "encoder_padding": "encoder_spatial_padding_mode",
    "decoder_padding": "decoder_spatial_padding_mode",
}
_LISTS = {
    "widths": "block_out_channels",
    "depths": "layers_per_block",
    "steps": "downsample_type",
    "up_steps": "upsample_type",  # the one list of the decoder that diffusers does not reverse
}
_FROM_THE_FINEST = {
    "decoder_widths": "decoder_block_out_channels",
    "decoder_depths": "decoder_layers_per_block",
    "up_factors": "upsample_factor",
    "up_residuals": "upsample_residual",
}
# Other values belong to what is not built here; these are diffusers' defaults, too.
_FIXED = {
    "in_channels": 3,
    "out_channels": 3,
    "patch_size_t": 1,
    "scaling_factor": 1.0,
    "timestep_conditioning": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LTX2VAEConfig:
    """Sizes of one autoencoder.

    widths: channels behind each step down; in front of the first there are `latent_channels`. depths:
    residual blocks before each step down, and behind the last. steps: what each of them halves.
    decoder_widths: channels in front of each step up, which divides them by its item of up_factors.
    decoder_depths: residual blocks before the first step up, and behind each. up_steps: what each of them
    doubles. up_residuals: whether its input is added to its result. patch: the side of the squares of
    pixels that become channels. encoder_causal, decoder_causal: whether no frame depends on a later one.
    encoder_padding, decoder_padding: what is beside a frame, "zeros" or "reflect".
    Raises SettingsError for lists or widths that do not fit together.
    """

    latent_channels: int = 128
    patch: int = 4
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (4, 6, 6, 2, 2)
    steps: tuple[str, ...] = ("spatial", "temporal", "spatiotemporal", "spatiotemporal")
    decoder_widths: tuple[int, ...] = (1024, 512, 256)
    decoder_depths: tuple[int, ...] = (5, 5, 5, 5)
    up_steps: tuple[str, ...] = ("spatiotemporal", "spatiotemporal", "spatiotemporal")
    up_factors: tuple[int, ...] = (2, 2, 2)
    up_residuals: tuple[bool, ...] = (True, True, True)
    encoder_causal: bool = True
    decoder_causal: bool = False
    encoder_padding: str = "zeros"
    decoder_padding: str = "reflect"

    def __post_init__(self) -> None:
        _check_lengths("encoder", self.depths, len(self.steps), widths=self.widths)
        lists = {"widths": self.decoder_widths, "factors": self.up_factors, "residuals": self.up_residuals}
        _check_lengths("decoder", self.decoder_depths, len(self.up_steps), **lists)
        if unknown := {*self.steps, *self.up_steps} - set(STEPS):
            raise SettingsError(f"the step {min(unknown)!r} is unknown: use {', '.join(STEPS)}")
        if unknown := {self.encoder_padding, self.decoder_padding} - set(PADDINGS):
            raise SettingsError(f"the padding {min(unknown)!r} is unknown: use {' or '.join(PADDINGS)}")
        self._check_widths()
        down, up = _factors(self.steps), _factors(self.up_steps)
        if down != up:
            raise SettingsError(
                f"the encoder divides frames by {down[0]} and sides by {down[1]}, the decoder multiplies "
                f"them by {up[0]} and {up[1]}"
            )

    def _check_widths(self) -> None:
        for came, width, step in zip(
            (self.latent_channels, *self.widths[:-1]), self.widths, self.steps, strict=True
        ):
            places = math.prod(STEPS[step])
            if width % places or came * places % width:
                raise SettingsError(f"a {step} step from {came} to {width} channels does not divide them")
        after = (*self.decoder_widths[1:], self.final_width)
        for width, factor, following, step, residual in zip(
            self.decoder_widths, self.up_factors, after, self.up_steps, self.up_residuals, strict=True
        ):
            if width % factor or width // factor != following:
                raise SettingsError(
                    f"a step up from {width} channels divides them by {factor}, but {following} follow"
                )
            places = math.prod(STEPS[step])
            if residual and (width % places or places % factor):
                raise SettingsError(
                    f"the residual of a {step} step up from {width} channels does not divide them"
                )

    @property
    def compression(self) -> int:
        """Pixels of a latent, along one side."""
        return self.patch * _factors(self.steps)[1]

    @property
    def frame_rule(self) -> FrameRule:
        """How many frames a clip may have, and how many latents they are."""
        return FrameRule(_factors(self.steps)[0])

    @property
    def final_width(self) -> int:
        """The channels of the decoder's finest stage."""
        return self.decoder_widths[-1] // self.up_factors[-1]

    @property
    def lookahead(self) -> int:
        """How many later latents a frame depends on: 22 of the published decoder, 0 of a causal one.

        Every convolution of a decoder that is not causal sees one frame ahead, at its own rate of frames.
        """
        if self.decoder_causal:
            return 0
        rate, latents = 1, 1.0  # frames of a latent; the first convolution's frame
        for depth, step in zip(self.decoder_depths, (*self.up_steps, None), strict=True):
            latents += (2 * depth + 1) / rate  # the last one is that behind all blocks
            rate *= STEPS[step][0] if step else 1
        return math.ceil(latents)

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> LTX2VAEConfig:
        """Read the config.json of an AutoencoderKLLTX2Video, or of the causal class of that shape.

        An absent field has diffusers' default. Not read, because nothing here depends on them: the
        compression ratios (`told_apart` tells where they contradict the lists) and the epsilon of a norm that
        only widths of another architecture have. Raises SettingsError for what is not built here.
        """
        for name, value in _FIXED.items():
            if (came := config.get(name, value)) != value:
                raise SettingsError(f"{name} is {came!r}, and only {value!r} is known")
        _check_blocks(config)
        given: dict[str, Any] = {"decoder_causal": config.get("decoder_causal", True)}  # as diffusers has it
        given |= {ours: config[theirs] for ours, theirs in _OURS.items() if theirs in config}
        given |= {ours: tuple(config[theirs]) for ours, theirs in _LISTS.items() if theirs in config}
        causal = config.get("decoder_upsample_type")  # of the causal class, which reverses this list, too
        if causal is not None:
            given["up_steps"] = tuple(reversed(causal))
        steps = len(given.get("up_steps", cls().up_steps))
        for ours, theirs in _FROM_THE_FINEST.items():
            if theirs in config:
                came = config[theirs]
                given[ours] = tuple(reversed([came] * steps if isinstance(came, bool) else came))
        return cls(**given)

    def to_diffusers(self) -> dict[str, Any]:
        """Write the config.json of a diffusers AutoencoderKLLTX2Video: a `vae` folder's."""
        steps, up_steps = len(self.steps), len(self.up_steps)
        return {
            "_class_name": CLASS,
            **_FIXED,
            **{theirs: getattr(self, ours) for ours, theirs in _OURS.items()},
            **{theirs: list(getattr(self, ours)) for ours, theirs in _LISTS.items()},
            **{theirs: list(getattr(self, ours)[::-1]) for ours, theirs in _FROM_THE_FINEST.items()},
            "down_block_types": [_DOWN_BLOCK] * steps,
            "spatio_temporal_scaling": [True] * steps,
            "decoder_spatio_temporal_scaling": [True] * up_steps,
            "decoder_inject_noise": [False] * (up_steps + 1),
            "resnet_norm_eps": 1e-6,
            **self._ratios(),
        }

    def told_apart(self, config: Mapping[str, Any]) -> list[str]:
        """Return a sentence for each field of a config.json that contradicts what follows from its lists."""
        return [
            f"says {name} = {config[name]}, but its lists make it {factor}, which is used."
            for name, factor in self._ratios().items()
            if config.get(name, factor) not in (None, factor)
        ]

    def _ratios(self) -> dict[str, int]:
        return {
            "spatial_compression_ratio": self.compression,
            "temporal_compression_ratio": self.frame_rule.per_latent,
        }


def _check_lengths(half: str, depths: tuple[int, ...], steps: int, **lists: tuple[Any, ...]) -> None:
    counts = {"depths": len(depths) - 1, **{name: len(values) for name, values in lists.items()}}
    if wrong := [name for name, count in counts.items() if count != steps]:
        raise SettingsError(
            f"the {half} has {steps} steps, so {steps} items of {', '.join(lists)} and {steps + 1} depths, "
            f"but its {' and '.join(wrong)} have another number"
        )


def _check_blocks(config: Mapping[str, Any]) -> None:
    """Raise SettingsError for blocks of a kind that is not built here."""
    for name, value in (
        ("spatio_temporal_scaling", True),
        ("decoder_spatio_temporal_scaling", True),
        ("decoder_inject_noise", False),
        ("down_block_types", _DOWN_BLOCK),
    ):
        came = config.get(name, value)
        if any(item != value for item in (came if isinstance(came, list | tuple) else [came])):
            raise SettingsError(f"{name} is {came!r}, and only {value!r} for each block is known")


def _factors(steps: tuple[str, ...]) -> tuple[int, int]:
    """Return how many frames, and pixels of one side, all steps together make one."""
    sizes = [STEPS[step] for step in steps]
    return math.prod(frames for frames, _, _ in sizes), math.prod(rows for _, rows, _ in sizes)


LTX2_VAE = LTX2VAEConfig()  # of LTX-2, which SANA-Video at 720p uses
LTX23_VAE = LTX2VAEConfig(  # of LTX-2.3, which SANA-Video 2 uses
    widths=(256, 512, 1024, 1024),
    depths=(4, 6, 4, 2, 2),
    decoder_widths=(1024, 512, 512, 256),
    decoder_depths=(2, 2, 4, 6, 4),
    up_steps=("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
    up_factors=(2, 1, 2, 2),
    up_residuals=(False,) * 4,
    decoder_padding="zeros",
)

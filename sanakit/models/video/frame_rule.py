"""How many frames a clip may have: the first has a latent of its own, the others share one n at a time.

And how a clip is cut into chunks, which autoencoders of clips work on one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sanakit.errors import SettingsError, SizeError


@dataclass(frozen=True, slots=True)
class FrameRule:
    """Frames and latents along time. per_latent: frames that share each latent but the first."""

    per_latent: int

    def latents(self, frames: int) -> int:
        """Return the latents of so many frames; SizeError unless those are 1 + a multiple of per_latent.

        >>> FrameRule(4).latents(17)
        5
        """
        step = self.per_latent
        if frames < 1 or (frames - 1) % step:
            below = 1 + max(frames - 1, 0) // step * step
            raise SizeError(
                f"A clip of {frames} frames has no whole number of latents: use {below} or {below + step} "
                f"frames (1 + a multiple of {step}).",
                setting="frames",
            )
        return 1 + (frames - 1) // step

    def frames(self, latents: int) -> int:
        """Return the frames of so many latents. Raises SizeError for none."""
        if latents < 1:
            raise SizeError(f"A clip of {latents} latents has no frames: use at least 1.")
        return 1 + self.per_latent * (latents - 1)

    def check_chunk(self, chunk: int | None, *, latents: bool) -> None:
        """Raise SettingsError for a size of chunks that is neither None nor whole latents.

        latents: it counts latents, not frames.
        """
        if latents and chunk is not None and chunk < 1:
            raise SettingsError(f"chunk is {chunk}: it must be the number of latents at a time, at least 1.")
        if not latents and chunk is not None and (chunk < 1 or chunk % self.per_latent):
            raise SettingsError(
                f"chunk is {chunk}: it must be the number of frames at a time after the first one, a "
                f"multiple of {self.per_latent}."
            )


def check_clip_shape(shape: Sequence[int], compression: int, rule: FrameRule, *, first: bool) -> None:
    """Raise SizeError for a clip, or a chunk of one, that an autoencoder cannot take.

    shape: it should be B 3 T H W. compression: pixels of a latent, along one side. first: the chunk begins at
    the clip's first frame.
    """
    if len(shape) != 5 or shape[1] != 3 or 0 in shape or any(side % compression for side in shape[3:]):
        needed = f"B 3 T H W, with H and W multiples of {compression}; crop or pad"
        raise SizeError(f"The clip has shape {tuple(shape)}, but it must have {needed}.")
    if first:
        rule.latents(shape[2])
    elif shape[2] % rule.per_latent:
        raise SizeError(
            f"A later chunk of a clip has {shape[2]} frames: use a multiple of {rule.per_latent}."
        )


def check_latent_shape(shape: Sequence[int], channels: int) -> None:
    """Raise SizeError for latents that are not B C t h w of so many channels."""
    if len(shape) != 5 or shape[1] != channels or 0 in shape:
        raise SizeError(f"The latents have shape {tuple(shape)}, but they must have B {channels} t h w.")


def chunk_sizes(total: int, chunk: int) -> list[int]:
    """Return the sizes of chunks: 1, `chunk` over and over, and what remains; or all of them as one.

    >>> chunk_sizes(11, 4)
    [1, 4, 4, 2]
    """
    if chunk >= total:
        return [total]
    rest = total - 1
    return [1, *[chunk] * (rest // chunk), *([rest % chunk] if rest % chunk else [])]


def check_alike(shape: Sequence[int], first: Sequence[int] | None) -> None:
    """Raise SizeError for a chunk B C T H W that differs from the first one in more than its frames."""
    if first is not None and (shape[0], *shape[3:]) != (first[0], *first[3:]):
        raise SizeError(
            f"A chunk of the clip has shape {tuple(shape)}, but the first one has {tuple(first)}: only the "
            "number of frames may differ."
        )

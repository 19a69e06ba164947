"""How many frames a clip may have: the first has a latent of its own, the others share one n at a time."""

from __future__ import annotations

from dataclasses import dataclass

from sanakit.errors import SizeError


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
                f"frames (1 + a multiple of {step})."
            )
        return 1 + (frames - 1) // step

    def frames(self, latents: int) -> int:
        """Return the frames of so many latents. Raises SizeError for none."""
        if latents < 1:
            raise SizeError(f"A clip of {latents} latents has no frames: use at least 1.")
        return 1 + self.per_latent * (latents - 1)

"""The node that writes a kind of guidance with its settings, as samplers and the command line read it."""

from __future__ import annotations

from typing import Any, get_args

from sanakit.comfy.widgets import CATEGORY
from sanakit.flow.guidance_kinds import PLAIN, Combination, GuidanceKind, read_kind


class ChooseGuidance:
    """Widgets to the text of a kind of guidance, for the input guidance_kind of the nodes that sample."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Another way to combine velocities than plain guidance; see the page Guidance of the guide."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("guidance_kind",)
    FUNCTION = "write"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs, with the values of plain guidance."""
        own = PLAIN
        blocks = "Of pag, such as 8+9. Empty: the usual one."
        ways = list(get_args(Combination))
        return {
            "required": {
                "combination": (ways, {"default": own.combination, "tooltip": "cfg: plain guidance."}),
                "interval_low": _number(own.interval[0], 0, 1, "The lowest time to guide at; 0: the end."),
                "interval_high": _number(own.interval[1], 0, 1, "The highest time; 1: pure noise."),
                "rescale": _number(own.rescale, 0, 1, "Against too strong contrasts; 0: off."),
                "pag": _number(own.pag, 0, 100, "Weight of perturbed attention; 0: off."),
                "blocks": ("STRING", {"default": "", "tooltip": blocks}),
                "along": _number(own.along, 0, 1, "Of apg: how much the part along the velocity counts."),
                "momentum": _number(own.momentum, -0.99, 0.99, "Of apg: of the step before."),
                "limit": _number(own.limit, 0.01, 1000, "Of apg: the longest difference."),
                "zero": ("INT", {"default": own.zero, "min": 0, "max": 1000, "tooltip": "Of zero-star."}),
            }
        }

    def write(
        self,
        combination: Combination,
        interval_low: float,
        interval_high: float,
        rescale: float,
        pag: float,
        blocks: str,
        along: float,
        momentum: float,
        limit: float,
        zero: int,
    ) -> tuple[str]:
        """Return the text. Raises SettingsError for a setting that does not belong to the combination."""
        named = read_kind(f"pag=1,blocks={blocks.strip()}").blocks if blocks.strip() else ()
        kind = GuidanceKind(
            combination=combination,
            interval=(interval_low, interval_high),
            rescale=rescale,
            pag=pag,
            blocks=named,
            along=along,
            momentum=momentum,
            limit=limit,
            zero=zero,
        )
        return (str(kind),)


def _number(default: float, low: float, high: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    return ("FLOAT", {"default": default, "min": low, "max": high, "step": 0.01, "tooltip": tooltip})

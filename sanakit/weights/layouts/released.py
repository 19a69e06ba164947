"""Which release a transformer is: its tensors decide, and a name that contradicts them is not believed.

A name tells what tensors do not: the precision rule and the sampler. Width, depth, norms, the table of
positions and a stored config tell the size and the resolution.
"""

from __future__ import annotations

from dataclasses import replace

from sanakit.models.sana import SanaConfig
from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.models.video.sana_video import SanaVideoConfig, VideoConfig
from sanakit.models.video.sana_video2 import SanaVideo2Config
from sanakit.models.world.config import SanaWMConfig
from sanakit.weights.find.resolve import ModelSource, open_network
from sanakit.weights.layouts import sana_video, sana_wm
from sanakit.weights.layouts.clips import sana_streaming, sana_video2
from sanakit.weights.layouts.official import CONFIG_KEY, PIXELS_PER_LATENT
from sanakit.weights.layouts.parts import SANA, file_config, transformer_class, transformer_config
from sanakit.weights.read.disk import read_json

ARCHITECTURES = {  # depth, width, qk-norm, guidance embedding -> parameters, and the name people know it by
    (28, 1152, False, False): (591_747_872, "Sana 0.6B"),
    (20, 2240, False, False): (1_604_462_752, "Sana 1.6B"),
    (28, 1152, True, False): (591_876_896, "SANA-Sprint 0.6B, teacher"),
    (20, 2240, True, False): (1_604_641_952, "SANA-1.5 1.6B"),
    (60, 2240, True, False): (4_721_825_952, "SANA-1.5 4.8B"),
    (28, 1152, True, True): (593_501_216, "SANA-Sprint 0.6B"),
    (20, 2240, True, True): (1_610_237_472, "SANA-Sprint 1.6B"),
}
UNRELEASED = (0, "unreleased size")


def size_name(config: SanaConfig) -> str:
    """Return the name of a released size, or "unreleased size"."""
    return _architecture(config)[1]


def steered_name(config: SanaConfig) -> str:
    """Return the name of the released sizes that a ControlNet's width is of: "Sana 1.6B", ..."""
    norms = (config.width, config.qk_norm, config.guidance_embed)
    names = [name for (_, *rest), (_, name) in ARCHITECTURES.items() if tuple(rest) == norms]
    return " or ".join(names) or UNRELEASED[1]


def examined(source: ModelSource) -> ModelSource:
    """Return a source without the release that its name speaks of, if its transformer contradicts the name.

    Its `notes` tell so, and what its tensors leave open. Only headers are read. Raises WeightsError.
    """
    notes, entry, undecided = list(source.notes), source.entry, False
    if source.is_file:
        files, kind, layout = open_network(source.path)
        if kind != "transformer":
            return source
        notes += files.notes
        config = file_config(source, files, layout)
        undecided = layout == "official" and CONFIG_KEY not in files.metadata
    elif _has_transformer(source):
        config = transformer_config(source)
    else:
        return source
    if entry is not None and source.guessed:
        side = config.sample_size * PIXELS_PER_LATENT
        other = ""
        if _architecture(config)[0] != entry.parameters:
            other = f"{config.depth} blocks of width {config.width} ({size_name(config)})"
        elif side != entry.width:
            other = f"a transformer for {side} px"
        if other:
            notes.append(
                f"{source.path} is named like {entry.name}, but holds {other}: its name is not believed, and "
                "its tensors tell the settings."
            )
            entry = None
    clips = isinstance(config, VideoConfig)
    if undecided and entry is None and config.qk_norm and not config.guidance_embed and not clips:
        notes.append(
            f"{source.path} may be of SANA-1.5 or a teacher of SANA-Sprint, whose shapes are equal: it is "
            "taken for the first. Keep the published name of a teacher, which tells its time scale."
        )
    return replace(source, entry=entry, notes=tuple(notes))


def _architecture(config: SanaConfig) -> tuple[int, str]:
    if isinstance(config, SanaVideoConfig):
        return 0, sana_video.size_name(config)
    if isinstance(config, SanaStreamingConfig):
        return 0, sana_streaming.size_name(config)
    if isinstance(config, SanaVideo2Config):
        return 0, sana_video2.size_name(config)
    if isinstance(config, SanaWMConfig):
        return 0, sana_wm.size_name(config)
    key = (config.depth, config.width, config.qk_norm, config.guidance_embed)
    return ARCHITECTURES.get(key, UNRELEASED)


def _has_transformer(source: ModelSource) -> bool:
    folder = source.path / "transformer" if source.is_pipeline else source.path
    config = folder / "config.json"
    known = config.is_file() and SANA in str(read_json(config).get("_class_name"))
    return known or transformer_class(source) != SANA

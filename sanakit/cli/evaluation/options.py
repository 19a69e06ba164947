"""Options and models of `sana evaluate` that its measures of images have no use for: named, not ignored."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from sanakit.errors import SettingsError


def check_used(names: Sequence[str], given: Mapping[str, object], seeded: Iterable[str]) -> None:
    """Raise SettingsError for an option that no measure of images uses.

    names: of the measures. given: each option's value, or what it is if it was not typed: None, False.
    seeded: measures that draw what they ask for themselves, from a seed.
    """
    from sanakit.eval.measures import BY_SET, MEASURES

    used = {option: set(MEASURES) for option in given} | {"--reference": set(BY_SET)}
    used |= {"--questions": {"dpg"}, "--endpoint": {"dpg"}, "--seed": {*MEASURES, *seeded}}
    for option, value in given.items():
        if value and not used[option] & set(names):
            raise SettingsError(f"{option} is not used by {' or '.join(names)}: leave it out.")
    if given["--images"] and given["--seed"]:
        raise SettingsError("--seed is of images that are drawn: leave it out with --images.")


def check_networks(names: Sequence[str], places: Iterable[str]) -> None:
    """Raise SettingsError for a network of --weights that no measure judges by. names: of the measures."""
    from sanakit.eval.measures import NETWORKS

    used = {network for name in names for network in NETWORKS.get(name, ())}
    used |= {"inception"} if "fid" in names else set()
    if unused := [place for place in places if place not in used]:
        raise SettingsError(f"--weights {unused[0]}=... is not used by {' or '.join(names)}: leave it out.")


def check_known(names: Sequence[str], drawing: Iterable[str]) -> None:
    """Raise SettingsError for a measure that does not exist, with the nearest one of any kind.

    drawing: measures that draw what they ask for themselves.
    """
    from sanakit.eval.clip_measures import CLIP_MEASURES
    from sanakit.eval.measures import MEASURES
    from sanakit.eval.worlds import WORLD_MEASURES

    known = [*dict.fromkeys((*drawing, *MEASURES, *CLIP_MEASURES, *WORLD_MEASURES))]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {near[0]}? All are" if near else "use"
            raise SettingsError(f"There is no measure {name!r}: {meant} {', '.join(known)}.")


def check_draws_images(model: str) -> None:
    """Raise SettingsError for a model of clips or of worlds, with how to measure it."""
    from sanakit.models.streaming.config import SanaStreamingConfig
    from sanakit.models.video.sana_video import SanaVideoConfig
    from sanakit.models.video.sana_video2.config import SanaVideo2Config
    from sanakit.models.world.config import SanaWMConfig
    from sanakit.weights.find.resolve import resolve
    from sanakit.weights.layouts.parts import transformer_config

    config = transformer_config(resolve(model, ("transformer",)))
    if isinstance(config, SanaWMConfig):
        raise SettingsError(
            f"{model} is a model of worlds: name measures of worlds, such as -m path-retrieval, and by "
            "--reference true clips with cameras."
        )
    if isinstance(config, SanaVideoConfig | SanaVideo2Config | SanaStreamingConfig):
        raise SettingsError(
            f"{model} is a model of clips: draw clips by `sana video`, and give their folder in its place."
        )

"""Control images of a request, for the ControlNets that a server offers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NotRequired, TypedDict

from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.hints import HintKind
from sanakit.pipelines.control import ControlImage
from sanakit.pipelines.request import ModelSpec, Request
from sanakit.weights.control import ControlFile

MAX_CONTROLS = 4  # of one request


class NamedControl(TypedDict):
    """One control image, as `ControlImage` has it, and the name of the ControlNet that it is for."""

    name: str
    image: Image.Image
    kind: NotRequired[HintKind | None]  # None: the ControlNet's own, else "as-is"
    scale: NotRequired[float | None]  # None: 1
    start: NotRequired[float | None]  # None: 0
    end: NotRequired[float | None]  # None: 1


def chosen(
    spec: ModelSpec, offered: Mapping[str, ControlFile], controls: Sequence[NamedControl]
) -> tuple[list[ControlImage], ModelSpec]:
    """Return the control images of a request, and the facts about the model with a ControlNet for each.

    offered: the model's, by name. Raises SettingsError.
    """
    if len(controls) > MAX_CONTROLS:
        text = f"{len(controls)} control images came: send at most {MAX_CONTROLS}."
        raise SettingsError(text, setting="control")
    images, nets = [], []
    for one in controls:
        name = one["name"]
        if name not in offered:
            have = f"there are: {', '.join(offered)}" if offered else "it has none here"
            text = f"{spec.settings.name} has no ControlNet {name!r}; {have}."
            raise SettingsError(text, setting="control")
        given = {key: value for key in ("scale", "start", "end") if (value := one.get(key)) is not None}
        images.append(ControlImage(one["image"], kind=one.get("kind") or offered[name].hint, **given))
        nets.append(f"{name}@{offered[name].fingerprint}")
    return images, replace(spec, controlnets=len(nets), nets=tuple(nets))


def prepared(request: Request) -> Request:
    """Return a request with its hints made, in the caller's thread: the computing one has other work."""
    for one in request.conditions.control:
        _ = one.pixels
    return request


def net_names(nets: Sequence[str]) -> tuple[str, ...]:
    """Return the names of ControlNets as a request records them.

    >>> net_names(["lines@90ab12cd34ef"])
    ('lines',)
    """
    return tuple(net.rpartition("@")[0] for net in nets)

"""Settings in a visitor's image file: ours, or as many of another program's as mean the same."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from sanakit.errors import SettingsError
from sanakit.images.image import Metadata
from sanakit.images.parameters import SAMPLERS
from sanakit.images.recorded import SANAKIT, ImageFacts, describe_image
from sanakit.pipelines.request import ModelSpec
from sanakit.serve.web.settings import checked_settings, solvers

MOST_NAMED = 200  # characters of what was not taken over
_WEIGHED = re.compile(r"\([^()]+:\s*\d")  # (red:1.5)
_SAYS_NOTHING = ("Version", "Model hash", "base_model_hash", "Size")


def settings_in(
    path: str | os.PathLike[str], specs: Mapping[str, ModelSpec], chosen: str
) -> tuple[Metadata, list[str]]:
    """Return the settings in an image's file, which anyone may have written, and what is told of them.

    specs: of the models that are here. chosen: the one that draws where the file names none of them.
    Raises SettingsError for a file without settings, or with impossible ones.
    """
    facts = describe_image(path)
    if facts is None:
        raise SettingsError("This file is not an image: use a PNG, JPEG or WebP file.")
    if not facts.settings:
        raise SettingsError(
            "This image carries no settings: use one of sanakit or a program that writes them."
        )
    if facts.by == SANAKIT:
        return checked_settings(facts.settings), []
    return _foreign(facts, specs[chosen])


def _foreign(facts: ImageFacts, spec: ModelSpec) -> tuple[Metadata, list[str]]:
    own, found = spec.settings, facts.settings
    sampler = facts.others.get("Sampler", "")
    ours = {theirs: name for name, theirs in SAMPLERS.items()}.get(sampler, own.solver)
    settings: dict[str, Any] = {
        "prompt": "",
        "width": own.width,
        "height": own.height,
        "steps": own.steps,
        "guidance": own.guidance,
        **found,
        "model": own.name,
        "solver": ours if ours in solvers(spec) else own.solver,
        "prompt_weights": _WEIGHED.search(str(found.get("prompt", ""))) is not None,
    }
    known = {*_SAYS_NOTHING, *(["Sampler"] if sampler in SAMPLERS.values() else [])}
    named = [f"{name}: {text}" for name, text in facts.others.items() if name not in known]
    notes = [f"These are settings of {facts.by}: {own.name} draws another image by them."]
    notes += [f"Not taken over: {'; '.join(named)[:MOST_NAMED]}."] if named else []
    return checked_settings(settings), notes

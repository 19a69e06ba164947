"""Kinds of guidance are taken by the nodes as on the command line."""

from __future__ import annotations

import pytest
from torch import Tensor

from sanakit.errors import SettingsError
from tests.comfy.calling import call
from tests.comfy.test_control import SMALL, TOLERANCE, apart, sampled


@pytest.fixture(scope="module")
def plain(model) -> Tensor:
    return call("SanakitTextToImage", model, prompt="a red apple", **SMALL)[0]


@pytest.mark.parametrize("kind", ["apg,momentum=-0.25", "zero-star", "pag=2"])
def test_a_kind_of_guidance_is_the_pipelines(model, texts, plain, kind) -> None:
    expected = model("a red apple", guidance_kind=kind, **SMALL).images[0]
    [whole] = call("SanakitTextToImage", model, prompt="a red apple", guidance_kind=kind, **SMALL)
    assert apart(whole, expected) == 0
    assert apart(sampled(model, texts, guidance_kind=kind), expected) <= TOLERANCE
    assert apart(whole, plain) > TOLERANCE


def test_widgets_write_a_kind_as_the_command_line_takes_it() -> None:
    assert call("SanakitGuidanceKind") == ("cfg",)
    given = {"combination": "apg", "interval_low": 0.2, "interval_high": 0.9, "pag": 2.0, "blocks": "8+9"}
    assert call("SanakitGuidanceKind", **given) == ("apg,interval=0.2-0.9,pag=2,blocks=8+9",)
    with pytest.raises(SettingsError, match="along belongs to apg"):
        call("SanakitGuidanceKind", along=0.5)

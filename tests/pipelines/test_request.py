"""A call in one of the dialects, checked without weights: what differs, and what an image's file says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.flow.dpm import dpm_times
from sanakit.flow.euler import euler_times
from sanakit.pipelines.request import ModelSpec, Request, check_request
from sanakit.weights.settings import ModelSettings


def spec(*, side: int = 32, dense_time: bool = False, **settings: Any) -> ModelSpec:
    return ModelSpec(
        settings=ModelSettings(name="any", **settings),
        latent_channels=32,
        sample_size=side,
        compression=32,
        dense_time=dense_time,
    )


def model_times(request: Request) -> list[float]:
    """The times that the transformer is called at, times 1000."""
    assert request.solver is not None
    state, found = request.solver.start(torch.zeros(1), torch.Generator()), []
    while not state.done:
        found.append(1000 * state.t)
        state = request.solver.advance(state, torch.zeros(1))
    return found


@pytest.mark.parametrize("dialect", ["Native", "", 1, True])
def test_an_unknown_dialect_is_refused(dialect) -> None:
    with pytest.raises(SettingsError, match="dialect = "):
        check_request(spec(), "a fox", dialect=dialect)


@pytest.mark.parametrize(("dialect", "shift"), [(None, 3.0), ("diffusers", 3.0), ("native", 4.0)])
def test_the_flow_shift_is_the_dialects(dialect, shift) -> None:
    request = check_request(spec(native_flow_shift=4.0), "a fox", dialect=dialect)
    assert request.solver is not None
    assert torch.equal(request.solver.times, dpm_times(20, shift))
    other = check_request(spec(flow_shift=2.0), "a fox", dialect=dialect)
    assert other.solver is not None
    assert torch.equal(other.solver.times, dpm_times(20, 2.0))


@pytest.mark.parametrize("solver", ["dpm", "euler"])
@pytest.mark.parametrize("dense_time", [False, True])
def test_native_model_times_are_whole_unless_the_model_takes_them_dense(solver, dense_time) -> None:
    own = spec(dense_time=dense_time)
    times = model_times(check_request(own, "a fox", solver=solver, dialect="native"))
    exact = (1000 * {"dpm": dpm_times, "euler": euler_times}[solver](20, 3.0)[:-1]).tolist()
    expected = exact if dense_time else [t // 1 for t in exact]
    assert times == pytest.approx(expected, abs=1e-4)
    usual = model_times(check_request(own, "a fox", solver=solver))
    assert usual == pytest.approx([t // 1 for t in exact] if solver == "dpm" else exact, abs=1e-4)


def test_a_sprint_models_times_are_the_same_in_both() -> None:
    own = ModelSpec(
        settings=ModelSettings(name="sprint", solver="scm", steps=2),
        latent_channels=32,
        sample_size=32,
        compression=32,
        guidance_embed=True,
        dense_time=True,
    )
    both = [model_times(check_request(own, "a fox", dialect=name)) for name in ("diffusers", "native")]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("side", "size", "usual", "native"),
    [
        (64, (4000, 1000), (1024, 4096), (1024, 4096)),
        (64, (3700, 1024), (1024, 3712), (1024, 3968)),  # 1024 x 3712 is not among the scripts' bins
        (64, (1024, 3900), (3840, 1024), (4096, 1024)),
        (64, (2048, 2048), (2048, 2048), (2048, 2048)),
        (32, (1850, 512), (512, 1856), (512, 1856)),
    ],
)
def test_at_2048_px_the_native_bins_are_fewer(side, size, usual, native) -> None:
    for dialect, drawn in ((None, usual), ("diffusers", usual), ("native", native)):
        request = check_request(spec(side=side), "a fox", width=size[0], height=size[1], dialect=dialect)
        assert (32 * request.cells.height, 32 * request.cells.width) == drawn


@pytest.mark.parametrize(
    ("own", "asked", "told"),
    [
        ("diffusers", None, None),
        ("diffusers", "diffusers", None),
        ("diffusers", "native", "native"),
        ("native", None, "native"),
        ("native", "native", "native"),
        ("native", "diffusers", "diffusers"),  # redrawn by this folder, it would be native
    ],
)
def test_the_dialect_is_told_unless_all_would_assume_it(own, asked, told) -> None:
    request = check_request(spec(dialect=own), "a fox", dialect=asked)
    assert request.dialect == (asked or own)
    assert [one.get("dialect") for one in request.metadata] == [told]

"""The kernel of gated delta attention against its definition in float64, and where it stands aside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from sanakit.ops import native
from sanakit.ops.gated_delta import gated_delta, recurrent_gated_delta

TOLERANCE = 1e-6  # largest difference, relative to the largest value
SIZES = [  # B T S h d e
    (1, 1, 1, 1, 1, 2),
    (2, 5, 3, 2, 6, 3),
    (1, 7, 64, 3, 32, 32),
    (2, 4, 145, 2, 48, 48),
    (1, 3, 70, 2, 112, 112),
    (1, 4, 33, 2, 40, 72),
    (1, 2, 9, 1, 130, 17),
    (2, 5, 33, 3, 48, 1),
    (1, 3, 77, 2, 112, 1),
    (1, 4, 5, 2, 3, 1),
]
Given = dict[str, Tensor]


def drawn(batch: int, frames: int, tokens: int, heads: int, width: int, values: int) -> Given:
    """Keys small enough for a bounded step; values lie between others, as parts of a product do."""
    torch.manual_seed(frames * tokens + width)
    key = torch.randn(batch, frames, tokens, heads, width) * (width * tokens) ** -0.5
    return {
        "query": torch.randn(batch, frames, tokens, heads, width),
        "key": key,
        "value": torch.randn(batch, frames, tokens, 2 * heads, values)[:, :, :, heads:],
        "beta": torch.rand(batch, frames, tokens, heads),
        "decay": 0.5 + torch.rand(batch, frames, heads) / 2,
        "state": torch.randn(batch, heads, width, values),
    }


def apart(ours: Tensor, exact: Tensor) -> float:
    return ((ours - exact).abs().max() / exact.abs().max()).item()


def exactly(given: Given, chunks: list[int] | None = None) -> tuple[Tensor, Tensor]:
    return recurrent_gated_delta(**{name: x.double() for name, x in given.items()}, chunks=chunks)


def chunkings(frames: int) -> list[list[int] | None]:
    return [None, [1] * frames, [frames // 2, frames - frames // 2]] if frames > 1 else [None]


class Counted:
    """A library that counts its calls."""

    def __init__(self, library) -> None:
        self.library, self.calls = library, 0

    def __getattr__(self, name: str):
        if name == "sana_gated_delta":
            self.calls += 1
        return getattr(self.library, name)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    library, level = native._load()
    if library is None:
        pytest.skip("no compiled kernels here")
    counted = Counted(library)
    monkeypatch.setattr(native, "_load", lambda: (counted, level))
    return counted


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_is_the_definition(sizes: tuple[int, ...]) -> None:
    given = drawn(*sizes)
    for chunks in chunkings(sizes[1]):
        ours, last = gated_delta(**given, chunks=chunks)
        exact, end = exactly(given, chunks)
        assert ours.dtype == last.dtype == torch.float32
        assert apart(ours, exact) < TOLERANCE
        assert apart(last, end) < TOLERANCE
    del given["state"]
    ours, last = gated_delta(**given)
    exact, end = exactly(given)
    assert apart(ours, exact) < TOLERANCE
    assert apart(last, end) < TOLERANCE


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("values", [8, 1])
def test_what_lies_in_memory_otherwise_is_read_as_it_lies(values: int) -> None:
    given = drawn(2, 3, 20, 2, 8, values)
    spread = {
        "query": given["query"].transpose(1, 2).contiguous().transpose(1, 2),
        "key": given["key"].transpose(2, 3).contiguous().transpose(2, 3),
        "value": given["value"].contiguous(),
        "beta": given["beta"].transpose(1, 3).contiguous().transpose(1, 3),
        "decay": torch.stack([given["decay"]] * 2, dim=-1)[..., 0],
        "state": torch.stack([given["state"]] * 2, dim=-1)[..., 0],
    }
    assert not spread["beta"].is_contiguous()
    for one, other in zip(gated_delta(**given), gated_delta(**spread), strict=True):
        assert torch.equal(one, other)
    turned = given["key"].transpose(3, 4).contiguous().transpose(3, 4)  # rows that are not contiguous
    assert apart(gated_delta(**{**given, "key": turned})[0], exactly(given)[0]) < TOLERANCE


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("values", [32, 1])
@pytest.mark.parametrize("extreme", [float("nan"), float("inf")])
def test_an_extreme_value_stays_in_its_head_and_behind_its_chunk(extreme: float, values: int) -> None:
    given = drawn(1, 4, 40, 2, 32, values)
    plain, _ = gated_delta(**given, chunks=[1, 2, 1])
    given["value"][0, 2, 7, 1, 0] = extreme
    ours, last = gated_delta(**given, chunks=[1, 2, 1])
    assert torch.equal(ours[:, :, :, 0], plain[:, :, :, 0])
    assert torch.equal(ours[:, 0], plain[:, 0])
    assert not torch.isfinite(ours[0, 1:, :, 1, 0]).any()  # of its chunk, and of those behind
    assert torch.isfinite(last[0, 0]).all()
    assert not torch.isfinite(last[0, 1, :, 0]).any()


@torch.no_grad()
def test_several_threads_of_python_may_call_at_once(counted: Counted) -> None:
    jobs = [drawn(1, 3, 40, 4, 32, values) for values in (32, 1)]
    expected = [gated_delta(**job)[0] for job in jobs]

    @torch.no_grad()
    def agrees(turn: int) -> bool:
        return torch.equal(gated_delta(**jobs[turn % 2])[0], expected[turn % 2])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(agrees, range(40)))
    assert counted.calls == 42


def test_gradients_functional_transforms_and_other_dtypes_take_the_twin(counted: Counted) -> None:
    given = drawn(1, 3, 5, 2, 8, 8)
    query = given.pop("query")
    out, _ = gated_delta(query.requires_grad_(), **given)
    assert out.requires_grad
    with torch.no_grad():
        tangent = torch.func.jvp(lambda q: gated_delta(q, **given)[0], (query,), (query,))[1]
        assert apart(tangent, out) < TOLERANCE  # linear in queries
        doubled = torch.func.vmap(lambda q: gated_delta(q, **given)[0])(torch.stack([query, 2 * query]))
        assert apart(doubled[1], 2 * out) < TOLERANCE
        assert (
            gated_delta(query.double(), **{name: x.double() for name, x in given.items()})[0].dtype
            == torch.float64
        )
        assert counted.calls == 0
        assert apart(gated_delta(query, **given)[0], out) < TOLERANCE
        assert counted.calls == 1


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("key", (1, 3, 5, 2, 9)),
        ("value", (1, 3, 4, 2, 8)),
        ("beta", (1, 3, 4, 2)),
        ("decay", (1, 2, 2)),
        ("state", (1, 2, 7, 8)),
        ("state", (1, 2, 8, 7)),
    ],
)
def test_what_does_not_fit_together_is_refused_as_torch_does(name: str, shape: tuple[int, ...]) -> None:
    given = drawn(1, 3, 5, 2, 8, 8)
    with pytest.raises((RuntimeError, IndexError)):
        gated_delta(**{**given, name: torch.zeros(shape)})


@pytest.mark.usefixtures("kernels")
def test_chunks_that_do_not_make_up_the_frames_never_reach_it() -> None:
    with pytest.raises(RuntimeError):
        gated_delta(**drawn(1, 3, 5, 2, 8, 8), chunks=[2, 2])


@torch.no_grad()
def test_world_models_sample_with_it(counted: Counted) -> None:
    """Of each of three blocks: the numerator, the denominator and the camera branch."""
    from tests.models.world.worlds import TINY, inputs, randomised  # imports an oracle

    model, some = randomised(TINY), inputs(TINY)
    fast = model(**some)
    assert counted.calls == 9
    torch.set_grad_enabled(True)
    plain = model(**some)
    assert counted.calls == 9
    assert apart(fast, plain) < 2e-5

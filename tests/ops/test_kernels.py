"""Each compiled kernel against its plain twin in float64: odd sizes, all instruction sets, 1 to 3 threads."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.ops import native
from sanakit.ops.attention import attention
from sanakit.ops.conv3x3 import conv3x3
from sanakit.ops.gated_depthwise import gated_depthwise
from sanakit.ops.linear import linear
from sanakit.ops.linear_attention import attend, attention_sums, relu_linear_attention
from sanakit.ops.rms_norm import rms_norm_add

LINEAR = 1e-6  # largest difference, relative to the largest value
WINOGRAD = (
    2e-5  # the transforms round more than a direct convolution (3e-7): ten times this kernel's usual error
)
STORED = [torch.float32, torch.bfloat16, torch.float16]


LEVELS = native.levels()


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def difference(kernel: Callable[..., Tensor], *inputs: Tensor | None, **options: object) -> float:
    """Of the kernel's result from the twin's in float64 (which the kernels do not take), relative."""
    ours = kernel(*inputs, **options)
    exact = kernel(*(None if i is None else i.double() for i in inputs), **options)
    assert ours.dtype == torch.float32
    assert ours.shape == exact.shape
    return float((ours - exact).abs().max() / exact.abs().max())


def test_a_machine_with_a_compiler_has_kernels() -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no compiler")
    assert native.info()["library"] in LEVELS


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 17, 5), (33, 70, 45), (64, 300, 14), (130, 48, 29)])
def test_linear_equals_its_twin(sizes: tuple[int, int, int], stored: torch.dtype) -> None:
    rows, channels, outputs = sizes
    weight = drawn(outputs, channels, dtype=stored)
    assert difference(linear, drawn(rows, channels), weight, drawn(outputs)) < LINEAR
    assert difference(linear, drawn(rows, channels), weight) < LINEAR


@pytest.mark.usefixtures("kernels")
def test_linear_takes_any_leading_axes_and_strided_input() -> None:
    x, weight = drawn(2, 6, 5, 8).transpose(1, 2), drawn(7, 8, 1, 1)
    assert linear(x, weight).shape == (2, 5, 6, 7)
    assert difference(linear, x, weight) < LINEAR


@pytest.mark.usefixtures("kernels")
def test_linear_widens_every_16_bit_number_exactly() -> None:
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        stored = patterns.view(dtype)
        stored = stored[torch.isfinite(stored)]
        widened = linear(torch.ones(1, 1), stored[:, None])[0]
        assert torch.equal(widened, stored.float())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("sides", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("sizes", [(2, 9, 27, 3, 5), (1, 25, 23, 20, 33), (1, 12, 50, 48, 3)])
def test_winograd_equals_a_direct_convolution(
    sizes: tuple[int, ...], sides: tuple[int, int], upsample: bool
) -> None:
    batch, rows, columns, channels, outputs = sizes
    options = {"above": sides[0], "below": sides[1], "upsample": upsample}
    x, bias = drawn(batch, rows, columns, channels), drawn(outputs)
    for stored in STORED:
        weight = drawn(outputs, channels, 3, 3, dtype=stored)
        assert difference(conv3x3, x, weight, bias, **options, silu=True) < WINOGRAD
        assert difference(conv3x3, x, weight, **options) < WINOGRAD


@pytest.mark.usefixtures("kernels")
def test_winograd_takes_its_outputs_in_shares_when_weights_are_large() -> None:
    x, weight = drawn(1, 24, 24, 512), drawn(700, 512, 3, 3)  # 52 MB once transformed; 40 are allowed
    assert difference(conv3x3, x, weight) < WINOGRAD


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sides", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("sizes", [(1, 3, 1, 3), (2, 5, 7, 20), (1, 40, 9, 70)])
def test_gated_depthwise_equals_its_twin(sizes: tuple[int, ...], sides: tuple[int, int]) -> None:
    batch, rows, columns, half = sizes
    x, weight, bias = drawn(batch, rows, columns, 2 * half), drawn(2 * half, 1, 3, 3), drawn(2 * half)
    above, below = sides
    assert difference(gated_depthwise, x, weight, bias, above=above, below=below) < LINEAR
    assert difference(gated_depthwise, x, weight, None, above=above, below=below) < LINEAR


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 33, 3), (1, 77, 9), (3, 64, 4)])
def test_linear_attention_equals_its_twin(
    sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, tokens, heads = sizes
    qkv = drawn(batch, tokens, 3 * heads * 32)  # views of one product, as a transformer's block makes them
    query, key, value = (part.unflatten(-1, (heads, 32)).transpose(1, 2) for part in qkv.chunk(3, -1))
    ours = relu_linear_attention(query, key, value)
    monkeypatch.setattr(native, "_load", lambda: (None, ""))
    assert (
        ours - relu_linear_attention(query, key, value)
    ).abs().max() < 5e-6  # float32 both, in other orders


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1, 3), (2, 3, 29, 2, 16), (1, 4, 200, 30, 72), (1, 2, 15, 131, 33)]
)
def test_softmax_attention_equals_its_twin(sizes: tuple[int, ...]) -> None:
    batch, heads, tokens, keys, width = sizes
    query = drawn(batch, tokens, heads, width).transpose(1, 2)  # as a projection of tokens gives it
    key, value = 3 * drawn(batch, heads, keys, width), drawn(batch, keys, heads, width).transpose(1, 2)
    assert difference(attention, query, key, value) < LINEAR


@pytest.mark.usefixtures("kernels")
def test_softmax_attention_takes_large_scores() -> None:
    query, key, value = drawn(1, 1, 5, 32) * 1e4, drawn(1, 1, 7, 32), drawn(1, 1, 7, 32)
    assert difference(attention, query, key, value) < 1e-4  # e^x of rounded scores of ten thousands


@pytest.mark.usefixtures("kernels")
def test_attention_sums_of_bands_add_up() -> None:
    query, key, value = (
        drawn(1, 4, 50, 32).transpose(1, 2).contiguous().transpose(1, 2) * s for s in (1, -1, 2)
    )
    bands = [attention_sums(key[:, :, rows], value[:, :, rows]) for rows in (slice(0, 7), slice(7, 50))]
    torch.testing.assert_close(attend(query, sum(bands)), relu_linear_attention(query, key, value))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("width", [1, 16, 37, 128])
def test_rms_norm_equals_its_twin(width: int) -> None:
    x, weight, bias, residual = drawn(5, 7, width), drawn(width), drawn(width), drawn(5, 7, width)
    for options in ({"residual": residual}, {"eps": 0.1}):
        wide = {
            name: value.double() if isinstance(value, Tensor) else value for name, value in options.items()
        }
        exact = rms_norm_add(x.double(), weight.double(), bias.double(), **wide)
        ours = rms_norm_add(x.clone(), weight, bias, **options)
        assert (ours - exact).abs().max() < LINEAR * exact.abs().max()


LARGE = [80.0, 88.5, 100.0, 1e30, 3e38, float("inf")]
EXTREMES = [0.0, 1e-45, -1e-38, *LARGE, *(-x for x in LARGE), float("nan")]


@pytest.mark.usefixtures("kernels")
def test_extreme_values_come_out_as_from_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    extremes, one = torch.tensor(EXTREMES), torch.ones(1, 1, len(EXTREMES), 1)
    middle = torch.zeros(2, 1, 3, 3)
    middle[:, 0, 1, 1] = 1
    silu_of = torch.cat([extremes.view(1, 1, -1, 1), 50 * one], -1)  # the value; its gate is open
    tokens = torch.ones(1, len(EXTREMES), 4, 32)
    tokens[0, :, 1, 3] = extremes

    def results() -> list[Tensor]:
        return [
            gated_depthwise(silu_of, middle, None),
            gated_depthwise(silu_of.flip(-1), middle, None),
            conv3x3(torch.zeros(1, 40, 40, 1), torch.zeros(len(EXTREMES), 1, 3, 3), extremes, silu=True),
            linear(torch.ones(3, 1), extremes[:, None]),
            rms_norm_add(
                torch.ones(len(EXTREMES), 2), torch.ones(2), torch.zeros(2), extremes[:, None].repeat(1, 2)
            ),
            rms_norm_add(extremes[:, None].repeat(1, 2), torch.ones(2), torch.zeros(2)),
            relu_linear_attention(tokens, torch.ones_like(tokens), torch.ones_like(tokens)),
            attention_sums(tokens, torch.ones_like(tokens)),
            attention_sums(torch.ones_like(tokens), tokens),
        ]

    ours = results()
    monkeypatch.setattr(native, "_load", lambda: (None, ""))
    for result, twin in zip(ours, results(), strict=True):
        torch.testing.assert_close(result, twin, rtol=2e-6, atol=1e-30, equal_nan=True)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("extreme", [-3e38, float("inf"), float("nan")])
def test_softmax_attention_of_an_extreme_query_leaves_the_others_alone(extreme: float) -> None:
    query, few = torch.ones(1, 1, 30, 32), torch.ones(1, 1, 5, 32)
    query[0, 0, 7, 3] = extreme
    expected = torch.ones(1, 1, 30, 32)
    expected[0, 0, 7] = 1 if extreme < 0 else float("nan")
    torch.testing.assert_close(attention(query, few, few), expected, equal_nan=True)


@pytest.mark.usefixtures("kernels")
def test_of_nothing_comes_what_the_twin_gives() -> None:
    zeros = torch.zeros
    assert linear(zeros(0, 5), zeros(3, 5)).shape == (0, 3)
    assert linear(zeros(4, 5), zeros(0, 5)).shape == (4, 0)
    assert torch.equal(linear(zeros(4, 0), zeros(3, 0), drawn(3)), drawn(3).expand(4, 3))
    assert conv3x3(zeros(0, 40, 40, 4), zeros(4, 4, 3, 3)).shape == (0, 40, 40, 4)
    assert conv3x3(zeros(1, 40, 40, 0), zeros(4, 0, 3, 3)).numel() == 0  # torch loses the channels out
    assert not attention_sums(zeros(1, 2, 0, 32), zeros(1, 2, 0, 32)).any()
    assert attend(zeros(1, 2, 0, 32), zeros(1, 2, 33, 32)).shape == (1, 2, 0, 32)
    assert rms_norm_add(zeros(0, 8), zeros(8), zeros(8)).shape == (0, 8)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("kernel", "shapes"),
    [
        (linear, [(4, 8), (8, 4)]),
        (linear, [(4, 8), (8, 16)]),
        (linear, [(4, 8), (8, 8), (3,)]),
        (conv3x3, [(1, 40, 40, 4), (4, 8, 3, 3)]),
        (conv3x3, [(1, 40, 40, 4), (4, 4, 3, 3), (2,)]),
        (gated_depthwise, [(1, 4, 4, 5), (5, 1, 3, 3), (5,)]),
        (gated_depthwise, [(1, 4, 4, 4), (4, 1, 3, 3), (2,)]),
        (rms_norm_add, [(3, 8), (4,), (4,)]),
        (rms_norm_add, [(3, 8), (8,), (8,), (2, 8)]),
        (attention, [(1, 1, 4, 32), (1, 1, 5, 16), (1, 1, 5, 16)]),
        (attention_sums, [(1, 2, 8, 32), (1, 2, 4, 32)]),
        (attend, [(1, 4, 3, 32), (1, 2, 33, 32)]),
    ],
)
def test_what_does_not_fit_together_is_refused_as_torch_does(
    kernel: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    with pytest.raises(RuntimeError):
        kernel(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.usefixtures("kernels")
def test_strided_biases_gains_and_sums_are_read_as_they_lie() -> None:
    every_other = drawn(16)[::2]
    dense = every_other.contiguous()
    assert difference(linear, drawn(3, 5), drawn(8, 5), every_other) < LINEAR
    ours = rms_norm_add(drawn(3, 8), every_other, every_other)
    torch.testing.assert_close(ours, rms_norm_add(drawn(3, 8), dense, dense))
    sums = drawn(1, 2, 33, 64).abs()[..., ::2]
    torch.testing.assert_close(
        attend(drawn(1, 2, 3, 32), sums), attend(drawn(1, 2, 3, 32), sums.contiguous())
    )


def jobs() -> list[Callable[[], Tensor]]:
    x, weight, rows = drawn(40, 300), drawn(70, 300), drawn(1, 24, 30, 40)
    filters, depth = drawn(17, 40, 3, 3), drawn(40, 1, 3, 3)
    tokens = drawn(1, 3, 70, 32)
    return [
        lambda: linear(x, weight),
        lambda: conv3x3(rows, filters),
        lambda: gated_depthwise(rows, depth, None),
        lambda: relu_linear_attention(tokens, tokens, tokens),
        lambda: attention(tokens, tokens, tokens),
    ]


@pytest.mark.usefixtures("kernels")
def test_several_threads_of_python_may_call_at_once() -> None:
    expected = [(job, job()) for job in jobs()]

    @torch.no_grad()
    def agrees(turn: int) -> bool:
        job, result = expected[turn % len(expected)]
        return torch.equal(job(), result)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(agrees, range(100)))


@pytest.mark.usefixtures("kernels")
def test_a_thread_that_ends_gives_its_scratch_back() -> None:
    memory = Path("/proc/self/statm")
    if not memory.is_file():
        pytest.skip("needs Linux")

    def resident_after(count: int) -> int:
        for _ in range(count):
            thread = threading.Thread(target=torch.no_grad()(lambda: [job() for job in jobs()]))
            thread.start()
            thread.join()
        _, resident, of_files, *_ = memory.read_text().split()  # pages of files come and go
        return (int(resident) - int(of_files)) * 4096

    before = resident_after(5)
    assert resident_after(40) < before + (60 << 20)  # 40 that kept their smallest buffer would hold 80 MB


def test_gradients_other_dtypes_and_other_devices_take_the_twin() -> None:
    x, weight = drawn(4, 8), drawn(8, 8).requires_grad_()
    assert native.kernels(x, weight=weight) is None
    assert native.kernels(x.double()) is None
    assert native.kernels(x, x.bfloat16()) is None
    assert native.kernels(x.to("meta")) is None
    assert linear(x, weight).requires_grad
    with torch.no_grad():
        assert native.kernels(x, weight=weight.bfloat16()) is native._load()[0]


def test_no_kernels_on_request_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    native._load.cache_clear()
    monkeypatch.setenv(native.VARIABLE, "none")
    assert native.info()["library"] == "none: SANAKIT_KERNELS=none"
    assert native.kernels(drawn(1)) is None
    native._load.cache_clear()


def test_kernels_that_the_cpu_does_not_run_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    native._load.cache_clear()
    monkeypatch.setenv(native.VARIABLE, "avx1024")
    assert native.info()["library"].startswith("none: SANAKIT_KERNELS=avx1024, but this CPU runs ")
    native._load.cache_clear()


def test_a_package_built_without_a_compiler_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    native._load.cache_clear()
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    assert "install a C++ compiler" in native.info()["library"]
    native._load.cache_clear()


def test_a_library_of_another_system_is_reported_not_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    for level in LEVELS:
        (tmp_path / f"kernels-{level}.so").write_bytes(b"\x7fELF of somewhere else")
    native._load.cache_clear()
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    assert "cannot be loaded" in native.info()["library"]
    native._load.cache_clear()

"""Each compiled kernel against its plain twin in float64: odd sizes, all instruction sets, 1 to 3 threads."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable, Iterator

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


def levels() -> tuple[str, ...]:
    return native.LEVELS.get(torch.backends.cpu.get_cpu_capability(), ("generic",))


@pytest.fixture(params=[(level, 1) for level in levels()] + [(levels()[0], 2), (levels()[0], 3)], ids=str)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    level, threads = request.param
    path = native.FOLDER / f"kernels-{level}.so"
    if not path.is_file():
        pytest.skip("no compiled kernels here")
    library = ctypes.CDLL(str(path))
    for name, arguments in native._SIGNATURES.items():
        getattr(library, name).argtypes = arguments
    monkeypatch.setattr(native, "_load", lambda: (library, level))
    monkeypatch.setattr(native, "threads", lambda work: threads)
    with torch.no_grad():
        yield


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
    assert native.info()["library"] in levels()


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
    for level in levels():
        (tmp_path / f"kernels-{level}.so").write_bytes(b"\x7fELF of somewhere else")
    native._load.cache_clear()
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    assert "can not be loaded" in native.info()["library"]
    native._load.cache_clear()

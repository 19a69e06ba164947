"""Each kernel for GPUs against its plain twin in float64: odd sizes, strided inputs, three dtypes.

On a CPU the kernels run in Triton's interpreter, which is chosen by a variable that is read when Triton is
imported. That shows what they compute; that they compile, and keep to the registers, is shown for two kinds
of GPU without one. `test_gpu_kernels.py` runs this file twice, in processes of their own.
What runs on a GPU is marked so: `pytest -m gpu tests/ops/gpu_kernel_cases.py`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.ops import gpu
from sanakit.ops.gated_depthwise import gated_depthwise
from sanakit.ops.linear_attention import attend, attention_sums
from sanakit.ops.modulation import add_gated_, modulated_norm

if not gpu.TRITON:
    pytest.skip("needs Triton", allow_module_level=True)

import triton
from triton.compiler import ASTSource

from sanakit.ops.gpu import add_gated, linear_attention
from sanakit.ops.gpu import gated_depthwise as depthwise_kernel
from sanakit.ops.gpu import modulated_norm as modulated_norm_kernel

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
COMPILED = os.environ.get("TRITON_INTERPRET") == "0"
# Largest difference relative to the largest value. float32: sums in another order. 16 bits: the result is
# rounded once, by half a unit in the last place (2^-9, 2^-12), which may be a whole one where sums differ.
# The interpreter does not round to bfloat16 but cuts off, which is wrong by a whole unit.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7 if INTERPRETED else 2**-8, torch.float16: 2**-11}

every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where tensors lie; in the interpreter the kernels are made to take those of the CPU."""
    if request.param == "cuda":
        if not torch.cuda.is_available() or INTERPRETED:
            pytest.skip("needs a GPU")
    elif not INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET")
    else:
        monkeypatch.setattr(gpu, "kernels_run", lambda x, *others: x.dtype != torch.float64)
    with torch.no_grad():
        yield "cuda" if request.param == "cuda" else "cpu"


KERNELS = {  # constants that they are compiled with, as a 1.6B model launches them, and warps
    modulated_norm_kernel._modulated_norm: ({"BLOCK": 4096}, 8),
    add_gated._add_gated: ({"GATED": True, "HALF": False, "BLOCK": add_gated.BLOCK}, 4),
    linear_attention._attention_sums: ({"PRECISION": "tf32", "WIDTH": 32, "PADDED": 32, "BLOCK": 64}, 4),
    linear_attention._attend: ({"WIDTH": 32, "PADDED": 32, "BLOCK": 64}, 4),
    depthwise_kernel._gated_depthwise: (
        {"BIASED": True, "COLUMNS": 8, "CHANNELS": 64, "ROWS": depthwise_kernel.ROWS},
        4,
    ),
}
FLOATS = {"sums": "*fp32", "eps": "fp32", "epsilon": "fp32"}
POINTERS = ("x", "y", "scale", "shift", "gate", "key", "value", "query", "rows", "taps", "bias")

SIXTEENS = {f"{x}_{part}" for x in "kvqxy" for part in ("batch", "head", "token")} | {"width", "half"}


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_nvidia_gpus_and_keep_to_the_registers(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's compiler and ptxas need no GPU; what does not fit in registers would go through memory."""
    if not COMPILED:
        pytest.skip("needs TRITON_INTERPRET")
    compiler = pytest.importorskip("triton.backends.compiler")
    nvidia = pytest.importorskip("triton.backends.nvidia")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel, (constants, warps) in KERNELS.items():
        types = {name: FLOATS.get(name, "*bf16" if name in POINTERS else "i32") for name in kernel.arg_names}
        # What a launch finds to be a multiple of 16, and tells: places in memory, widths, most strides.
        sixteens = [i for i, name in enumerate(kernel.arg_names) if name in SIXTEENS or types[name][0] == "*"]
        source = ASTSource(
            kernel,
            types | dict.fromkeys(constants, "constexpr"),
            constants,
            {(place,): [["tt.divisibility", 16]] for place in sixteens},
        )
        target = compiler.GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": warps})
        binary = tmp_path / f"{kernel.__name__}.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        usage = subprocess.check_output(
            [Path(nvidia.__file__).parent / "bin" / "cuobjdump", "-res-usage", binary], text=True
        )
        assert "STACK:0 " in usage, kernel.__name__
        assert "LOCAL:0 " in usage, kernel.__name__


def test_where_nothing_can_be_launched_plain_operations_run_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_a_compiler(*values: Tensor | None) -> None:
        raise RuntimeError("Failed to find C compiler.\nMore.")

    monkeypatch.setattr(add_gated, "add_gated_", without_a_compiler)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device, dtype: torch.ones(*shape, dtype=dtype))
    gpu.launches.cache_clear()
    with pytest.warns(UserWarning, match=r"plain operations run: Failed to find C compiler\.$"):
        assert not gpu.launches()
    assert not gpu.launches()  # told once
    gpu.launches.cache_clear()


def drawn(device: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return numbers.to(dtype).to(device)


def agrees(
    operation: Callable[..., Tensor], *inputs: Tensor | None, tolerance: float, **options: int
) -> Tensor:
    """Compare with the same operation in float64, which kernels do not take; return the kernel's result.

    The plain twin of linear attention computes in float32, whatever comes.
    """
    ours = operation(*inputs, **options)
    exact = operation(*(None if i is None else i.double() for i in inputs), **options)
    assert ours.shape == exact.shape
    assert (ours - exact).abs().max() <= tolerance * exact.abs().max()
    return ours


@every_dtype
@pytest.mark.parametrize("sizes", [(1, 1, 8), (2, 3, 100), (2, 2, 2240)])
@pytest.mark.parametrize("own", [True, False], ids=["own", "shared"])
def test_modulated_norm_equals_its_twin(
    device: str, sizes: tuple[int, int, int], own: bool, dtype: torch.dtype
) -> None:
    batch, _, width = sizes
    table = drawn(device, batch if own else 1, 6, width, dtype=dtype).unsqueeze(2)  # as a block makes it
    scale, shift = table[:, 1], table[:, 4]
    x = 3 * drawn(device, *sizes, dtype=dtype) + 5
    ours = agrees(modulated_norm, x, scale, shift, tolerance=TOLERANCE[dtype])
    assert ours.dtype == dtype


@every_dtype
@pytest.mark.parametrize("gated", ["own", "shared", "none"])
@pytest.mark.parametrize("width", [7, 1100])
def test_add_gated_equals_its_twin(device: str, width: int, gated: str, dtype: torch.dtype) -> None:
    x = drawn(device, 2, 9, width, dtype=dtype)[:, 2:7]  # a band of tokens
    y = drawn(device, 2, 5, width, dtype=dtype)
    gate = (
        None if gated == "none" else drawn(device, 2 if gated == "own" else 1, 6, 1, width, dtype=dtype)[:, 2]
    )

    def added(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
        x = x.clone(memory_format=torch.preserve_format)
        add_gated_(x, y, gate)
        return x

    agrees(added, x, y, gate, tolerance=TOLERANCE[dtype])
    untouched = drawn(device, 2, 9, width, dtype=dtype)
    whole = untouched.clone()
    add_gated_(whole[:, 2:7], y, gate)
    assert torch.equal(whole[:, :2], untouched[:, :2])
    assert torch.equal(whole[:, 7:], untouched[:, 7:])
    assert not torch.equal(whole[:, 2:7], untouched[:, 2:7])


def test_what_overflowed_float16_is_added_as_its_largest_value(device: str) -> None:
    x = torch.zeros(1, 1, 4, dtype=torch.float16, device=device)
    y = torch.tensor([[[float("inf"), float("-inf"), float("nan"), 2]]], dtype=torch.float16, device=device)
    add_gated_(x, y, torch.full_like(x, 0.5))
    expected = torch.tensor([32752.0, -32752.0, float("nan"), 1.0], device=device)
    torch.testing.assert_close(x[0, 0].float(), expected, equal_nan=True, rtol=0, atol=0)


@every_dtype
@pytest.mark.parametrize("sizes", [(1, 1, 1, 32), (2, 3, 77, 32), (1, 2, 300, 20), (1, 1, 65, 72)])
def test_linear_attention_equals_its_twin(device: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    batch, heads, tokens, width = sizes
    qkv = drawn(device, batch, tokens, 3 * heads * width, dtype=dtype)  # views of one product, as in a block
    query, key, value = (part.unflatten(-1, (heads, width)).transpose(1, 2) for part in qkv.chunk(3, -1))
    sums = agrees(attention_sums, key, value, tolerance=TOLERANCE[torch.float32])
    assert sums.dtype == torch.float32
    ours = agrees(lambda query: attend(query, sums), query, tolerance=TOLERANCE[dtype])
    assert ours.dtype == dtype


def test_shares_of_many_tokens_add_up_to_the_same_bits_every_time(device: str) -> None:
    key, value = (drawn(device, 1, 1, 1000 + i, 32)[:, :, :1000] for i in range(2))
    first = agrees(attention_sums, key, value, tolerance=TOLERANCE[torch.float32])
    assert torch.equal(first, attention_sums(key, value))


def test_nan_is_not_hidden_by_the_relu(device: str) -> None:
    tokens = torch.ones(1, 1, 40, 32, device=device)
    tokens[0, 0, 7, 3] = float("nan")
    ones = torch.ones_like(tokens)
    sums = attention_sums(tokens, ones)
    assert sums.isnan().any(-1)[0, 0].nonzero().flatten().tolist() == [3, 32]  # its row; in the totals too
    assert attend(tokens, attention_sums(ones, ones)).isnan().any(-1)[0, 0].nonzero().flatten().tolist() == [
        7
    ]


@pytest.mark.parametrize(
    ("sizes", "sides", "dtype"),
    [
        ((2, 3, 9, 3), (0, 0), torch.float32),  # B R W M: images, and a strip of columns that is not full
        ((1, 4, 1, 70), (1, 0), torch.bfloat16),  # channels of a second program, few of them
        ((1, 19, 2, 2), (0, 1), torch.float32),  # rows of a second program, few of them
        ((1, 5, 2, 3), (1, 1), torch.float16),
    ],
)
def test_gated_depthwise_equals_its_twin(
    device: str, sizes: tuple[int, ...], sides: tuple[int, int], dtype: torch.dtype
) -> None:
    batch, height, width, half = sizes
    rows = drawn(device, batch, height, width, 2 * half, dtype=dtype)
    weight, bias = (drawn(device, 2 * half, *rest, dtype=dtype) for rest in ((1, 3, 3), ()))
    above, below = sides
    own = None if above else bias
    ours = agrees(gated_depthwise, rows, weight, own, above=above, below=below, tolerance=TOLERANCE[dtype])
    assert ours.dtype == dtype


def test_a_transformer_draws_the_same_with_and_without_kernels(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sanakit.models.sana import Sana, SanaConfig

    config = SanaConfig(depth=1, width=64, cross_heads=2, text_width=24, latent_channels=4)
    torch.manual_seed(0)
    model = Sana(config).to(device).eval()
    context = model.prepare([drawn(device, count, 24) for count in (1, 5)])
    latents, times = drawn(device, 1, 4, 2, 3), torch.tensor([0.3], device=device)
    ours = model.velocity(latents, times, context)
    called = []
    monkeypatch.setattr(gpu, "kernels_run", lambda *values: called.append(1))
    plain = model.velocity(latents, times, context)
    assert len(called) == 8 + 1  # two norms, sums, attention, convolution, three results added; the last norm
    assert (ours - plain).abs().max() < 1e-5 * plain.abs().max()  # float32 both, in other orders


def test_compiled_code_calls_a_kernel_as_one_operation(device: str) -> None:
    tokens, rows = drawn(device, 1, 2, 20, 32), drawn(device, 1, 2, 2, 6)
    weight = drawn(device, 6, 1, 3, 3)

    def both(tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return attend(tokens, attention_sums(tokens, tokens)), gated_depthwise(rows, weight, None)

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    for ours, plain in zip(compiled(tokens, rows), both(tokens, rows), strict=True):
        assert torch.equal(ours, plain)
        assert ours.stride() == plain.stride()

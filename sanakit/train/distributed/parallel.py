"""Several processes train one model: joining them, spreading the model over them, and failing together.

`torchrun` starts the processes and tells each its place by environment variables (RANK, WORLD_SIZE,
LOCAL_RANK); without them there is one process and nothing here communicates. Two ways to spread a model:
"ddp" (DistributedDataParallel: every process holds all of it) and "fsdp" (FSDP2, arXiv:2304.11277: weights,
gradients, averages and optimiser states are sharded along the first axis and gathered block by block).

Both see the whole loss of an objective as one module's forward (`LossModule`), so an objective may call any
method of any part of its model, as long as it does so inside `loss`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sanakit.errors import PeerError, SanaError, SettingsError
from sanakit.models.gemma2 import Layer
from sanakit.models.world.blocks import WorldBlock
from sanakit.ops.torch_private import process_store
from sanakit.train.objective import Alternating, Beside
from sanakit.train.parts import Share

if TYPE_CHECKING:
    from sanakit.train.config import TrainConfig
    from sanakit.train.objective import Objective

# How long a process waits for the others: rank 0 measures and draws sheets while they wait for its gradients.
PATIENCE = timedelta(minutes=30)
# Bytes a parameter takes while it is trained with AdamW: itself, gradient, two momenta and the average.
BYTES_TRAINED = 20
FULL = (
    0.5  # share of a device's memory that these may take before "auto" chooses FSDP2; the rest: activations
)


_by_itself: ContextVar[bool] = ContextVar("by_itself", default=False)


def training_device() -> torch.device:
    """Return the accelerator of this process if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def current_share() -> Share:
    """Return this process's rank and the number of processes."""
    if not dist.is_initialized() or _by_itself.get():
        return Share()
    return Share(dist.get_rank(), dist.get_world_size())


@contextmanager
def by_itself() -> Iterator[None]:
    """Let one process do what all would have to take part in, such as reading a checkpoint, without them."""
    token = _by_itself.set(True)
    try:
        yield
    finally:
        _by_itself.reset(token)


@contextmanager
def processes(work: str = "training") -> Iterator[Share]:
    """Join the processes that torchrun has started, for the length of a `with`; alone, nothing happens.

    work: what they do together, in messages. When one of them fails with a sentence for the user, the others
    raise PeerError with the same sentence; when one dies without a word, PeerError says so. Raises
    SettingsError where WORLD_SIZE is set without RANK, as some clusters do.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield current_share()
        return
    if "RANK" not in os.environ:
        raise SettingsError(
            "WORLD_SIZE tells of several processes, but RANK is not set: start them with torchrun, or unset "
            "WORLD_SIZE."
        )
    device = training_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    share = current_share()
    try:
        with warnings.catch_warnings():
            # DDP copies the gradients of depthwise convolutions, which have two names for one layout.
            warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
            yield share
    except SanaError as error:
        with suppress(RuntimeError):
            process_store().set("failure", f"process {share.rank}: {error}")
        raise
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
            raise
        raise PeerError(_last_words(work)) from error
    finally:
        with suppress(RuntimeError):  # after a failure, of which the others have been told by now
            dist.destroy_process_group()


def choose(config: TrainConfig, model: nn.Module, share: Share) -> str:
    """Return how to spread a model: "alone", "ddp" or "fsdp"; "auto" uses FSDP2 above half a device."""
    if share.world == 1:
        return "alone"
    if config.parallel != "auto":
        return config.parallel
    device = next(model.parameters()).device
    if device.type != "cuda":
        return "ddp"
    needed = BYTES_TRAINED * sum(p.numel() for p in model.parameters() if p.requires_grad)
    return "fsdp" if needed > FULL * torch.cuda.get_device_properties(device).total_memory else "ddp"


class LossModule(nn.Module):
    """An objective's loss as a module's forward, for DDP and FSDP2 to wrap.

    again: blocks of a frozen model that run again in the backward pass. They do so in here alone: its copies
    with other matrices, which are measured and drawn from, would inherit the first one's.
    """

    def __init__(self, objective: Objective, again: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.model = objective.model
        self.compute = objective.loss
        self._again = tuple(again)  # not modules of this one, which are trained

    def forward(self, batch: Any) -> Tensor:
        """Loss of a part of a global batch."""
        for block in self._again:
            _compute_again(block)
        try:
            return self.compute(batch)
        finally:
            for block in self._again:
                del block.forward


def spread(objective: Objective, config: TrainConfig, share: Share) -> nn.Module:
    """Make the objective's loss a module whose gradients are those of the global batch on every rank.

    Gradients are averaged over ranks: multiply a part's loss by the number of ranks to add parts up. Under
    FSDP2 the parameters of `objective.model` become DTensors, in place: make optimisers afterwards.
    Raises SettingsError for `recompute` where there is nothing to compute again.
    """
    kind = choose(config, objective.model, share)
    passed: list[nn.Module] = []
    if config.recompute:
        trained = blocks(objective.model)
        passed = blocks(objective.base, frozen=True) if isinstance(objective, Beside) else []
        if not trained and not passed:
            raise SettingsError("recompute is True, but no blocks are trained or passed here: leave it out.")
        for block in trained:
            _compute_again(block)
    losses = LossModule(objective, passed)
    if kind == "alone":
        return losses
    if kind == "ddp":
        turns = isinstance(objective, Alternating)
        return nn.parallel.DistributedDataParallel(
            losses, gradient_as_bucket_view=True, find_unused_parameters=turns
        )
    return _shard(losses, objective.model, config)


def _compute_again(block: nn.Module) -> None:
    """Let a block run again in backward passes, until `forward` is deleted from it."""
    # On the instance, so that names stay, and below what compile and FSDP2 put around __call__.
    block.forward = partial(_recomputed, block.forward)  # pyright: ignore[reportAttributeAccessIssue]


def _recomputed(forward: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Run a block, and again in the backward pass if there is one; forward derivatives know no such thing."""
    if not torch.is_grad_enabled():
        return forward(*values, **named)
    return checkpoint(forward, *values, use_reentrant=False, preserve_rng_state=False, **named)


def blocks(model: nn.Module, *, frozen: bool = False) -> list[nn.Module]:
    """Return a model's repeated parts (members of module lists), which are gathered and recomputed one by
    one.

    Left out are what is frozen (it may be run by other methods than forward) and Gemma's layers, which run
    twice a batch and hand keys and values on beside their output. Blocks of worlds are taken although each
    holds weights that nothing reaches, which are not trained. frozen: take the blocks of a frozen
    transformer, with adapters or without.
    """
    found: list[nn.Module] = []
    waiting = [model]
    while waiting:
        for child in waiting.pop().children():
            if not isinstance(child, nn.ModuleList):
                waiting.append(child)
                continue
            found += [
                block
                for block in child
                if not isinstance(block, Layer)
                and any(True for _ in block.parameters())
                and (frozen or _trained(block))
            ]
    return found


def _trained(block: nn.Module) -> bool:
    """Return whether a block is trained: all of it, or of a world's all that anything reaches."""
    each = (parameter.requires_grad for parameter in block.parameters())
    return any(each) if isinstance(block, WorldBlock) else all(each)


def accumulating(losses: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Exchange gradients only in the last backward of a step."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(losses, FSDPModule):
        losses.set_requires_gradient_sync(last)
    elif isinstance(losses, nn.parallel.DistributedDataParallel) and not last:
        return losses.no_sync()
    return nullcontext()


def wait() -> None:
    """Wait until all processes are here; every rank must call this."""
    if current_share().world > 1:
        dist.barrier()


def of_chief(text: str) -> str:
    """Return rank 0's text; every rank must call this."""
    if current_share().world == 1:
        return text
    texts = [text]
    dist.broadcast_object_list(texts, 0)
    return texts[0]


def gathered(tensor: Tensor) -> Tensor:
    """Return all ranks' tensors of one shape, one behind the other; every rank must call this."""
    world = current_share().world
    if world == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world)]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def own(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, sharing its memory: all of it if it is not sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyright: ignore[reportAttributeAccessIssue]


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor; if it is sharded, every rank must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyright: ignore[reportAttributeAccessIssue]


def _shard(losses: nn.Module, model: nn.Module, config: TrainConfig) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = next(model.parameters()).device
    # FSDP2 takes no weights whose channels lie last in memory.
    model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), 0)  # as DDP does: each rank keeps a shard of the same weights
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # Master weights and the sums of gradients stay float32; what is gathered is bfloat16. Inputs are left
    # alone: autocast decides layer by layer, and times in bfloat16 would be too coarse.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if config.bf16 else None,
        reduce_dtype=torch.float32 if config.bf16 else None,
        cast_forward_inputs=False,
    )
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(losses, mesh=mesh, mp_policy=policy)
    return losses


def _last_words(work: str) -> str:
    """Return why the other processes ended, as far as they reported it."""
    with suppress(RuntimeError):
        if process_store().check(["failure"]):
            return f"The {work} ended in {process_store().get('failure').decode()}"
    again = "continue with --resume from the last checkpoint" if work == "training" else "start again"
    return (
        f"Another process of this {work} ended without a message or does not answer: look at its output, "
        f"then {again}."
    )

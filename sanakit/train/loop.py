"""The training loop, readable from top to bottom.

An objective provides the model, its data and its loss; the loop provides optimiser, schedule, averaging,
checkpoints and reports. Batch k of a run is a pure function of its seed and k (`train/parts.py`): a resumed
run sees the same batches as an uninterrupted one and has the same losses, on any number of ranks.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sanakit.errors import DataError, NumericsError, SettingsError
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import accumulating, current_share, of_chief, spread, whole
from sanakit.train.guard import Guard
from sanakit.train.objective import Alternating, Counted, Ending, Filled, Objective, Telling
from sanakit.train.optim.make import make_optimizers
from sanakit.train.pace import Pace
from sanakit.train.parts import split
from sanakit.train.report import Progress, open_report
from sanakit.train.state.average import Average
from sanakit.train.state.checkpoint import open_checkpoint, save_checkpoint
from sanakit.train.state.train_state import TrainState, check_numbers
from sanakit.weights.precision import computes

log = logging.getLogger(__name__)


def train(
    objective: Objective, config: TrainConfig, folder: Path, *, resume: bool = False
) -> Iterator[Progress]:
    """Train and yield progress every `log_every` steps; the caller stops the run by ending the iteration.

    Inside `parallel.processes` every rank calls this and gets the same lines; rank 0 alone measures, draws
    and writes. folder: gets log.jsonl, TensorBoard events (if installed), sheets/ and checkpoint folders.
    resume: continue from the folder's last intact checkpoint, if any, with the settings of `config`;
    otherwise the folder's log is started again. Raises NumericsError if the guard gives up, DataError if no
    image can be read any more, WeightsError for checkpoints that are damaged or of another model, OutputError
    on a full disk.
    """
    share = current_share()
    chief = share.rank == 0
    parts = split(config.batch_size, share, config.micro_batch)
    model = objective.model
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingsError("All parameters of the model are frozen: there is nothing to train.")
    device = next(model.parameters()).device
    notes: list[str] = []
    if config.bf16 and not computes(device, torch.bfloat16):
        config = replace(config, bf16=False)
        notes.append("There is no bfloat16 arithmetic here: training continues in float32, which is faster.")
    average = Average(model)
    losses = spread(objective, config, share)
    average.start()
    optimizers = make_optimizers(model, config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    state = TrainState(model, average, optimizers)
    saved = open_checkpoint(folder, _check) if resume else None
    first = 0
    guards: dict[str, Guard] = defaultdict(Guard)  # one for each part that learns in turns; "": all together
    if saved is not None:
        state.restore(saved)
        for turn, numbers in _guards(saved.numbers).items():
            guards[turn].load_state_dict(numbers)
        first = saved.step
        notes += saved.notes
    pace = Pace(device, config.bf16)
    counted = objective if isinstance(objective, Counted) else None
    partly = objective if isinstance(objective, Filled) else None
    turns = objective if isinstance(objective, Alternating) else None
    telling = objective if isinstance(objective, Telling) else None
    ending = objective if isinstance(objective, Ending) else None
    lead = turns.learning(0) if turns else ""
    # of the steps since the last line, by what learned in them: loss, and what it counts
    recent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    why = ending.ended() if ending is not None and saved is not None else ""  # of an earlier end
    steps = first if why else config.steps
    if first >= steps and chief:
        _tell_finished(first, steps, [*notes, why] if why else notes)

    with open_report(folder, first, config) if chief else nullcontext() as report:
        if first < steps:
            objective.begin(first, parts)
        for step in range(first, steps):
            # 1. The part that learns in this step, and its learning rate
            turn = turns.learning(step) if turns else ""
            guard = guards[turn]
            steady = turns is not None and turns.steady(turn)
            factor = guard.factor * (1.0 if steady else config.rate(step))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * factor

            # 2. Loss and gradients, part by part; all ranks' parts add up to the global batch
            pace.start_step()
            # the samples' losses, and the share of places that hold one
            total = torch.zeros(2, device=device, dtype=torch.float32)
            for part in parts:
                with pace.waiting():
                    batch = objective.batch(step, part)
                if counted is not None:
                    pace.count(counted.flops(batch))
                with accumulating(losses, last=part is parts[-1]):
                    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                        loss = losses(batch)
                    (loss * share.world).backward()
                filled = total.new_zeros(()) if partly is None else partly.filled(batch)
                total += torch.stack([loss.detach().float(), filled])
            for name, parameter in model.named_parameters() if turns else ():
                if not name.startswith(f"{turn}."):
                    parameter.grad = None  # for optimisers as if it had no step
            if share.world > 1:
                dist.all_reduce(total)
            norm = whole(nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
            lost, there, size = torch.cat([total, norm[None]]).tolist()  # the step's only wait for the device
            there = 1.0 if partly is None else there

            # 3. Update the weights and their average, unless the guard objects
            try:
                admitted = guard.admit(step, lost / there, size) if there else guard.leave_out(step)
            except (DataError, NumericsError):
                if report is not None:
                    report.note(" ".join(guard.notes))
                raise
            notes += guard.notes
            guard.notes.clear()
            if admitted:
                nn.utils.clip_grads_with_norm_(trained, config.clip_norm, norm)
                for optimizer in optimizers:
                    optimizer.step()
                average.update(min(config.ema_decay, (step + 1) / (step + 10)))
                recent[turn].append((lost, there))
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            pace.end_step(config.batch_size)

            # 4. Look at it
            done = step + 1
            last = done == config.steps
            drawing = last or done % config.sheet_every == 0
            measuring = last or done % config.evaluate_every == 0
            averaged = average.module() if drawing or measuring else None
            if averaged and drawing and report:
                report.sheet(done, objective.sheet(averaged))
            measured = objective.evaluate(averaged) if averaged and measuring and chief else {}
            if ending is not None and measuring and (why := of_chief(ending.ended())):
                last = True
                notes.append(why)
            progress = None
            if measuring or done % config.log_every == 0:
                progress = Progress(
                    step=done,
                    total=config.steps,
                    loss=_mean(recent[lead]),
                    grad_norm=size,
                    rate=factor,
                    metrics={f"loss_{other}": _mean(recent[other]) for other in recent if other != lead}
                    | (telling.figures() if telling else {})
                    | measured,
                    notes=tuple(notes),
                    **pace.report(),
                )
                recent.clear()
                notes.clear()
                if report is not None:
                    report.line(progress)
            del averaged  # whole even where the model is sharded: not to be kept during the steps

            # 5. Keep it, before the caller hears of it: who stops at a line finds the checkpoint of that line
            if last or done % config.checkpoint_every == 0:
                kept = {other: one.state_dict() for other, one in guards.items()}
                numbers = {"guards": kept} if turns else {"guard": kept[""]}
                numbers |= {"optimizers": state.numbers()}
                save_checkpoint(folder, done, state.tensors(), numbers)
            if progress is not None:
                yield progress
            if why:
                break


def _check(numbers: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError, ValueError or AttributeError for numbers that this loop did not save."""
    for one in _guards(numbers).values():
        Guard().load_state_dict(one)
    check_numbers(numbers["optimizers"])


def _guards(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved state of each guard, by the part of the model that learns in turns; "": all of it."""
    return dict(numbers["guards"] if "guards" in numbers else {"": numbers["guard"]})


def _tell_finished(step: int, steps: int, notes: list[str]) -> None:
    """Log what a run that is not trained further has no line for."""
    for note in notes:
        log.warning(note)
    if step > steps:
        log.warning(
            f"The run is at step {step} already, beyond the {steps} steps asked for: nothing is trained, and "
            f"the result is that of step {step}. For a shorter run, train into another folder."
        )


def _mean(recent: list[tuple[float, float]]) -> float:
    """Return the mean loss of the samples of some steps."""
    there = sum(count for _, count in recent)
    return sum(lost for lost, _ in recent) / there if there else math.nan

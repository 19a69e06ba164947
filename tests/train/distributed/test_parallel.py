"""Two processes train as one does, with DDP and with FSDP2, and go on when one of them is killed.

The second half of this file is what the processes run: `python test_parallel.py FOLDER SCENARIO ...`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit.errors import SanaError, SettingsError
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import blocks, processes
from sanakit.train.feeds.latents import LatentFeed
from sanakit.train.loop import train
from sanakit.train.objectives.flow_matching import TIMES_WATCHED, start_text_encoder
from sanakit.train.objectives.velocity import Sheet, VelocityObjective, Watched
from sanakit.train.state.checkpoint import load_average, open_checkpoint

pytestmark = pytest.mark.thorough

# Relative, of each of 20 losses in float32: sums in another order. They lie within 2e-7 as long as no value
# crosses ReLU's kink by rounding alone: at a rate of 3e-3 one did on one kind of CPU (5e-5).
TOLERANCE = 1e-5
CAPTIONS = [f"a {colour} {thing}" for colour in ("red", "blue") for thing in ("fox", "apple", "boat", "moon")]
STEPS = 20
CONFIG = TrainConfig(
    steps=STEPS,
    batch_size=8,
    learning_rate=1e-3,
    warmup_steps=3,
    ema_decay=0.9,
    log_every=1,
    evaluate_every=10,
    sheet_every=100,
    checkpoint_every=5,
)


def objective(seed: int = 0) -> VelocityObjective:
    """A tiny transformer and text encoder, to be trained on random latents."""
    torch.manual_seed(seed)
    sana = Sana(SanaConfig(depth=2, width=32, cross_heads=2, text_width=24, latent_channels=3, sample_size=4))
    gemma = Gemma2(
        Gemma2Config(
            vocab_size=768, width=24, depth=2, heads=2, kv_heads=1, head_dim=12, mlp_width=48, query_scalar=12
        )
    )
    sana.init_weights()
    start_text_encoder(gemma)
    for block in sana.blocks:  # silent at first otherwise: the text would get no gradient
        torch.nn.init.normal_(block.cross_attn.proj.weight, std=0.1)
    torch.nn.init.normal_(sana.final_layer.linear.weight, std=0.1)
    latents = torch.randn(len(CAPTIONS), 3, 4, 4, generator=torch.Generator().manual_seed(2))
    encoder = TextEncoder(gemma, train_tokenizer([COMPLEX_HUMAN_INSTRUCTION, *CAPTIONS], 768))
    return VelocityObjective(
        sana,
        encoder,
        LatentFeed(latents, [[caption] for caption in CAPTIONS], torch.ones(len(CAPTIONS)), seed=3),
        shift=3.0,
        watched=[Watched("", latents, CAPTIONS)],
        sheet=Sheet(prompts=CAPTIONS[:2], guidance=2.5, steps=1, shape=(3, 4, 4), decode=lambda z: z),
        train_text=True,
    )


def losses(config: TrainConfig, folder: Path, *, resume: bool = False, seed: int = 0) -> dict[int, float]:
    """Loss of every step. seed: of the first weights, which must not matter to a run that is resumed."""
    return {p.step: p.loss for p in train(objective(seed), config, folder, resume=resume)}


# What two processes do, one after another: name -> (what changes in CONFIG, run that it resumes).
# Starting them takes longer than most of what they do: the same two do all that is quick, and fail at last.
QUICK = {
    "ddp": ({"parallel": "ddp"}, None),
    "fsdp in parts": ({"parallel": "fsdp", "micro_batch": 2, "recompute": True}, None),
    "fsdp after ddp": ({"parallel": "fsdp"}, "ddp"),
    "ddp after a kill": ({"parallel": "ddp"}, "killed"),
}
THOROUGH = {
    "fsdp": ({"parallel": "fsdp"}, None),
    "ddp in parts": ({"parallel": "ddp", "micro_batch": 2, "recompute": True}, None),
    "ddp after fsdp": ({"parallel": "ddp"}, "fsdp"),
    "fsdp after alone": ({"parallel": "fsdp"}, "alone"),
    "fsdp after a kill": ({"parallel": "fsdp"}, "killed"),
}
SCENARIOS = QUICK | THOROUGH
FAILING = "failing"  # process 1 meets a broken image


class Processes:
    """Two processes of this file, as torchrun would start them."""

    def __init__(self, folder: Path, *names: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        self.all = [
            subprocess.Popen(
                [sys.executable, __file__, str(folder), *names],
                env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]

    def lines(self, rank: int) -> Iterator[str]:
        stdout = self.all[rank].stdout
        assert stdout is not None
        return iter(stdout)

    def end(self) -> list[tuple[int, str]]:
        """Wait for both; exit code and errors of each."""
        ends = []
        for process in self.all:
            _, errors = process.communicate(timeout=600)
            ends.append((process.returncode, errors))
        return ends


@pytest.fixture(autouse=True, scope="module")
def no_tensorboard() -> Iterator[None]:
    """Importing it takes longer than these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[int, float]:
    """The uninterrupted run of one process, its last checkpoint taken away."""
    expected = losses(CONFIG, folder / "alone")
    assert sum(list(expected.values())[-5:]) < 0.9 * sum(list(expected.values())[:5])
    shutil.rmtree(folder / "alone" / "checkpoint-0000020")
    assert open_checkpoint(folder / "alone").step == 15
    return expected


@pytest.fixture(scope="module")
def killed(folder: Path, alone: dict[int, float]) -> tuple[int, list[tuple[int, str]]]:
    """Step at which one process of two was killed, and how both ended."""
    after = random.randrange(5, 13)
    pair = Processes(folder, "killed")
    step = 0
    for line in pair.lines(0):
        step = int(line)
        if step == after:
            time.sleep(random.uniform(0, 0.05))  # any moment of the step, or of the next ones
            pair.all[1].send_signal(signal.SIGKILL)
            break
    assert step == after
    return step, pair.end()


@pytest.fixture(scope="module")
def failed(folder: Path, alone: object, killed: object) -> list[tuple[int, str]]:
    """How two processes ended that did the quick scenarios and then failed."""
    return Processes(folder, *QUICK, FAILING).end()


@pytest.fixture(scope="module")
def quick(folder: Path, failed: list[tuple[int, str]]) -> dict[str, dict[int, float]]:
    return found_by_both(folder, QUICK, failed)


@pytest.fixture(scope="module")
def thorough(folder: Path, alone: object, killed: object) -> dict[str, dict[int, float]]:
    ends = Processes(folder, *THOROUGH).end()
    assert ends == [(0, ""), (0, "")]
    return found_by_both(folder, THOROUGH, ends)


def found_by_both(
    folder: Path, names: Iterable[str], ends: list[tuple[int, str]]
) -> dict[str, dict[int, float]]:
    """Losses of scenarios, the same in two processes; ends: shown if they did not get that far."""
    ranks = [json.loads((folder / f"losses-{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0] == ranks[1]
    assert set(ranks[0]) == set(names), ends
    return {name: {int(step): loss for step, loss in found.items()} for name, found in ranks[0].items()}


def close(expected: dict[int, float]) -> dict[int, object]:
    return {step: pytest.approx(loss, rel=TOLERANCE) for step, loss in expected.items()}


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_have_the_losses_of_one(alone, quick, name):
    assert_same_course(alone, quick[name], resumed=QUICK[name][1] is not None)


@pytest.mark.slow
@pytest.mark.parametrize("name", THOROUGH)
def test_two_processes_have_the_losses_of_one_in_other_combinations(alone, thorough, name):
    assert_same_course(alone, thorough[name], resumed=THOROUGH[name][1] is not None)


def assert_same_course(expected: dict[int, float], found: dict[int, float], *, resumed: bool) -> None:
    first = min(found)
    assert (1 < first <= 16) if resumed else first == 1
    assert found == close({step: loss for step, loss in expected.items() if step >= first})


def test_when_one_process_is_killed_the_other_ends_with_a_sentence(killed):
    _, ((code, errors), (other, _)) = killed
    assert other == -signal.SIGKILL
    assert code == 2
    assert "Another process of this training ended without a message" in errors
    assert "--resume" in errors


def test_after_a_kill_one_process_goes_on_with_the_same_losses(folder, tmp_path, alone, killed):
    step, _ = killed
    shutil.copytree(folder / "killed", tmp_path / "alone")
    found = losses(CONFIG, tmp_path / "alone", resume=True, seed=5)
    assert min(found) <= step + 1
    assert found == close({step: loss for step, loss in alone.items() if step >= min(found)})


@pytest.mark.parametrize("name", ["ddp", "fsdp in parts"])
def test_averages_of_spread_models_measure_like_those_of_one_process(folder, alone, quick, name):
    """Not weight by weight: the biases of keys have no gradient but rounding, which AdamW enlarges."""
    expected, found = measured(folder / "alone"), measured(folder / name)
    assert set(expected) == {
        f"{case}_{time}" for case in ("right", "empty", "wrong") for time in TIMES_WATCHED
    }
    assert found == pytest.approx(expected, rel=1e-4)
    assert set(load_average(folder / name)) == set(objective().model.state_dict())


def measured(folder: Path) -> dict[str, float]:
    """What the averaged weights were found to be after the last step."""
    row = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert row["step"] == STEPS
    return {name: value for name, value in row.items() if name.startswith(("right", "empty", "wrong"))}


@pytest.mark.parametrize(
    "change", [{"micro_batch": 2}, {"recompute": True}], ids=["four micro-batches", "recomputation"]
)
def test_micro_batches_and_recomputation_change_no_loss(tmp_path, alone, change):
    assert losses(replace(CONFIG, **change), tmp_path) == close(alone)


def test_a_failure_of_one_process_is_told_by_the_other(failed):
    (code, errors), (other, others) = failed
    assert (code, other) == (2, 2)
    assert others == "SanaError: The picture 7 is broken.\n"
    assert errors == "PeerError: The training ended in process 1: The picture 7 is broken.\n"


def test_the_group_is_left_however_the_training_ends(monkeypatch):
    left = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append(True))
    for error in (None, SanaError("The picture 7 is broken."), RuntimeError("gloo"), KeyboardInterrupt()):
        with suppress(BaseException), processes():
            if error:
                raise error
    assert left == [True] * 4


def test_several_processes_without_a_rank_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SettingsError, match="RANK is not set: start them with torchrun"), processes():
        pytest.fail("it began")


def test_blocks_are_those_of_the_transformer():
    parts = objective()
    assert blocks(parts.model) == list(parts.transformer.blocks)


def work(folder: Path, names: list[str]) -> None:
    """One of two processes."""
    found = {}
    with processes() as share:
        for name in names:
            changes, before = SCENARIOS.get(name, ({"parallel": "ddp"}, None))
            if before is not None and share.rank == 0:
                shutil.copytree(folder / before, folder / name)
                shutil.rmtree(folder / name / f"checkpoint-{STEPS:07d}", ignore_errors=True)
            torch.distributed.barrier()
            chosen = objective(seed=share.rank if before is None else 7)
            if name == FAILING and share.rank == 1:
                chosen.batch = broken  # type: ignore[method-assign]
            run = train(chosen, replace(CONFIG, **changes), folder / name, resume=before is not None)
            found[name] = {}
            for progress in run:
                found[name][progress.step] = progress.loss
                if share.rank == 0:
                    print(progress.step, flush=True)
            (folder / f"losses-{share.rank}.json").write_text(json.dumps(found))


def broken(step: int, part: object) -> None:
    raise SanaError("The picture 7 is broken.")


if __name__ == "__main__":
    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
    torch.set_num_threads(1)
    try:
        work(Path(sys.argv[1]), sys.argv[2:])
    except SanaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)

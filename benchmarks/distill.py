"""What each part of sprint distillation is worth: a student trained without it, measured beside its teacher.

    python benchmarks/distill.py [--source pocket] [--data data/pocket] [--updates 100] [--rows both,scm ...]
                                 [--output runs/distill-ablation] [--write]

Every row is a student of the same teacher, from the same seed, on the same samples, with as many updates of
the student; where heads learn, too, they have as many steps between. A row that is done is not trained again,
and one that was stopped goes on. OUTPUT/rows.json holds all figures, OUTPUT/ROW its log and its sheet.

rms: root mean square distance of drawings in 1, 2 and 4 steps from the ends of the teacher's own paths, from
the same noise, guided with the middle scale. A student that draws its teacher's images has 0; the spread of
the ends among themselves, in the last line, is what images of other noise would have.
asked: for pocket, the share of PocketEval's questions whose image is as asked.

--data: the data set of `sana data pocket`, of which every 64th sample is encoded, or images with captions.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import side_by_side as side

if TYPE_CHECKING:
    from torch import Tensor

    from sanakit.train.config import TrainConfig
    from sanakit.train.objectives.sprint import SprintObjective
    from sanakit.train.run import Run
    from sanakit.train.runs.sprint import SprintAim

STEPS = (1, 2, 4)  # that are drawn and measured
SCENES, EVERY = 512, 64  # of pocket's data set: scenes that are composed, and every so many samples are taken
ROUGH = 1000.0  # times the teacher's time: what base models take
RECORD = "rows.json"

Draw = Callable[[Sequence[str], "Tensor", int], "Tensor"]
"""Draws prompts from noise (B C h w) in so many steps: scaled latents B C h w."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """One row. change: made to the whole recipe's settings. rough: teacher and student take times 1000 t."""

    told: str
    change: Callable[[SprintAim], SprintAim] = lambda aim: aim
    rough: bool = False


def _consistency(**changed: Any) -> Callable[[SprintAim], SprintAim]:
    return lambda aim: replace(aim, consistency=replace(aim.consistency, **changed))


def _adversarial(**changed: Any) -> Callable[[SprintAim], SprintAim]:
    return lambda aim: replace(aim, adversarial=aim.adversarial and replace(aim.adversarial, **changed))


ABLATIONS = {
    "both": Ablation(told="sCM and LADD, the recipe"),
    "scm": Ablation(told="sCM only", change=lambda aim: replace(aim, adversarial=None)),
    "ladd": Ablation(told="LADD only", change=_consistency(weight=0.0)),
    "no-pure-noise": Ablation(
        told="no max-time: heads see no drawing of 1 step", change=_adversarial(pure_noise=0.0)
    ),
    "no-tangent": Ablation(told="r = 0: the teacher's direction alone", change=_consistency(ramp_to=0.0)),
    "not-normalised": Ablation(told="tangent not normalised", change=_consistency(normalise=False)),
    "one-scale": Ablation(
        told="one scale of guidance",
        change=lambda aim: _consistency(guidance=(_middle(aim.consistency.guidance),))(aim),
    ),
    "rough-time": Ablation(told="times 1000 t", rough=True),
}


def main() -> None:
    """Train and measure the rows that were asked for, print and store them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="pocket", help="the teacher: a name or folder")
    parser.add_argument("--data", type=Path, default=Path("data/pocket"))
    parser.add_argument("--output", type=Path, default=Path("runs/distill-ablation"))
    parser.add_argument("--updates", type=int, default=100, help="of each student")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's own")
    parser.add_argument("--rows", default=",".join(ABLATIONS), help="of the students")
    parser.add_argument("--questions", type=int, default=5, help="of each kind of PocketEval; 0: none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="store the table in benchmarks/results/")
    asked = parser.parse_args()
    names = asked.rows.split(",")
    if strange := set(names) - set(ABLATIONS):
        parser.error(f"--rows knows {', '.join(ABLATIONS)}, not {', '.join(sorted(strange))}")
    side.use_threads(asked.threads)
    import torch

    torch.set_grad_enabled(True)
    torch.set_flush_denormal(True)
    asking = asked.questions if asked.source == "pocket" else 0
    ablating = Ablating(asked.source, asked.data, asked.output, asked.updates, asked.batch_size, asking)
    for name in names:
        ablating.row(name)
    lines = side.heading("Ablations of sprint distillation", f"{asked.threads} thread(s).") + ablating.lines()
    side.publish(lines, "distill", write=asked.write)


class Ablating:
    """The rows of one teacher on one set of samples; `RECORD` in its folder keeps those that are done.

    questions: of each kind of PocketEval; 0: none. Raises what making the run of a recipe raises, and
    SettingsError for a folder with rows of other settings.
    """

    def __init__(
        self, source: str, data: Path, output: Path, updates: int, batch_size: int | None, questions: int
    ) -> None:
        from sanakit.recipes.sprint import settings_for
        from sanakit.train.objectives.sprint import MEASURED, SprintObjective
        from sanakit.weights.fingerprint import fingerprint_weights

        self.output, self.updates, self.questions = output, updates, questions
        config, aim = settings_for(source, 2 * updates)
        warmup = min(aim.consistency.warmup, updates // 5)  # or r would never be 1 in a short run
        self.aim = replace(aim, consistency=replace(aim.consistency, warmup=warmup))
        self.config = replace(
            config, batch_size=batch_size or config.batch_size, evaluate_every=10**9, sheet_every=10**9
        )
        run = _whole_run(source, data, output / "samples", self.config, self.aim)
        assert isinstance(run.objective, SprintObjective)
        self.objective = run.objective
        watched = self.objective.velocity.watched[0]
        self.captions = watched.captions[:MEASURED]
        self.objective.velocity.watched = []  # measured here, against the same ends for all rows
        made_with = {
            "source": asdict(fingerprint_weights(source)),
            "data": run.made_with.content,
            "settings": asdict(self.config),
            "recipe": asdict(self.aim),
            "questions": questions,
        }
        self.record = _opened(output / RECORD, json.loads(json.dumps(made_with)))
        self.noise = self._noise(0, len(self.captions))
        self.ends = self._by_teacher(self.captions, self.noise, self.objective.velocity.drawing.steps)
        usual = self.objective.velocity.drawing.steps
        for steps in (usual, *STEPS):
            self._keep(f"teacher-{steps}", f"teacher, {steps} steps", 0, self._by_teacher, (steps,))

    def row(self, name: str) -> None:
        """Train and measure a row, unless that was done before."""
        from sanakit.train.loop import train
        from sanakit.train.objectives.sprint import transformer_of
        from sanakit.train.run import averaged_weights

        if name in self.record["rows"]:
            return
        began = time.monotonic()
        torch_seed(self.config.seed)
        objective = self._objective(ABLATIONS[name])
        config = self.config if objective.adversarial else self.config.lasting(self.updates)
        for progress in train(objective, config, self.output / name, resume=True):
            print(f"{name}: step {progress.step} of {progress.total}, loss {progress.loss:.4g}", flush=True)
        objective.model.load_state_dict(averaged_weights(self.output / name))
        student = transformer_of(objective.model).eval()

        def draw(prompts: Sequence[str], noise: Tensor, steps: int) -> Tensor:
            return _by_student(student, self.objective, prompts, noise, steps)

        self._keep(name, ABLATIONS[name].told, time.monotonic() - began, draw, STEPS)

    def lines(self) -> list[str]:
        """Return the table of all rows that are done, and what it was made with."""
        head = ["", "s of training", *(f"rms, {steps} step{'s' * (steps > 1)}" for steps in STEPS)]
        head += [f"asked, {steps}" for steps in STEPS] if self.questions else []
        rows = []
        for row in self.record["rows"].values():
            found = [row["rms"].get(str(steps)) for steps in STEPS]
            found += [row["asked"].get(str(steps)) for steps in STEPS] if self.questions else []
            shown = ["" if value is None else f"{value:.3f}" for value in found]
            rows.append([row["told"], f"{row['seconds']:.0f}" if row["seconds"] else "", *shown])
        spread = (self.ends - self.ends.roll(1, 0)).square().mean().sqrt().item()
        batch = self.config.batch_size
        told = f"{self.updates} updates of each student, batches of {batch}, seed {self.config.seed}; r is 1 "
        told += f"from update {self.aim.consistency.warmup} on."
        usual = self.objective.velocity.drawing.steps
        last = f"{len(self.captions)} prompts. Ends of other prompts are {spread:.3f} apart."
        if self.questions:
            whole = self.record["rows"][f"teacher-{usual}"]["asked"][str(usual)]
            last += f" The teacher in {usual} steps answers {whole:.3f} of {8 * self.questions} questions."
        return ["", told, "", *side.table(head, rows), "", last]

    def _objective(self, ablation: Ablation) -> SprintObjective:
        """Return the objective of a row: a new student of the teacher that all share."""
        from sanakit.train.objectives.sprint import SprintObjective
        from sanakit.train.surgery.dense_time import with_time_scale
        from sanakit.train.surgery.guidance_embed import with_guidance

        velocity, aim = self.objective.velocity, ablation.change(self.aim)
        student = with_guidance(velocity.transformer, velocity.seed)
        if ablation.rough:
            velocity = copy.copy(velocity)
            velocity.transformer, error = with_time_scale(velocity.transformer, ROUGH)
            student, _ = with_time_scale(student, ROUGH)
            print(f"Times 1000 t: the new embedding of time differs by {error:.1%}.", flush=True)
        return SprintObjective(velocity, student, aim.consistency, aim.adversarial)

    def _keep(self, name: str, told: str, seconds: float, draw: Draw, steps: Sequence[int]) -> None:
        """Measure drawings, and write them down as a row, unless that was done before."""
        from sanakit.whole import written_whole

        if name in self.record["rows"]:
            return
        distances = {}
        for count in steps:
            drawn = draw(self.captions, self.noise, count)
            distances[str(count)] = (drawn - self.ends).square().mean().sqrt().item()
        answered = {str(count): self._asked(draw, count) for count in steps} if self.questions else {}
        self.record["rows"][name] = {"told": told, "seconds": seconds, "rms": distances, "asked": answered}
        with written_whole(self.output / RECORD) as partial:
            partial.write_text(json.dumps(self.record, indent=2) + "\n")
        print(name, distances, answered, flush=True)

    def _asked(self, draw: Draw, steps: int) -> float:
        """Return the share of PocketEval's questions whose image is as asked, the mean of their kinds."""
        from sanakit.pocket.evaluate.pocket_eval import evaluate_scenes

        decode = self.objective.velocity.drawing.decode

        def images(prompts: Sequence[str], seed: int) -> Tensor:
            return decode(draw(prompts, self._noise(seed, len(prompts)), steps))

        return evaluate_scenes(images, per_kind=self.questions).shares["all"]

    def _noise(self, first: int, count: int) -> Tensor:
        """Return the noise of seeds from `first` on, B C h w."""
        import torch

        shape = self.objective.velocity.drawing.shape
        seeds = (torch.Generator().manual_seed(first + number) for number in range(count))
        return torch.stack([torch.randn(shape, generator=one) for one in seeds])

    def _by_teacher(self, prompts: Sequence[str], noise: Tensor, steps: int) -> Tensor:
        import torch

        from sanakit.flow.dpm import FlowDPM, dpm_times
        from sanakit.flow.guidance import classifier_free

        velocity, encoder = self.objective.velocity, self.objective.velocity.encoder
        teacher, scale = velocity.transformer, self.objective.middle
        with torch.no_grad():
            features = encoder.encode_negative([""]) + encoder.encode(list(prompts), notes=[])
            context = teacher.prepare(features, [len(prompts)] + [1] * len(prompts))
            guided = classifier_free(lambda x, t: teacher.velocity(x, t, context), scale)
            return _solved(FlowDPM(dpm_times(steps, velocity.shift)), guided, noise.to(velocity.device)).cpu()


def _by_student(
    student: Any, objective: SprintObjective, prompts: Sequence[str], noise: Tensor, steps: int
) -> Tensor:
    import torch

    from sanakit.flow.scm import SCM, scm_times

    encoder = objective.velocity.encoder
    with torch.no_grad():
        context = student.prepare(encoder.encode(list(prompts), notes=[]))
        return _solved(
            SCM(scm_times(steps)),
            lambda x, t: student.velocity(x, t, context, objective.middle),
            noise.to(objective.velocity.device),
        ).cpu()


def _solved(solver: Any, velocity: Callable[[Tensor, Any], Tensor], noise: Tensor) -> Tensor:
    import torch

    state = solver.start(noise, torch.Generator().manual_seed(len(noise)))
    while not state.done:
        state = solver.advance(state, velocity(state.sample, state.t))
    return state.sample


def _whole_run(source: str, data: Path, folder: Path, config: TrainConfig, aim: SprintAim) -> Run:
    """Return the run of the whole recipe: pocket's on its own data set, else on images with captions."""
    from sanakit.pocket.data.dataset import ROWS, SOURCES
    from sanakit.pocket.train.sprint import pocket_sprint_run
    from sanakit.train.runs.sprint import sprint_run

    if (data / ROWS).is_file() and (data / SOURCES).is_file():
        return pocket_sprint_run(data, folder, source, config, aim, scenes=SCENES, every=EVERY)
    return sprint_run(data, folder, source, config, aim)


def _opened(file: Path, made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is recorded of rows that are done; new where nothing is. Raises SettingsError."""
    from sanakit.errors import SettingsError

    if not file.exists():
        return {"made with": made_with, "rows": {}}
    record = json.loads(file.read_text(encoding="utf-8"))
    if other := [name for name, value in made_with.items() if record["made with"][name] != value]:
        raise SettingsError(
            f"{file.parent} holds rows with another {' and '.join(other)}: choose another --output, or "
            "delete it."
        )
    return record


def _middle(scales: Sequence[float]) -> float:
    return sorted(scales)[len(scales) // 2]


def torch_seed(seed: int) -> None:
    """Seed what draws initial weights of heads."""
    import torch

    torch.manual_seed(seed)


if __name__ == "__main__":
    main()

"""The published measures as one call: images with their prompts in, figures out.

Each measure has its own file; here they are loaded, run and summed up. A measure's results for single
images are kept in `MEASURE.jsonl`, line by line, so that an interrupted run resumes. A result is known by
all that it depends on: the image's bytes, what is asked of it (prompt, task or questions) and the judge's
weights. Where one of these has changed, the image is measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sanakit.errors import DataError, ModelNotFoundError, OutputError, SettingsError, WeightsError
from sanakit.eval.benchmarks import dpg, geneval
from sanakit.eval.cases import Case
from sanakit.eval.folder import ImageCase, list_images, read_image
from sanakit.eval.metrics import clip_score, fid
from sanakit.eval.networks import detector, image_reward
from sanakit.pipelines.memory import choose_device
from sanakit.weights.clip import POCKET_CLIP, clip_folder, load_clip
from sanakit.weights.find.hub import found_here
from sanakit.weights.fingerprint import fingerprint_weights
from sanakit.wording import counted

BY_IMAGE = ("clip-score", "image-reward", "geneval", "dpg")  # each image by itself, with its prompt
BY_SET = ("fid", "fid-lite0")  # all images at once, against a reference
MEASURES = (*BY_SET, *BY_IMAGE)
# Networks that measures need -> where they come from unless said otherwise; "": that has to be said.
WEIGHTS = {
    "inception": "",
    "clip": clip_score.REPO,
    "image-reward": image_reward.REPO,
    "bert": image_reward.TOKENIZER,
    "mask2former": detector.REPO,
    "vqa": "",
}
NETWORKS = {  # by whose weights a measure judges
    "clip-score": ("clip",),
    "image-reward": ("image-reward", "bert"),
    "geneval": ("mask2former", "clip"),
    "dpg": ("vqa",),
}
# The one file of a network's folder that is used.
FILES = {"image-reward": image_reward.FILE, "bert": "tokenizer.json"}
BATCH = 8  # images looked at together

OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""
Look = Callable[[list[Image.Image], list[Case]], list[Any]]
"""A measure's result for each image, as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """Inputs of measures besides the images.

    weights: name of WEIGHTS -> file, folder or Hub repository.   reference: folder of real images, or
    their statistics (.npz), for FID; what clips are compared with.   questions: dpg_bench.csv.   endpoint:
    server that answers DPG's questions with the model named by weights["vqa"].   device: "auto", "cpu", ...
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    reference: Path | None = None
    questions: Path | None = None
    endpoint: str | None = None
    device: str = "auto"

    def place(self, name: str) -> str:
        """Return the source of a network. Raises SettingsError if it must be named but was not."""
        place = self.weights.get(name) or WEIGHTS[name]
        if not place:
            what = {
                "inception": f"the file {fid_file()} of pytorch-fid",
                "vqa": "a vision-language model (a folder or Hub repository; with --endpoint its name there)",
            }[name]
            raise SettingsError(f"This measure needs {what}: name it with --weights {name}=PLACE.")
        return place


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The result of one measure. value: the quoted figure. details: its parts. by: the judging network."""

    value: float
    pictures: int
    by: str
    details: dict[str, float] = field(default_factory=dict)


def measure(
    name: str,
    shown: Sequence[ImageCase],
    tools: Tools,
    *,
    folder: Path | None = None,
    progress: OnProgress = lambda what, done, total: None,
) -> Figures:
    """Compute one measure of images.

    name: of MEASURES. shown: images, with their prompts for all but FID. folder: keeps the results for later
    runs; None: keeps nothing.
    Raises SettingsError, DataError, and what loading the measure's networks raises.
    """
    check_measures([name])
    if name in BY_SET:
        return _distance(name, shown, tools, folder, progress)
    if without := [one.path.name for one in shown if one.case is None]:
        raise DataError(
            f"{len(without)} of {len(shown)} images have no prompt, such as {without[0]}: "
            "give the prompts with --prompts FILE, or write them into NAME.txt beside NAME.png."
        )
    cases = [one.case for one in shown if one.case is not None]
    by = _judge_name(name, tools)
    questions = _questions(tools, cases) if name == "dpg" else {}
    ledger = Ledger(folder / f"{name}.jsonl" if folder else None, by)
    asked = [_asked(name, one, case, questions) for one, case in zip(shown, cases, strict=True)]
    keys = _keys(asked, _judge_weights(name, tools))
    if any(key not in ledger for key in keys):
        look = _load(name, tools, questions)
        keys = _keys(asked, _judge_weights(name, tools))  # of what has been downloaded now
        waiting = [index for index, key in enumerate(keys) if key not in ledger]
        done = len(shown) - len(waiting)
        for start in range(0, len(waiting), BATCH):
            progress(name, done + start, len(shown))
            part = waiting[start : start + BATCH]
            images = [read_image(shown[index].path) for index in part]
            results = look(images, [cases[index] for index in part])
            for index, result in zip(part, results, strict=True):
                ledger.add(keys[index], shown[index].path, result)
    progress(name, len(shown), len(shown))
    return _add_up(name, cases, [ledger[key] for key in keys], questions, by)


def check_measures(names: Sequence[str]) -> None:
    """Raise SettingsError for a measure that is not known here."""
    for name in names:
        if name not in MEASURES:
            raise SettingsError(f"There is no measure {name!r}: use {', '.join(MEASURES)}.")


def check_weights(names: Sequence[str]) -> None:
    """Raise SettingsError for the name of a network that no measure has."""
    for name in names:
        if name not in WEIGHTS:
            raise SettingsError(f"No measure has weights named {name!r}: use {', '.join(WEIGHTS)}.")


def fid_file() -> str:
    """Name of the Inception weights, as published."""
    from sanakit.eval.networks.inception import FILE

    return FILE


class Ledger:
    """A judge's results, in a file with one line per image, by keys of `_keys`.

    path: None keeps nothing. by: the judge's name, for readers of the file.
    """

    def __init__(self, path: Path | None, by: str) -> None:
        self.path, self.by = path, by
        self._results: dict[str, Any] = {}
        self._begin = ""  # of the first line that is added
        if path is not None and path.is_file():
            text = path.read_text(encoding="utf-8")
            self._begin = "" if text.endswith("\n") or not text else "\n"
            for line in text.splitlines():
                try:
                    row = json.loads(line)
                    self._results[row["key"]] = row["result"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue  # the line that was being written when the run was stopped

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> Any:
        return self._results[key]

    def add(self, key: str, image: Path, result: Any) -> None:
        """Keep what was said of an image. Raises OutputError."""
        self._results[key] = result
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                row = {"picture": image.name, "by": self.by, "key": key, "result": result}
                file.write(f"{self._begin}{json.dumps(row)}\n")
                self._begin = ""
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror}): choose another folder."
            ) from None


def _asked(name: str, shown: ImageCase, case: Case, questions: Mapping[str, list[dpg.DPGQuestion]]) -> str:
    """Return what a result depends on besides the judge: the image's bytes, and what is asked of it."""
    what: Any = case.prompt
    if name == "geneval":
        what = case.task
    elif name == "dpg":
        what = [(question.number, question.text) for question in questions[case.name]]
    try:
        image = hashlib.sha256(shown.path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"{shown.path} cannot be read ({error.strerror}): draw it again, or remove it."
        ) from None
    return f"{image} {json.dumps(what, sort_keys=True)}"


def _keys(asked: Sequence[str], judge: str) -> list[str]:
    """Return the names under which a judge's results are kept."""
    return [hashlib.sha256(f"{judge} {one}".encode()).hexdigest() for one in asked]


def _judge_weights(name: str, tools: Tools) -> str:
    """Return what tells a judge from others: its networks' fingerprints, or names while they are not here."""
    told = [_network(network, tools.place(network)) for network in NETWORKS[name]]
    return " ".join([*told, tools.endpoint or ""])


def _network(network: str, place: str) -> str:
    here = clip_folder(place) if place == POCKET_CLIP else found_here(place)
    if here is not None and here.is_dir() and network in FILES:
        here = here / FILES[network]
    try:
        return place if here is None else str(fingerprint_weights(here))
    except (ModelNotFoundError, WeightsError):
        return place  # whatever is wrong with it is told when it is loaded


def _judge_name(name: str, tools: Tools) -> str:
    """Return the name of the judging network, for the report and the ledger."""
    if name == "clip-score":
        return tools.place("clip")
    if name == "image-reward":
        return tools.place("image-reward")
    if name == "geneval":
        return f"{tools.place('mask2former')} + {tools.place('clip')}"
    return tools.place("vqa") + (f" at {tools.endpoint}" if tools.endpoint else "")


def _load(name: str, tools: Tools, questions: Mapping[str, list[dpg.DPGQuestion]]) -> Look:
    """Load what a measure looks with."""
    device = choose_device(tools.device)
    if name == "clip-score":
        clip = load_clip(tools.place("clip"), device=device)
        return lambda images, cases: clip_score.clip_scores(clip, images, [case.prompt for case in cases])
    if name == "image-reward":
        reward = image_reward.load_image_reward(tools.place("image-reward"), tools.place("bert"), device)
        return lambda images, cases: reward(images, [case.prompt for case in cases])
    if name == "geneval":
        detect = detector.load_detector(tools.place("mask2former"), device)
        colours = geneval.clip_colours(load_clip(tools.place("clip"), device=device))

        def judge(image: Image.Image, case: Case) -> dict[str, Any]:
            verdict = geneval.judge(image, case.task, detect(image), colours)
            return {"correct": verdict.correct, "faults": verdict.faults}

        return lambda images, cases: list(map(judge, images, cases))
    from sanakit.eval.benchmarks.vqa import endpoint_judge, transformers_judge

    place = tools.place("vqa")
    ask = endpoint_judge(tools.endpoint, place) if tools.endpoint else transformers_judge(place, str(device))

    def answers(image: Image.Image, case: Case) -> list[list[Any]]:
        return [list(pair) for pair in dpg.question_image(image, questions[case.name], ask).said.items()]

    return lambda images, cases: list(map(answers, images, cases))


def _add_up(
    name: str, cases: Sequence[Case], results: Sequence[Any], questions: Mapping[str, Any], by: str
) -> Figures:
    """Make the figures of a measure out of what it said of each image."""
    if name in ("clip-score", "image-reward"):
        mean = sum(results) / len(results)
        details = {"hessel": sum(map(clip_score.hessel_score, results)) / len(results)}
        return Figures(
            value=mean, pictures=len(results), by=by, details=details if name == "clip-score" else {}
        )
    if name == "geneval":
        found = geneval.summarise(
            [(case.task, one["correct"]) for case, one in zip(cases, results, strict=True)]
        )
    else:
        rows = []
        for case, said in zip(cases, results, strict=True):
            asked = questions[case.name]
            rows.append((case.name, asked, dpg.answered(asked, {number: yes for number, yes in said})))
        found = dpg.summarise(rows)
    return Figures(value=found.pop("overall"), pictures=len(results), by=by, details=found)


def _questions(tools: Tools, cases: Sequence[Case]) -> dict[str, list[dpg.DPGQuestion]]:
    """Return the questions of all cases, complete before the first is asked."""
    if tools.questions is None:
        raise SettingsError("DPG-Bench needs its questions: pass them with --questions dpg_bench.csv.")
    questions = dpg.read_questions(tools.questions)
    if missing := [case.name for case in cases if case.name not in questions]:
        raise DataError(
            f"{tools.questions} has no question for {counted(len(missing), 'prompt')}, such as {missing[0]}: "
            "name prompts as in its column item_id."
        )
    return questions


def _distance(
    name: str, shown: Sequence[ImageCase], tools: Tools, folder: Path | None, progress: OnProgress
) -> Figures:
    """Return the Frechet distance of the images to the reference."""
    if tools.reference is None:
        raise SettingsError(
            f"{name} compares with real images: pass their folder or statistics with --reference."
        )
    place = tools.place("inception") if name == "fid" else ""
    device = choose_device(tools.device)
    if name == "fid":
        from sanakit.eval.networks.inception import inception_features, load_inception

        inception = load_inception(place).to(device)

        def extract(images: Any) -> Any:
            return inception_features(inception, images.to(device))

    else:
        from sanakit.eval.networks.efficientnet import image_features, load_efficientnet

        lite = load_efficientnet().to(device)

        def extract(images: Any) -> Any:
            return image_features(lite, images.to(device))

    def moments(paths: Sequence[Path], what: str) -> fid.Moments:
        return fid.moments_of(paths, extract, report=lambda done: progress(what, done, len(paths)))

    if tools.reference.is_file():
        real = fid.load_moments(tools.reference)
    else:
        real = moments(list_images(tools.reference), f"{name}: reference")
        if folder is not None:
            fid.save_moments(folder / f"{name}-reference.npz", real)
    drawn = moments([one.path for one in shown], f"{name}: images")
    return Figures(
        value=fid.frechet_distance(drawn, real),
        pictures=drawn.count,
        by=place or "EfficientNet-Lite0",
        details={"reference_pictures": real.count},
    )

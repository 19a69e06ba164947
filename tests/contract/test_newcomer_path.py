"""The way from prompt to image stays short enough to be read in an afternoon.

What is counted: the files of the path, from the command (`cli/drawing/generate.py`) and the task
(`pipelines/text_to_image.py`) to the model's parts, which the task knows by their contracts alone; and all
that these files import, lazy imports included. Left out, each for a reason that is not "it would be too
long":

* `weights/`: how bytes become modules. The path begins where the modules exist.
* `errors.py`, `arguments.py`: lists of exception classes and of other libraries' names; nothing happens in
  them.
* `cli/drawing/options.py`: a list of options, which other commands take, too; nothing happens in it.
* `whole.py`: how any file gets to the disk whole; it knows no images.
* `__init__.py` of the package and its folders: docstrings and names. A name that one of
  them passes on counts as the file that defines it.
* `flow/euler.py`, `flow/scm.py`: other solvers. They have the interface of `flow/dpm.py`, the default, and no
  run uses two of them.
* `flow/guidance_kinds.py`, `models/perturbed.py`: other kinds of guidance, as other solvers. The plain one's
  formula stands in `flow/guidance.py`, which they call.
* `models/weighted.py`, `text/prompt_weights.py`: weights of parts of a prompt, and how they are written. They
  are to plain prompts what another kind of guidance is; where a prompt has none, no image changes.
* `text/native.py`, `dialect.py`: the other dialect, and the list of what it does otherwise. It is to the
  default what another solver is; without being asked for, it changes no image.
* `flow/solver.py`, `models/contracts.py`, `pipelines/result.py`: types. What a solver, a model, a codec and a
  task promise stands in the
  files of the path that keep it; these two only name it. (The solvers' state stood in `flow/euler.py`.)
* `images/settings.py`, `images/parameters.py`: how settings stand in an image's file. They change no image.
* `cli/drawing/outputs.py`: the names of the files that images go to; it knows no images.
* `cli/drawing/again.py`: settings of an image's file in place of typed ones; the drawing is the same.
* `cli/drawing/upscaling.py`: enlarging a drawn image is another task, which begins at the same command.
* `cli/drawing/batch.py`: a file of prompts is another task, which begins at the same command.
* `pipelines/control.py`, `models/controlnet.py`: images that a drawing starts from or is
  steered by are another task, too. Without one, nothing of them runs; they join the path by their types.
* `cli/drawing/display.py`: what a terminal shows meanwhile. It changes no image.
* `ops/gpu/`: kernels, like the C++ ones in `ops/native/`, which are not Python and not counted either.
* `adapters/`: what changes a model's weights by a file of its own. Without such a file nothing in it runs.
* `ops/torch_private.py`: one call of torch a function, kept apart because torch may change it.
* CHEAPER: what changes how much an image costs, not which image it is. An operation of `ops/` is the one
  torch expression that its docstring states; bands, plans, stored prefixes and checks leave every result as
  it is. Who wants to know how it is done cheaply reads them next; they have limits of their own.

Lines are lines of the file: docstrings and comments count, since they are read too.
The limits only go down, with two exceptions so far. When servers came to draw many requests at once, the step
that all tasks share got a file of its own (`pipelines/denoise.py`, the fifteenth), and the checks of a call,
Sprint's among them, moved to where they need no weights (`pipelines/request.py`, 150 lines more there). The
path as a whole became shorter by it. When quantised layers came, the products they stand in for got a common
form (`TokenProduct` in `models/layers.py`, 40 lines), and loading got two options, `--plan` and `--compile`
(15 lines). When images got a room of their own, each solver got its time grid into its own file, so that the
path lost one file. When ControlNets came, the transformer got a hook behind its blocks and a class for what
lies before them, and loading and the command their options (75 lines); the display, which the path does not
need, became a file of its own.
"""

from __future__ import annotations

from source_tree import PACKAGE, file_of, imports

PATH = (
    "cli/drawing/generate.py",
    "pipelines/text_to_image.py",
    "text/encoder.py",
    "models/gemma2.py",
    "pipelines/denoise.py",
    "flow/guidance.py",
    "flow/dpm.py",
    "models/sana.py",
    "models/layers.py",
    "models/dc_ae/model.py",
    "images/image.py",
)
ENTRIES = PATH[:2]
NOT_ON_THE_PATH = {
    "weights",
    "arguments.py",
    "errors.py",
    "whole.py",
    "flow/euler.py",
    "flow/scm.py",
    "flow/guidance_kinds.py",
    "flow/solver.py",
    "dialect.py",
    "text/native.py",
    "text/prompt_weights.py",
    "images/parameters.py",
    "images/settings.py",
    "models/contracts.py",
    "models/controlnet.py",
    "models/perturbed.py",
    "models/weighted.py",
    "pipelines/control.py",
    "pipelines/result.py",
    "cli/drawing/again.py",
    "cli/drawing/batch.py",
    "cli/drawing/outputs.py",
    "cli/drawing/upscaling.py",
    "cli/drawing/display.py",
    "cli/drawing/options.py",
    "adapters",
    "ops/gpu",
    "ops/torch_private.py",
}
CHEAPER = {
    "models/dc_ae/rows.py",
    "models/dc_ae/stream.py",
    "models/compiled.py",
    "pipelines/memory.py",
    "pipelines/request.py",
    "text/prefix_cache.py",
}
CHEAPER_FOLDER = "ops"
MAX_CHEAPER_FILES, MAX_CHEAPER_LINES = 14, 2100
MAX_FILES = 14
MAX_LINES = 3300


def closure(entries: tuple[str, ...] = PATH) -> set[str]:
    """Files reached from the entries by imports, relative to the package."""
    reached: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for found in imports(PACKAGE / name):
            target = file_of(found.module)
            if target is None or target.name == "__init__.py":
                continue
            inner = target.relative_to(PACKAGE)
            if NOT_ON_THE_PATH.isdisjoint({inner.parts[0], inner.parent.as_posix(), inner.as_posix()}):
                waiting.append(inner.as_posix())
    return reached


def test_the_files_of_the_path_exist() -> None:
    assert [name for name in PATH if not (PACKAGE / name).is_file()] == []


def test_the_files_are_reached_from_the_command_and_the_task() -> None:
    """Files that nobody imports would make a path on paper only.

    The parts come from `weights/`, which is left out, so models and text encoder count as reached.
    """
    parts = {name for name in PATH if name.startswith(("models/", "text/"))}
    assert set(PATH) - parts - closure(ENTRIES) == set()


def cheaper(name: str) -> bool:
    return name in CHEAPER or name.split("/")[0] == CHEAPER_FOLDER


def lines(names: set[str]) -> dict[str, int]:
    return {name: len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) for name in names}


def test_the_path_is_at_most_14_files_and_3300_lines() -> None:
    on_path = lines({name for name in closure() if not cheaper(name)})
    assert len(on_path) <= MAX_FILES, sorted(on_path)
    assert sum(on_path.values()) <= MAX_LINES, sorted(on_path.items(), key=lambda item: -item[1])


def test_what_makes_it_cheap_is_at_most_14_files_and_2100_lines() -> None:
    beside = lines({name for name in closure() if cheaper(name)})
    assert set(beside) >= CHEAPER, "a file that is no longer there, or no longer used"
    assert len(beside) <= MAX_CHEAPER_FILES, sorted(beside)
    assert sum(beside.values()) <= MAX_CHEAPER_LINES, sorted(beside.items(), key=lambda item: -item[1])

"""The tests of a source file are found by its name: sanakit/a/b/c.py has tests/a/b/test_c.py.

What is tested under another name is listed with the place and the reason. The list only gets shorter.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from source_tree import ROOT, files

# Reason -> source files, without "sanakit/" -> their tests, without "tests/".
ELSEWHERE = {
    "a command is tested with what it calls, or with all commands": {
        "cli/weights/convert.py": "graphs/test_folder.py",
        "cli/data/group.py": "cli/test_commands.py",
        "cli/weights/models.py": "cli/test_commands.py",
        "cli/weights/quantize.py": "cli/test_commands.py",
        "cli/serving/keys.py": "serve/jobs/test_keys.py",
        "cli/serving/serve.py": "serve/test_server.py",
        "cli/serving/ui.py": "serve/web/test_mount.py",
        "cli/terminal.py": "cli/test_commands.py",
        "cli/train.py": "recipes/test_finetune.py",
    },
    "every node of ComfyUI keeps the same promises, in one loop": {
        f"comfy/{name}.py": "comfy/test_nodes.py"
        for name in ("images", "loader", "stages", "tensors", "widgets")
    },
    "every kernel keeps the same promises, on every instruction set": {
        f"ops/{name}.py": "ops/test_kernels.py"
        for name in ("attention", "conv3x3", "gated_depthwise", "linear", "native", "rms_norm")
    },
    "kernels for GPUs run in an interpreter, in a process of its own": {
        f"ops/gpu/{name}.py": "ops/test_gpu_kernels.py"
        for name in ("add_gated", "gated_depthwise", "linear_attention", "modulated_norm")
    },
    "a part of one thing, tested whole": {
        "bench/speed.py": "cli/test_bench.py",
        "data/batches/prepare.py": "data/batches/test_loader.py",
        "eval/cases.py": "eval/test_measures.py",
        "eval/draw.py": "eval/test_measures.py",
        "eval/metrics/clip_score.py": "eval/test_measures.py",
        "eval/networks/chat.py": "eval/benchmarks/test_vqa.py",
        "flow/solver.py": "flow/test_dpm.py",
        "graphs/networks.py": "graphs/test_parts.py",
        "graphs/onnx.py": "graphs/test_parts.py",
        "graphs/openvino.py": "graphs/test_parts.py",
        "images/masks.py": "pipelines/test_source_masks.py",
        "models/dc_ae/blocks.py": "models/dc_ae/test_model.py",
        "models/dc_ae/rows.py": "models/dc_ae/test_stream.py",
        "ops/modulation.py": "models/test_layers.py",
        "pipelines/batch_ray.py": "cli/drawing/test_batch.py",
        "quant/layer.py": "quant/test_weight_only.py",
        "quant/quantize.py": "quant/test_plans.py",
        "seeds.py": "train/test_parts.py",
        "serve/engine/ticket.py": "serve/engine/test_engine.py",
        "serve/http/access.py": "serve/http/test_door.py",
        "serve/http/app.py": "serve/http/test_door.py",
        "serve/http/failures.py": "serve/http/test_answers.py",
        "serve/http/metrics.py": "serve/http/test_images_api.py",
        "serve/http/stored_images_api.py": "serve/http/test_jobs_api.py",
        "serve/http/service.py": "serve/http/test_door.py",
        "serve/jobs/instance.py": "serve/jobs/test_runner_kill.py",
        "serve/web/parts.py": "serve/web/test_page.py",
        "serve/web/settings.py": "serve/web/test_page.py",
        "serve/web/style.py": "serve/web/test_in_browser.py",
        "serve/web/view.py": "serve/web/test_page.py",
        "text/clip.py": "weights/test_clip.py",
        "train/feeds/cached_data.py": "recipes/test_finetune_cache.py",
        "train/feeds/latents.py": "train/objectives/test_flow_matching.py",
        "train/objective.py": "train/test_loop.py",
        "train/runs/image_report.py": "train/runs/test_finetune.py",
        "train/runs/causal/stages.py": "recipes/test_causal.py",
        "train/runs/images.py": "recipes/test_finetune.py",
        "train/state/train_state.py": "train/test_loop.py",
        "weights/graphs.py": "graphs/test_folder.py",
        "weights/layouts/parts.py": "weights/layouts/test_official.py",
        "weights/safety.py": "text/test_safety.py",
    },
    "a stage of the embedded model's making, tested where the stages run": {
        "pocket/data/clips/toy.py": "pocket/data/clips/test_dataset.py",
        "pocket/data/more_icons.py": "pocket/data/test_more_art.py",
        "pocket/data/samples.py": "pocket/data/test_pool.py",
        "pocket/data/toy.py": "pocket/recipes/test_pocket.py",
        "pocket/data/wording.py": "pocket/data/test_pool.py",
        "pocket/recipes/grow.py": "pocket/recipes/test_depth.py",
        "pocket/recipes/prune.py": "pocket/recipes/test_depth.py",
        "pocket/train/drawings.py": "pocket/recipes/test_pocket.py",
        "pocket/train/feed.py": "pocket/data/test_pool.py",
        "pocket/train/further.py": "pocket/recipes/test_depth.py",
        "pocket/train/latents.py": "pocket/recipes/test_depth.py",
        "pocket/train/video/autoencoder.py": "pocket/recipes/test_video.py",
        "pocket/train/words_run.py": "pocket/recipes/test_pocket.py",
        "pocket/words/concepts.py": "pocket/data/test_scenes.py",
        "pocket/words/names.py": "pocket/words/test_captions.py",
        "pocket/words/plurals.py": "pocket/words/test_asked_as.py",
        "pocket/words/probes.py": "pocket/evaluate/test_words.py",
        "pocket/words/scene_words.py": "pocket/data/test_scenes.py",
        "pocket/words/unlike.py": "pocket/words/test_known_things.py",
    },
}
# Not tested, each for a reason.
UNTESTED: dict[str, str] = {}
MOST_LINES = 400  # of a file
LIMIT = 84  # of both lists together: lower it when one goes


def listed() -> dict[str, str]:
    return {source: tests for named in ELSEWHERE.values() for source, tests in named.items()}


def own_tests(path: Path) -> Path:
    inner = path.relative_to(ROOT / "sanakit")
    return ROOT / "tests" / inner.parent / f"test_{inner.name}"


@pytest.mark.parametrize(
    "path", [path for path in files() if path.name != "__init__.py"], ids=lambda path: path.stem
)
def test_a_file_has_tests_of_its_name_or_is_listed_with_a_reason(path: Path) -> None:
    name = path.relative_to(ROOT / "sanakit").as_posix()
    if own_tests(path).is_file():
        assert name not in listed(), "it has tests of its own: take it off the list"
        assert name not in UNTESTED, "it has tests of its own: take it off the list"
    else:
        assert name in listed() or name in UNTESTED, f"write {own_tests(path).relative_to(ROOT)}"


def test_what_is_listed_exists() -> None:
    sources = [source for source in [*listed(), *UNTESTED] if not (ROOT / "sanakit" / source).is_file()]
    tests = [tests for tests in listed().values() if not (ROOT / "tests" / tests).is_file()]
    assert sources + tests == []


def test_the_lists_only_get_shorter() -> None:
    assert len(listed()) + len(UNTESTED) <= LIMIT
    assert sum(map(len, ELSEWHERE.values())) == len(listed()), "a file is listed twice"


def test_a_file_of_tests_is_read_at_once() -> None:
    """At most 400 lines, as every file of the package: a longer one has two ideas."""
    found = sorted((ROOT / "tests").rglob("*.py"))
    assert len(found) > 200
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in found}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}

"""Fifty faults, planted one by one: do the tests notice?

    python tests/sabotage.py                all of them, an hour on two cores
    python tests/sabotage.py --only 3 17    some, by number
    python tests/sabotage.py --list         what they are

Each is planted in a temporary copy of the tree, and the tests named with it run until the first fails, which
must pass again without the fault. A fault that no test notices survives: write the test. A fault whose text
is no longer in its file is stale: plant it where the code went. Exit code 1 unless all were caught. pytest
does not collect this file.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("sanakit", "tests", "docs", "examples", "deploy", "benchmarks", "pyproject.toml", "Makefile")
PATIENCE = 900  # seconds for the tests of one fault


@dataclass(frozen=True, slots=True)
class Fault:
    """One text of a file, which must stand there once, what it becomes, and the tests that should notice."""

    file: str  # below sanakit/
    text: str
    replacement: str
    tests: str  # below tests/, several with spaces between


FAULTS = [
    # Named by an earlier round, in which they survived.
    Fault(
        "train/objectives/velocity.py",
        "mask[:, 1:] &= ~batch.dropped[:, None]",
        "pass",
        "train/objectives/test_velocity.py train/objectives/test_flow_matching.py",
    ),
    Fault(
        "data/cache/build.py",
        "text_encoder=weights_sha256(encoder.model) if encoder else None",
        'text_encoder="the same" if encoder else None',
        "data/cache",
    ),
    Fault(
        "weights/load.py",
        'f"{files.digest()} {times} {plan}"',
        'f"{files.digest()} {times}"',
        "text/test_prefix_cache.py weights/test_load.py",
    ),
    Fault(
        "data/read/decode.py",
        "return (came_height - cut_height) // 2, (came_width",
        "return 0, (came_width",
        "data/read/test_decode.py",
    ),
    Fault(
        "serve/http/jobs_api.py",
        "{caller.key_id or 'local'} {idempotency_key}",
        "{idempotency_key}",
        "serve/http/test_jobs_api.py",
    ),
    Fault("serve/jobs/runner.py", "> self._lease / 3:", "> self._lease * 0.8:", "serve/jobs/test_runner.py"),
    Fault(
        "models/dc_ae/blocks.py",
        "linear = qkv.shape[1] * qkv.shape[2] > self.head_dim",
        "linear = qkv.shape[1] * qkv.shape[2] >= 0",
        "models/dc_ae",
    ),
    Fault(
        "models/dc_ae/blocks.py",
        "scores.sum(-1, keepdim=True) + EPSILON",
        "scores.sum(-1, keepdim=True)",
        "models/dc_ae",
    ),
    Fault(
        "models/dc_ae/blocks.py",
        "/ (total + EPSILON)",
        "/ total",
        "models/dc_ae",
    ),
    Fault("ops/linear_attention.py", "EPSILON = 1e-15", "EPSILON = 1e-3", "ops/test_linear_attention.py"),
    # Mathematics: signs, times, orders.
    Fault("flow/path.py", "return noise - clean\n", "return clean - noise\n", "flow/test_path.py"),
    Fault("flow/path.py", "(shift - 1) * times", "shift * times", "flow/test_path.py"),
    Fault(
        "flow/dpm.py",
        "(0.5 * alpha * decay) * slope0",
        "(alpha * decay) * slope0",
        "flow/test_dpm.py",
    ),
    Fault(
        "flow/dpm.py",
        "last_but_one and state.total < FEW_STEPS",
        "last_but_one and state.total <= FEW_STEPS",
        "flow/test_dpm.py",
    ),
    Fault("flow/solver.py", "math.floor(MODEL_TIME_SCALE", "round(MODEL_TIME_SCALE", "flow/test_dpm.py"),
    Fault("flow/euler.py", "(sigma - state.sigma)", "(state.sigma - sigma)", "flow/test_euler.py"),
    Fault("flow/scm.py", "if steps == 2:", "if steps == 3:", "flow/test_scm.py"),
    Fault(
        "flow/scm.py",
        "index, generator.get_state())",
        "index, random)",
        "flow/test_scm.py",
    ),
    Fault(
        "flow/guidance.py",
        "extrapolated(unconditional, conditional, scale)",
        "extrapolated(conditional, unconditional, scale)",
        "flow/test_guidance.py",
    ),
    Fault("flow/schedule.py", "mean + std * torch.randn", "mean + torch.randn", "flow/test_schedule.py"),
    Fault(
        "flow/trigflow.py",
        "- sin * clean_from_velocity",
        "+ sin * clean_from_velocity",
        "flow/test_trigflow.py",
    ),
    # Models.
    Fault(
        "models/layers.py",
        "return torch.cat([x, y], dim=-1).flatten(0, 1)",
        "return torch.cat([y, x], dim=-1).flatten(0, 1)",
        "models/test_layers.py models/test_sana.py",
    ),
    Fault(
        "models/layers.py",
        "if text.shape[1] == 1:",
        "if text.shape[1] <= 2:",
        "models/test_layers.py models/test_sana.py",
    ),
    Fault(
        "models/layers.py",
        "kept = wide[:, -2:].clone() if more else None",
        "kept = wide[:, -1:].clone() if more else None",
        "models/test_layers.py models/test_sana.py",
    ),
    Fault(
        "models/layers.py",
        "start += prompt.count",
        "start += 1",
        "models/test_layers.py models/test_sana.py pipelines/test_denoise.py",
    ),
    Fault("models/gemma2.py", "i % 2 == 0 for i", "i % 2 == 1 for i", "models/test_gemma2.py"),
    Fault("models/layers.py", "eps: float = 1e-5", "eps: float = 1e-6", "models"),
    # Training.
    Fault(
        "train/config.py", "warm * max(self.final_fraction, shape)", "warm * shape", "train/test_config.py"
    ),
    Fault(
        "train/config.py",
        "(step + 1) / max(1, self.warmup_steps)",
        "step / max(1, self.warmup_steps)",
        "train/test_config.py",
    ),
    Fault("train/state/average.py", "trained, 1 - decay)", "trained, decay)", "train/state/test_average.py"),
    Fault(
        "train/parts.py",
        "return len(self) / self.total",
        "return 1 / self.total",
        "train/test_parts.py train/test_loop.py",
    ),
    Fault(
        "train/optim/muon.py",
        'gradient, 1 - group["momentum"]',
        'gradient, group["momentum"]',
        "train/optim/test_muon.py",
    ),
    Fault(
        "train/optim/muon.py",
        "0.2 * max(rows, columns)",
        "0.2 * min(rows, columns)",
        "train/optim/test_muon.py",
    ),
    Fault(
        "train/guard.py",
        "elif self._high + 1 < PATIENCE:",
        "elif self._high < PATIENCE:",
        "train/test_guard.py",
    ),
    Fault(
        "train/surgery/growth.py",
        "kept = old - drop_last\n",
        "kept = old - drop_last + 1\n",
        "train/surgery/test_growth.py",
    ),
    Fault(
        "train/run.py",
        "compile_at_least(SHAPES_COMPILED, len(transformer.blocks))",
        "pass",
        "train/test_run.py",
    ),
    Fault(
        "seeds.py",
        "SeedSequence((seed, step, index))",
        "SeedSequence((0, step, index))",
        "train/test_parts.py data/batches",
    ),
    Fault(
        "seeds.py",
        "RandomState([seed, epoch, which])",
        "RandomState([seed, 0, which])",
        "data/batches/test_order.py",
    ),
    # Serving.
    Fault(
        "serve/jobs/jobs.py",
        "_owned(key_id, video), Job.id == job_id",
        "Job.id == job_id",
        "serve/jobs/test_jobs.py",
    ),
    Fault(
        "serve/jobs/jobs.py",
        "Job.owner.is_distinct_from(owner) & _let_pass()",
        "Job.owner.is_distinct_from(owner)",
        "serve/jobs/test_jobs.py",
    ),
    Fault("serve/jobs/jobs.py", '"attempts": Job.attempts - 1}', '"attempts": Job.attempts}', "serve/jobs"),
    Fault(
        "serve/jobs/runner.py",
        "held.job.attempts > 1 for held",
        "held.job.attempts > 2 for held",
        "serve/jobs/test_runner.py serve/jobs/test_runner_kill.py",
    ),
    Fault(
        "serve/web/gradio_seams.py",
        '"/proxy=" in path or ',
        "",
        "serve/web/test_gradio_seams.py serve/web/test_page.py",
    ),
    Fault(
        "serve/uvicorn_seams.py",
        "        self.draining.set()\n",
        "",
        "serve/test_uvicorn_seams.py serve/test_server.py",
    ),
    # Data, evaluation, files.
    Fault("whole.py", "        _sync(partial)\n", "", "test_whole.py"),
    Fault(
        "weights/precision.py",
        'if dtype == torch.float32 or rule in ("any", dtype_name(dtype)):',
        "if True:",
        "weights/test_precision.py",
    ),
    Fault("quant/fp8.py", "/ LARGEST\n", "/ (LARGEST / 2)\n", "quant/test_fp8.py"),
    Fault(
        "pipelines/inpaint.py",
        "mask.paste(0, (left, top,",
        "mask.paste(0, (top, left,",
        "pipelines/test_inpaint.py",
    ),
    Fault("text/encoder.py", "writes_to(weight)) for weight", "0) for weight", "text/test_encoder.py"),
    Fault(
        "ops/torch_private.py",
        "scale_b=weight_scale[None]",
        "scale_b=weight_scale[None] * 2",
        "ops/test_torch_private.py",
    ),
]


def copy_tree(target: Path) -> None:
    """Copy what tests read, compiled kernels included."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    for page in ROOT.glob("*.md"):
        shutil.copy(page, target)


def run(tree: Path, names: list[str]) -> tuple[int, str]:
    """Run tests until the first fails. Returns pytest's exit code and the test that failed, or ""."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
    variables = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *names],
            cwd=tree,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return 1, ""
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", ended.stdout, flags=re.M)
    return ended.returncode, failed[1] if failed else ""


def notice(tree: Path, fault: Fault) -> tuple[str, str]:
    """Plant a fault, run its tests, take it out. Returns what became of it, and the test that failed.

    caught; SURVIVED; STALE: the text is not there; BROKEN: nothing ran, or the test fails without the fault.
    """
    path = tree / "sanakit" / fault.file
    whole = path.read_text(encoding="utf-8") if path.is_file() else ""
    if whole.count(fault.text) != 1:
        return "STALE", ""
    path.write_text(whole.replace(fault.text, fault.replacement), encoding="utf-8")
    try:
        code, failed = run(tree, [f"tests/{name}" for name in fault.tests.split()])
    finally:
        path.write_text(whole, encoding="utf-8")
    if code == 0:
        return "SURVIVED", ""
    if code not in (1, 2) or (failed and run(tree, [failed])[0] != 0):
        return "BROKEN", failed
    return "caught", failed or "by the time it took"


def main() -> int:
    """Run the faults that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", type=int, metavar="N", help="numbers of faults")
    parser.add_argument("--list", action="store_true", help="print the faults and run nothing")
    asked = parser.parse_args()
    chosen = asked.only or range(1, len(FAULTS) + 1)
    found: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        if not asked.list:
            copy_tree(Path(folder))
        for number in chosen:
            fault = FAULTS[number - 1]
            becomes = fault.replacement.strip() or "(nothing)"
            line = f"{number:3} {fault.file}: {fault.text.strip()}  ->  {becomes}"
            if asked.list:
                print(line)
                continue
            began = time.monotonic()
            how, test = notice(Path(folder), fault)
            found.setdefault(how, []).append(number)
            print(f"{how:8} {time.monotonic() - began:4.0f} s {line}\n         {test}", flush=True)
    print(*(f"{how}: {len(numbers)} {numbers if how != 'caught' else ''}" for how, numbers in found.items()))
    return int(bool(found.keys() - {"caught"}))


if __name__ == "__main__":
    sys.exit(main())

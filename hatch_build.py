"""Compile the CPU kernels when the package is built or installed: plain C++17, any GCC or Clang.

One library per instruction set goes beside the sources, `sanakit/ops/native/kernels-*.so`; the package picks
at run time. Where there is no compiler, or it fails, the package is built without them and runs on PyTorch
alone. By hand, after a change of the sources:  python hatch_build.py
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parent / "sanakit" / "ops" / "native"
FLAGS = ["-O3", "-std=c++17", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC"]
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]
AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl")] + ["-mprefer-vector-width=512"]
LEVELS: dict[str, list[str]] = {"generic": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    LEVELS |= {"avx2": AVX2, "avx512": AVX2 + AVX512, "vnni": AVX2 + AVX512 + ["-mavx512vnni"]}


def build() -> list[Path]:
    """Compile a library for each instruction set and give those that could be; says why one could not."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), "")
    if not compiler:
        print("No C++ compiler: sanakit is built without its CPU kernels.", file=sys.stderr)
        return []
    for openmp in (["-fopenmp"], []):  # without OpenMP, as with Apple's Clang: one thread
        built = _compile([compiler, *FLAGS, *openmp])
        if built:
            return built
    print(f"{compiler} failed: sanakit is built without its CPU kernels.", file=sys.stderr)
    return []


def _compile(command: list[str]) -> list[Path]:
    sources = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
    running = []
    for level, flags in LEVELS.items():
        part = SOURCES / f"kernels-{level}.so.part"
        process = subprocess.Popen(
            [*command, *flags, *sources, "-o", str(part)], stderr=subprocess.PIPE, text=True
        )
        running.append((SOURCES / f"kernels-{level}.so", part, process))
    built = []
    for library, part, process in running:
        _, errors = process.communicate()
        if process.returncode == 0:
            part.replace(library)  # never half a library, and a running process keeps the one it has mapped
            built.append(library)
        else:
            part.unlink(missing_ok=True)
            print(f"{library.name} was not built:\n{errors}", file=sys.stderr)
    return built


if __name__ == "__main__":
    print("\n".join(str(path) for path in build()))
else:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    class KernelHook(BuildHookInterface):
        """Puts the libraries into the wheel, which is then one of this platform."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Compile for a wheel; an editable install finds the libraries in the source tree."""
            built = build()
            if built and version == "standard":
                here = sysconfig.get_platform().replace("-", "_").replace(".", "_")
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{here}"
                build_data["artifacts"] += [str(path.relative_to(self.root)) for path in built]

"""What `clients.py` found: one line for each client, and every fault in words."""

from __future__ import annotations

import shutil
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

PATIENCE = 900  # seconds for one program


@dataclass
class Client:
    """A client or a validator, what was done with it, and what went wrong."""

    name: str
    version: str
    done: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @contextmanager
    def does(self, what: str) -> Iterator[None]:
        """Note something that was done, and the first thing that is wrong with it."""
        self.done.append(what)
        try:
            yield
        except Exception as error:
            [place, *_] = reversed(traceback.extract_tb(error.__traceback__))
            said = str(error) or place.line
            self.faults.append(f"{self.name}, {what}: {type(error).__name__}: {said[-8000:]}")


@dataclass
class Report:
    """All clients of a run."""

    clients: list[Client] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    def package(self, name: str) -> Client | None:
        """Begin the line of a Python package; None, and a word in the report, where it is absent."""
        try:
            return self._begin(name, version(name))
        except PackageNotFoundError:
            self.absent.append(name)
            return None

    def program(self, name: str, *asking: str) -> Client | None:
        """Begin the line of a program. asking: what has it print its version."""
        if shutil.which(name) is None:
            self.absent.append(name)
            return None
        said = run(name, *asking, check=False)
        words = (word.strip(",v") for word in f"{said.stdout} {said.stderr}".split())
        return self._begin(name, next((word for word in words if word[:1].isdigit()), "unknown"))

    def ours(self, name: str, what: str) -> Client:
        """Begin the line of something that comes with the tests."""
        return self._begin(name, what)

    def _begin(self, name: str, its_version: str) -> Client:
        self.clients.append(Client(name, its_version))
        return self.clients[-1]

    def print(self) -> int:
        """Print the table and the faults; return the exit code."""
        print("| client | version | what was done | result |\n|---|---|---|---|")
        for one in self.clients:
            good = len(one.done) - len(one.faults)
            print(f"| {one.name} | {one.version} | {', '.join(one.done)} | {good} of {len(one.done)} |")
        for name in self.absent:
            print(f"absent: {name}")
        faults = [fault for one in self.clients for fault in one.faults]
        print(*faults, sep="\n", end="\n" if faults else "")
        return int(bool(faults))


def run(*command: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it said; of one that fails, AssertionError with that."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)  # pyright: ignore
    assert ended.returncode == 0 or not check, (
        f"{command[0]} ended with {ended.returncode}: {ended.stdout}{ended.stderr}"
    )
    return ended

"""The generator of bad inputs does not rot: all families make inputs, and planted weak places are found."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bad_inputs import run, weight_files
from bad_inputs.run import FAMILIES, placed, run_family, try_one
from bad_inputs.tiny import make_model
from bad_inputs.trial import Attempt, Planted, Refused, judge
from sanakit.errors import WeightsError

EACH = 8


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bad") / "tiny")


@pytest.mark.thorough
def test_the_command_tries_all_families_and_prints_a_table(repository: Path) -> None:
    words = [sys.executable, repository / "tests" / "bad_inputs" / "run.py", "--count", str(EACH)]
    ended = subprocess.run(words, capture_output=True, text=True)
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", ended.stdout, flags=re.M)
    assert [row[0] for row in rows] == list(FAMILIES), ended.stdout + ended.stderr
    for name, *cells in rows:
        count, refused, told, accepted, faults = map(int, cells)
        assert count == refused + told + accepted + faults == EACH
        assert refused + told > 0, name
    assert ended.returncode == int(any(row[-1] != "0" for row in rows))
    assert "(preparing)" not in ended.stdout
    assert "died" not in ended.stdout


def tried(numbers: range, model: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Weights that were made, in words, and the faults that they showed."""
    (folder / "ready").mkdir(parents=True)
    ready, made = weight_files.prepare(folder / "ready", model), []
    verdicts = [try_one("weights", 0, number, ready, folder / "place", made.append) for number in numbers]
    return made, [verdict.text for verdict in verdicts if verdict.kind == "fault"]


def test_the_same_number_is_the_same_input(model: Path, tmp_path: Path) -> None:
    first, _ = tried(range(4), model, tmp_path / "first")
    again, _ = tried(range(2, 4), model, tmp_path / "again")
    assert again == first[2:]
    assert len(set(first)) > 1


@pytest.mark.thorough
def test_a_weak_place_of_the_program_is_found(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanakit.weights.layouts.fill.check_fit", lambda *arguments: None)
    _, faults = tried(range(40), model, tmp_path)
    assert any("Error at weights/" in fault for fault in faults), faults


def judged(tmp_path: Path, act: Callable[[Path], list[str]], *, invalid: bool = True) -> tuple[str, str]:
    with placed(tmp_path / "place") as place:
        verdict = judge(Attempt("an input", lambda: act(place), invalid), place)
    return verdict.kind, verdict.text


def test_what_is_refused_told_or_harmless_is_no_fault(tmp_path: Path) -> None:
    def refuse(place: Path) -> list[str]:
        raise WeightsError("x.pth is empty: copy it again.")

    def refuse_by_code(place: Path) -> list[str]:
        raise Refused("Error: x is missing.")

    def write(place: Path) -> list[str]:
        Path("out.png").write_bytes(b"")
        return []

    assert judged(tmp_path, refuse) == ("refused", "x.pth is empty: copy it again.")
    assert judged(tmp_path, refuse_by_code) == ("refused", "Error: x is missing.")
    assert judged(tmp_path, lambda place: ["a note"]) == ("told", "a note")
    assert judged(tmp_path, write, invalid=False) == ("accepted", "")


def test_every_kind_of_fault_is_found(tmp_path: Path) -> None:
    def unpickle(place: Path) -> list[str]:
        pickle.loads(pickle.dumps(Planted(place / "canary")))
        return []

    def write_elsewhere(place: Path) -> list[str]:
        (place / "given" / "x").write_text("")
        return []

    def leave(place: Path) -> list[str]:
        Path(".x.png.0123456789abcdef.partial").write_text("")
        raise WeightsError("it is damaged.")

    def quote_python(place: Path) -> list[str]:
        raise WeightsError("'NoneType' object is not subscriptable")

    def start(place: Path) -> list[str]:
        subprocess.run(["true"], check=True)
        return []

    assert judged(tmp_path, lambda place: []) == ("fault", "accepted in silence")
    assert judged(tmp_path, lambda place: {}["key"])[1].startswith("KeyError at")
    assert judged(tmp_path, unpickle)[1].startswith("a pickle was run")
    assert "outside the working folder" in judged(tmp_path, write_elsewhere)[1]
    assert "left behind" in judged(tmp_path, leave)[1]
    assert "helps nobody" in judged(tmp_path, quote_python)[1]
    assert "a program was run" in judged(tmp_path, start)[1]


class Weak:
    """A family whose inputs are refused, hang, kill the process or ask for too much memory."""

    def prepare(self, folder: Path, model: Path) -> None:
        """Make nothing."""

    def attempt(self, rng, ready, place: Path) -> Attempt:
        def refuse() -> list[str]:
            raise WeightsError("no.")

        def hang() -> list[str]:
            time.sleep(60)
            return []

        def die() -> list[str]:
            run.os._exit(7)

        def swell() -> list[str]:
            return [str(len(bytearray(8 << 30)))]

        return Attempt("an input", rng.choice((refuse, hang, die, swell)))


def test_after_a_hang_or_a_death_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.FAMILIES, "weak", Weak())
    tally = run_family("weak", 0, range(16), tmp_path, tmp_path / "weak", limit=0.5)
    found = {text.partition(" at ")[0] for _, _, text in tally.faults}
    assert found == {"no answer in 0.5 s", "the process died (7)", "MemoryError"}
    assert tally.kinds["refused"] > 0
    assert tally.kinds.total() == 16

"""Each fault of `tests/sabotage.py` can still be planted: its text stands once in its file."""

from __future__ import annotations

import pytest

from tests.sabotage import FAULTS, ROOT, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.text[:40]}")
def test_the_text_of_a_fault_stands_once_in_its_file(fault: Fault) -> None:
    assert (ROOT / "sanakit" / fault.file).read_text().count(fault.text) == 1
    assert all((ROOT / "tests" / file).exists() for file in fault.tests.split())

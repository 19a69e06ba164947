"""Samples lie where the length alone says, and never read past the end."""

from __future__ import annotations

import pytest

from sanakit.weights.read.digest import FILE_SAMPLES, SAMPLE, file_digest, spans


@pytest.mark.parametrize("length", [0, 1, SAMPLE, 3 * SAMPLE])
def test_a_short_length_is_read_whole(length):
    covered = [byte for start, end in spans(length, samples=3) for byte in range(start, end)]
    assert covered == list(range(length))


@pytest.mark.parametrize("length", [3 * SAMPLE + 1, 1_000_000])
def test_samples_are_even_and_reach_both_ends(length):
    found = list(spans(length, samples=3))
    assert [end - start for start, end in found] == [SAMPLE] * 3
    assert found[0][0] == 0
    assert found[-1][1] == length
    middle = sum(found[1]) / 2
    assert abs(middle - length / 2) <= 1


def test_without_samples_every_byte_is_read_once(monkeypatch):
    monkeypatch.setattr("sanakit.weights.read.digest.READ_BYTES", 1000)
    covered = [byte for start, end in spans(2500, samples=None) for byte in range(start, end)]
    assert covered == list(range(2500))


def test_the_hash_of_a_file_is_of_its_bytes_and_length(tmp_path):
    long = bytes(2 * FILE_SAMPLES * SAMPLE)
    kinds = {
        "same": long,
        "longer": long + bytes(1),
        "sampled": long[:-1] + b"x",
        "between": long[: SAMPLE + 10] + b"x" + long[SAMPLE + 11 :],
    }
    digests = {}
    for name, content in kinds.items():
        (tmp_path / name).write_bytes(content)
        digests[name] = [file_digest(tmp_path / name, exact=exact) for exact in (False, True)]
    assert len({digests[name][0] for name in ("same", "longer", "sampled")}) == 3
    assert digests["between"][0] == digests["same"][0]
    assert len({exact for _, exact in digests.values()}) == 4

"""A job's row: its files have the same names whenever it runs, and damage is told by its place."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sanakit.serve.jobs.job import ID, Job, new_job_id, sentence, wrong

VIDEO = {
    **{"model": "tiny-video", "prompt": "a cat", "rate": "24000/1001", "frames": 5, "width": 96},
    **{"height": 64, "format": "mp4", "warnings": ["a note"]},
}


def row(kind: str = "video", body: Any = None, **more: Any) -> Job:
    cells = {"number": 3, "id": f"job_{'0' * 32}", "kind": kind, "body": VIDEO if body is None else body}
    cells |= {"pictures": 1, "status": "queued", "attempts": 0, "progress": 0, "files": []}
    return Job(**cells | {"created": datetime(2026, 11, 30, tzinfo=UTC)} | more)


def test_ids_are_unguessable_and_never_twice_the_same() -> None:
    assert all(ID.fullmatch(new_job_id()) for _ in range(10))
    assert new_job_id() != new_job_id()


def test_a_clip_may_count_as_more_images_than_a_request_may_have() -> None:
    assert wrong(row(pictures=257)) == ""
    assert wrong(row("generation", {}, pictures=257)) == "pictures is above 256"


def test_files_have_the_same_names_whenever_a_job_runs() -> None:
    assert row("generation", {}, pictures=2).result_names() == [f"job_{'0' * 32}-{n}.png" for n in (0, 1)]
    assert row().result_names() == [f"job_{'0' * 32}-video.mp4"]
    given = row("edit", {"image": "a.png", "mask": None, "control": [{"image": "b.png"}]})
    assert given.input_names() == ["a.png", "b.png"]


def test_a_sound_row_has_nothing_wrong() -> None:
    assert wrong(row()) == ""
    assert wrong(row("generation", {"prompt": "x"})) == ""


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in VIDEO),
        {"format": "exe"},
        {"format": ["mp4"]},
        {"rate": "fast"},
        {"frames": "5"},
        {"warnings": [1]},
    ],
    ids=str,
)
def test_a_body_that_is_not_that_of_a_video_is_told(change: dict[str, Any]) -> None:
    broken = row(body=VIDEO | change)
    assert wrong(broken) == "body is not that of a video"
    told = sentence(broken, wrong(broken))
    assert f"damaged at the job job_{'0' * 32} (body is not that of a video)" in told

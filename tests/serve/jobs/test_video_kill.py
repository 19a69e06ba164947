"""With the true engine of clips: after kill -9 in the middle of a clip, it is drawn again, and once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sanakit.clips.reading import open_clip
from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.clip_files import clip_file
from sanakit.serve.jobs.instance import Instance
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore

PATIENCE = 60  # seconds until a test gives up
SMALL = {"model": "tiny-video", "prompt": "a red apple", "frames": 5, "width": 64, "height": 64, "steps": 3}
DRAWS_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from sanakit.models.video.sana_video import SanaVideo
from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.engine.engine import Engine
from sanakit.serve.jobs.instance import Instance
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.runner import JobRunner
from sanakit.serve.jobs.storage import ImageStore

folder, calls, whole = Path(sys.argv[1]), [0], SanaVideo.velocity

def held(*inputs, **options):
    calls[0] += 1
    if calls[0] == 5:  # in the second step of the second clip
        print(place.name, flush=True)
        time.sleep(600)
    return whole(*inputs, **options)

SanaVideo.velocity = held
place, jobs = Instance(folder), JobStore(folder / "jobs.sqlite")
images, clips = Engine([]), ClipEngine([sys.argv[2]], device="cpu", threads=1)
images.start()
clips.start()
JobRunner(images, jobs, ImageStore(folder / "pictures"), place.name, clips=clips).start()
time.sleep(600)
"""


@pytest.mark.thorough
def test_after_kill_9_in_the_middle_of_a_clip_none_is_lost_and_none_is_drawn_twice(
    clip_engine: ClipEngine, video_folder: Path, tmp_path: Path
) -> None:
    jobs, store = JobStore(tmp_path / "jobs.sqlite"), ImageStore(tmp_path / "pictures")
    extra = {"rate": "16", "format": "webp", "warnings": []}
    ids = [jobs.add("video", SMALL | extra | {"seed": seed}, "ann", 1).id for seed in range(3)]
    words = [sys.executable, "-c", DRAWS_UNTIL_KILLED, str(tmp_path), str(video_folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    before = [jobs.get(one, "ann", video=True) for one in ids]
    assert [job and job.status for job in before] == ["finished", "running", "queued"]
    place, images = Instance(tmp_path), Engine([])
    assert place.name == name
    images.start()
    runner = JobRunner(images, jobs, store, place.name, clips=clip_engine, poll=0.05)
    runner.start()
    end = time.monotonic() + PATIENCE
    while jobs.counts()["finished"] < len(ids):
        assert time.monotonic() < end, runner.trouble
        time.sleep(0.05)
    runner.close()
    images.close()
    place.close()
    after = [jobs.get(one, "ann", video=True) for one in ids]
    assert [job and job.attempts for job in after] == [1, 2, 1]
    assert (after[0] and after[0].ended) == (before[0] and before[0].ended)
    assert sorted(store.names()) == sorted(f"{one}-video.webp" for one in ids)
    for seed, one in enumerate(ids):
        drawn = clip_engine.submit(clip_engine.check(**SMALL, seed=seed)).result(PATIENCE)  # pyright: ignore
        wanted, _ = clip_file(drawn.clips[0], "webp")  # pyright: ignore[reportArgumentType]
        for file, data in (("wanted", wanted), ("stored", store.get(f"{one}-video.webp"))):
            (tmp_path / file).write_bytes(data)
        with open_clip(tmp_path / "wanted") as first, open_clip(tmp_path / "stored") as second:
            assert np.array_equal(first.read().frames, second.read().frames)
            assert first.facts.settings == second.facts.settings
    jobs.close()

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from sanakit.errors import SettingsError

pytest.importorskip("ray", reason="needs sanakit[cluster]")
pytest.importorskip("fastapi", reason="needs sanakit[serve]")

SMALL = {"prompt": "a red apple", "size": "64x64", "steps": 2}
WAIT = 90.0  # seconds, at most, for what a cluster does by itself


def test_arguments_are_those_of_the_settings_and_models_may_be_one_name() -> None:
    from sanakit.serve.cluster import ClusterSettings

    assert ClusterSettings.model_validate({"models": "pocket"}).models == ["pocket"]
    assert ClusterSettings.model_validate({"models": ["pocket", "./other"]}).models == ["pocket", "./other"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"model": "pocket"}, "model"), ({"replicas": 0}, "replicas"), ({"models": []}, "models")],
)
def test_arguments_that_do_not_fit_are_named(arguments: dict[str, Any], named: str) -> None:
    from sanakit.serve.cluster import app

    with pytest.raises(SettingsError, match=rf"\({named}: .*Valid ones: models, replicas"):
        app(arguments)


def test_the_config_file_starts_what_it_says(repository: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from sanakit.serve import cluster

    yaml = pytest.importorskip("yaml")
    text = (repository / "deploy" / "ray-serve.yaml").read_text(encoding="utf-8")
    config = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications[0]
    assert config.import_path == f"{cluster.__name__}:{cluster.app.__name__}"
    assert config.name == cluster.NAME
    assert cluster.ClusterSettings.model_validate(config.args).replicas == 2


@dataclass
class Cluster:
    """Two replicas behind a proxy."""

    address: str
    key: str
    handle: Any
    data: Path

    def call(self, path: str, body: dict[str, Any] | None = None, *, key: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {key or self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.address + path, data, headers), timeout=WAIT) as answer:
            return json.load(answer)

    def draw(self, seed: int) -> str:
        return self.call("/v1/images/generations", {**SMALL, "seed": seed})["data"][0]["b64_json"]

    def stats(self) -> dict[int, dict[str, Any]]:
        """Figures of each replica, by its process."""
        return {found["process"]: found for found in self.handle.broadcast("stats").results(timeout_s=WAIT)}

    def until(self, ready: Callable[[], Any]) -> Any:
        """Ask again until the answer is yes; what the cluster does meanwhile tells nobody."""
        end = time.monotonic() + WAIT
        while not (answer := ready()):
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.2)
        return answer


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import serve

    from sanakit.serve.cluster import ClusterSettings, deploy
    from sanakit.serve.jobs.keys import KeyStore
    from sanakit.serve.server import DATABASE

    data = tmp_path_factory.mktemp("cluster")
    key = KeyStore(data / DATABASE).create("test")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100_000_000,
        log_to_driver=False,
    )
    try:
        port = 18_000 + os.getpid() % 10_000
        settings = ClusterSettings(replicas=2, num_cpus=0.5, data=str(data))
        yield Cluster(f"http://127.0.0.1:{port}", key, deploy(settings, port=port), data)
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.slow
def test_both_replicas_draw_and_draw_the_same(cluster: Cluster) -> None:
    def all_have_drawn() -> bool:
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(cluster.draw, [7] * 8))) == 1
        return all(found["pictures"] for found in cluster.stats().values())

    assert len(cluster.stats()) == 2
    cluster.until(all_have_drawn)


@pytest.mark.slow
def test_a_cluster_needs_a_key(cluster: Cluster) -> None:
    with pytest.raises(HTTPError, match="401"):
        cluster.call("/v1/images/generations", SMALL, key="wrong")


@pytest.mark.slow
def test_a_stream_passes_the_proxy_with_its_previews(cluster: Cluster) -> None:
    body = json.dumps({**SMALL, "steps": 4, "stream": True, "partial_images": 2}).encode()
    headers = {"Authorization": f"Bearer {cluster.key}", "Content-Type": "application/json"}
    with urlopen(Request(f"{cluster.address}/v1/images/generations", body, headers), timeout=WAIT) as answer:
        events = [line.split()[1].decode() for line in answer if line.startswith(b"event:")]
    assert events == [*["image_generation.partial_image"] * 2, "image_generation.completed"]


@pytest.mark.slow
def test_a_killed_replica_is_replaced_and_accepted_jobs_are_finished(cluster: Cluster) -> None:
    from ray.exceptions import RayActorError

    before = set(cluster.stats())
    jobs = [cluster.call("/v1/jobs", {**SMALL, "steps": 50, "seed": seed})["id"] for seed in range(6)]
    os.kill(min(before), signal.SIGKILL)

    def drawn() -> bool:
        try:
            return bool(cluster.draw(1))
        except HTTPError:  # the proxy may still send a request to the dead one
            return False

    cluster.until(drawn)

    def replaced() -> set[int] | None:
        try:
            processes = set(cluster.stats())
        except RayActorError:  # of the dead one, while the handle knows it
            return None
        return processes if len(processes) == 2 else None

    assert len(cluster.until(replaced) & before) == 1

    def ended() -> list[dict[str, Any]] | None:
        found = [cluster.call(f"/v1/jobs/{job}") for job in jobs]
        return found if all(job["status"] not in ("queued", "running") for job in found) else None

    assert [job["status"] for job in cluster.until(ended)] == ["finished"] * 6
    assert sorted(path.name for path in (cluster.data / "pictures").iterdir()) == sorted(
        f"{job}-0.png" for job in jobs
    )

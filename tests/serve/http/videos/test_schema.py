"""What /openapi.json tells of videos, and that every answer is one that it tells of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sanakit.serve.engine.clip_engine import ClipEngine
from sanakit.serve.http.videos.schema import REFERENCE, VideoRequest
from tests.serve.http.videos.asking import add


def schema_of(parts: Any) -> dict[str, Any]:
    return parts.client.get("/openapi.json").json()


def test_json_and_the_form_are_described_with_this_servers_limits(
    make_parts: Callable[..., Any], clip_engine: ClipEngine
) -> None:
    schema = schema_of(make_parts(clips=clip_engine, max_steps=30, max_frames=81))
    content = schema["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    models = schema["components"]["schemas"]
    assert {kind: found["schema"]["$ref"].rpartition("/")[2] for kind, found in content.items()} == {
        **{"application/json": "VideoRequest", "multipart/form-data": "VideoForm"}
    }
    for name in ("VideoRequest", "VideoForm"):
        fields = models[name]["properties"]
        assert fields.keys() == VideoRequest.model_fields.keys()
        for field, most in {"steps": 30, "num_inference_steps": 30, "frames": 81, "num_frames": 81}.items():
            kinds = [fields[field], *fields[field].get("anyOf", ())]
            assert [kind["maximum"] for kind in kinds if "maximum" in kind] == [most]
        assert models[name]["required"] == ["prompt"]
    assert models["VideoForm"]["properties"][REFERENCE]["format"] == "binary"
    assert not any(
        "null" in str(field.get("anyOf", "")) for field in models["VideoForm"]["properties"].values()
    )
    assert "ImageReference" in models


def test_every_status_is_documented(parts: Any) -> None:
    paths = schema_of(parts)["paths"]
    video_id = add(parts).json()["id"]
    key = parts.keys.create("ann", per_minute=1)
    waiting = add(parts, {"Authorization": f"Bearer {key}"}).json()["id"]
    parts.client.headers = {"Authorization": f"Bearer {key}"}
    seen = set()

    def ask(method: str, path: str, **options: Any) -> None:
        answer = parts.client.request(method, path, **options)
        tail = path.partition("?")[0].removeprefix("/v1/videos").strip("/").split("/")
        place = (
            "/v1/videos" + ("/{video_id}" if tail[0] else "") + ("/content" if tail[-1] == "content" else "")
        )
        assert str(answer.status_code) in paths[place][method.lower()]["responses"], (method, path)
        kinds = paths[place][method.lower()]["responses"][str(answer.status_code)]["content"]
        assert answer.headers["content-type"].partition(";")[0] in kinds
        seen.add((method, place.removeprefix("/v1/videos"), answer.status_code))

    ask("POST", "/v1/videos", json={"prompt": "x"})  # 429: a second one in this minute
    ask("POST", "/v1/videos", json={"prompt": 7})
    ask("POST", "/v1/videos", json={"prompt": "x", "model": "y"})
    ask("POST", "/v1/videos", json={"prompt": "x"}, headers={"Authorization": "Bearer no"})
    ask("POST", "/v1/videos", content=b"x" * 70_000, headers={"Content-Type": "text/plain"})
    ask("GET", "/v1/videos")
    ask("GET", "/v1/videos?limit=0")
    ask("GET", f"/v1/videos/{waiting}")
    ask("GET", f"/v1/videos/{waiting}/content")
    ask("GET", f"/v1/videos/{video_id}/content")  # of nobody, and so not of this key
    assert len([parts.jobs.claim("me", 60, videos=True) for _ in range(2)]) == 2
    parts.store.put(f"{waiting}-video.{'mp4'}", b"x" * 10)
    parts.store.put(f"{waiting}-video.{'webp'}", b"x" * 10)
    parts.jobs.finish(waiting, "me", [])
    ask("GET", f"/v1/videos/{waiting}/content")
    ask("GET", f"/v1/videos/{waiting}/content", headers={"Range": "bytes=1-"})
    ask("GET", f"/v1/videos/{waiting}/content", headers={"Range": "bytes=10-"})
    ask("DELETE", f"/v1/videos/{waiting}")
    ask("DELETE", f"/v1/videos/{waiting}")
    assert seen == {
        *(("POST", "", status) for status in (400, 401, 404, 413, 429)),
        *(("GET", "", status) for status in (200, 400)),
        *(("GET", "/{video_id}", status) for status in (200,)),
        *(("GET", "/{video_id}/content", status) for status in (200, 206, 404, 409, 416)),
        *(("DELETE", "/{video_id}", status) for status in (200, 404)),
    }


@pytest.mark.parametrize("path", ["/v1/videos/job_1/remix", "/v1/videos/edits", "/v1/videos/characters"])
def test_what_is_not_done_says_where_to_look(parts: Any, path: str) -> None:
    answer = parts.client.post(path, json={"prompt": "x"})
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]["message"]

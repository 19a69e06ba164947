"""Drawing over HTTP: what may be asked for, what comes back, and what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import BusyError, MemoryLimitError, NumericsError, OutputError, RefusedError
from sanakit.images.formats import MOST_SIDE
from sanakit.images.image import read_metadata
from sanakit.serve.engine import engine as engine_module
from sanakit.serve.engine.ticket import Failed

Make = Callable[..., Any]


def picture(data: str | bytes) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_reply_carries_pictures_of_the_size_with_all_it_takes_to_draw_them_again(parts: Any) -> None:
    reply = parts.draw(n=2, size="96x64", seed=7, guidance=2, negative_prompt="green", solver="euler").json()
    assert [one["metadata"]["seed"] for one in reply["data"]] == [7, 8]
    for one in reply["data"]:
        drawn = picture(one["b64_json"])
        assert (drawn.format, drawn.size) == ("PNG", (96, 64))
        assert (
            one["metadata"] | {"solver": "euler", "guidance": 2.0, "negative_prompt": "green"}
            == one["metadata"]
        )
    found = read_metadata(io.BytesIO(base64.b64decode(reply["data"][1]["b64_json"])))
    assert (found["seed"], found["prompt"]) == (8, "a red apple")
    height, width = parts.engine.specs["pocket"].drawn_size(96, 64)
    assert reply["usage"]["total_tokens"] == 2 * (width // 32) * (height // 32)
    alone = parts.draw(size="96x64", seed=8, guidance=2, negative_prompt="green", solver="euler").json()[
        "data"
    ][0]
    difference = np.asarray(drawn, int) - np.asarray(picture(alone["b64_json"]), int)
    assert abs(difference).max() <= 2


def test_weights_are_read_on_request_and_told_where_they_are_not(parts: Any) -> None:
    words = {"prompt": "a (red:4) apple", "negative_prompt": "(green:2)", "size": "64x64", "seed": 1}
    read, text = (parts.draw(**words, prompt_weights=switch).json() for switch in (True, False))
    first = read["data"][0]["metadata"]
    assert (first["prompt"], first["negative_prompt"]) == (words["prompt"], words["negative_prompt"])
    assert first["prompt_weights"] is True
    assert "prompt_weights" not in text["data"][0]["metadata"]
    assert read["data"][0]["b64_json"] != text["data"][0]["b64_json"]
    assert not any("weigh" in note for note in read["warnings"])
    assert any("prompt weights" in note for note in text["warnings"])
    assert code_of(parts.draw(prompt="a (red", prompt_weights=True))[0] == 400
    assert code_of(parts.draw(prompt="a", prompt_weights="yes"))[0] == 400


@pytest.mark.parametrize(("name", "format_"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats_are_as_asked(parts: Any, name: str, format_: str) -> None:
    data = parts.draw(output_format=name).json()["data"][0]["b64_json"]
    assert picture(data).format == format_


@pytest.mark.parametrize("stream", [False, True])
def test_an_image_too_wide_for_its_format_is_refused_before_it_is_drawn(
    parts: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setitem(MOST_SIDE, "WEBP", 63)
    monkeypatch.setattr(parts.engine, "submit", lambda *_, **__: pytest.fail("drawn"))
    answer = parts.draw(output_format="webp", stream=stream)
    assert code_of(answer) == (400, "invalid_size")
    assert "WEBP holds 63 at most" in answer.json()["error"]["message"]


def test_compression_makes_smaller_files(parts: Any) -> None:
    sizes = [
        len(parts.draw(output_format="jpeg", seed=1, output_compression=q).json()["data"][0]["b64_json"])
        for q in (0, 100)
    ]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_a_picture_by_url_can_be_fetched_without_a_key_and_kept_for_ever(parts: Any, name: str) -> None:
    parts.client.headers = {"Authorization": f"Bearer {parts.keys.create('ann')}"}
    one = parts.draw(response_format="url", output_format=name).json()["data"][0]
    assert one["b64_json"] is None
    del parts.client.headers["Authorization"]
    answer = parts.client.get(one["url"])
    assert answer.headers["content-type"] == f"image/{name}"
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert picture(answer.content).size == (64, 64)


@pytest.mark.parametrize(
    "name",
    [
        "image_20260101_" + "0" * 32 + ".png",
        "..%2fjobs.sqlite",
        "%2e%2e/jobs.sqlite",
        "..",
        "jobs.sqlite",
        "job_" + "0" * 32 + "-image.png",
        "a" * 200,
        "image_20260101_" + "0" * 32 + ".png%00.txt",
        "C:%5cwindows",
        "%0a",
        "image_20260101_" + "0" * 32 + ".png%0a",
    ],
)
def test_other_names_lead_to_no_file(parts: Any, name: str) -> None:
    parts.store.put("job_" + "0" * 32 + "-image.png", b"an upload")
    answer = parts.client.get(f"/v1/pictures/{name}")
    assert answer.status_code == (400 if len(name) > 128 else 404)
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": None},
        {"prompt": 7},
        {"prompt": "nul \0 inside"},
        {"prompt": "x" * 32_001},
        {"size": "64"},
        {"size": "63x64"},
        {"size": "8192x8192"},
        {"size": "0x0"},
        {"size": "-64x64"},
        {"n": 0},
        {"n": 11},
        {"n": "2"},
        {"n": True},
        {"steps": 0},
        {"steps": 201},
        {"guidance": -1},
        {"guidance": "2"},
        {"seed": -1},
        {"seed": 2**60},
        {"solver": "heun"},
        {"quality": "best"},
        {"style": "noir"},
        {"background": "transparent"},
        {"moderation": "none"},
        {"output_format": "gif"},
        {"response_format": "file"},
        {"output_compression": 50},
        {"output_format": "jpeg", "output_compression": 101},
        {"partial_images": 1},
        {"stream": True, "partial_images": 4},
        {"stream": True, "response_format": "url"},
        {"deadline": 0},
        {"strength": 0.5},
        {"guidence": 3},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_400(parts: Any, body: dict[str, Any]) -> None:
    answer = parts.draw(**body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"prompt": NaN}',
        b"[" * 100_000,
        b'{"prompt": "\\ud800"}',
    ],
)
def test_what_is_no_json_object_is_400(parts: Any, content: bytes) -> None:
    answer = parts.client.post(
        "/v1/images/generations", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "apple " * 1700,
        "\x01\x02\x1b[31m\x7f\r\n\t\b",
        "\u202e\u0000".replace("\0", "") + "‮",
        "🍎" * 50,
        "<start_of_turn>",
    ],
    ids=["empty", "10,000 characters", "control", "bidi", "emoji", "special token"],
)
def test_odd_prompts_are_drawn(parts: Any, prompt: str) -> None:
    reply = parts.draw(prompt=prompt).json()
    assert read_metadata(io.BytesIO(base64.b64decode(reply["data"][0]["b64_json"])))["prompt"] == prompt


def test_fields_without_effect_and_nulls_are_accepted(parts: Any) -> None:
    nulls = dict.fromkeys(("model", "n", "response_format", "output_format", "stream", "seed", "guidance"))
    ignored = {"quality": "hd", "style": "vivid", "moderation": "low", "background": "opaque", "user": "u-1"}
    assert parts.draw(**nulls, **ignored).status_code == 200


def test_auto_is_the_models_own_size(parts: Any) -> None:
    assert parts.draw(size="auto", steps=1).json()["size"] == "256x256"


def test_an_unknown_model_is_404(parts: Any) -> None:
    assert code_of(parts.draw(model="dall-e-3")) == (404, "model_not_found")


def test_the_limits_of_the_server_hold(make_parts: Make) -> None:
    parts = make_parts(max_steps=3, max_side=96)
    assert [parts.draw(steps=n).status_code for n in (3, 4)] == [200, 400]
    assert [parts.draw(size=size).status_code for size in ("96x96", "128x64")] == [200, 400]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BusyError("full"), (503, "busy")),
        (RefusedError("no"), (400, "moderation_blocked")),
        (MemoryLimitError("give at least 1 GB"), (400, "memory_limit")),
        (NumericsError("NaN"), (500, "numerics")),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_says_reaches_the_client(
    parts: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: tuple[int, str], stream: bool
) -> None:
    """Errors at the door are a status; once a stream has begun they are its last event."""
    submit = parts.engine.submit

    def failing(request: Any, on_event: Any, **options: Any) -> Any:
        if isinstance(error, BusyError):
            raise error
        ticket = submit(request)
        on_event(Failed(ticket, error))
        return ticket

    monkeypatch.setattr(parts.engine, "submit", failing)
    answer = parts.draw(stream=stream)
    if stream and not isinstance(error, BusyError):
        ((kind, data),) = parts.events(answer)
        assert (kind, data["error"]["code"]) == ("error", expected[1])
    else:
        assert code_of(answer) == expected
    assert ("Retry-After" in answer.headers) == (expected[0] == 503)
    if not stream:
        assert answer.headers["X-Should-Retry"] == ("true" if expected[0] == 503 else "false")
    assert "1 GB" not in answer.text  # the operator's remedy
    filtered = isinstance(error, RefusedError)
    assert f"sana_filtered_total {filtered:.1f}" in parts.client.get("/metrics").text


def test_a_request_that_found_no_room_is_not_counted_against_its_key(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.client.headers = {"Authorization": f"Bearer {parts.keys.create('ann', per_day=1)}"}

    def full(*_: Any, **__: Any) -> None:
        raise BusyError("full")

    with monkeypatch.context() as patch:
        patch.setattr(parts.engine, "submit", full)
        assert parts.draw().status_code == 503
    assert parts.draw().status_code == 200


def test_a_poisoned_request_fails_alone_and_tells_nothing(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = engine_module.begin

    def poisoned(transformer: Any, request: Any, features: list[Any], *rest: Any, **more: Any) -> Any:
        if request.prompts[0] == "raise":
            raise ZeroDivisionError("SECRET")
        if request.prompts[0] == "NaN":
            features = [text * float("nan") for text in features]
        return whole(transformer, request, features, *rest, **more)

    monkeypatch.setattr(engine_module, "begin", poisoned)
    prompts = ["good", "NaN", "good", "raise", "late", "good"]

    def ask(prompt: str) -> Any:
        return parts.draw(
            prompt=prompt, seed=1, steps=20, **({"deadline": 0.001} if prompt == "late" else {})
        )

    def drawn(answer: Any) -> Image.Image:
        return picture(answer.json()["data"][0]["b64_json"])

    with ThreadPoolExecutor(len(prompts)) as clients:
        answers = list(clients.map(ask, prompts))
    assert [answer.status_code for answer in answers] == [200, 500, 200, 500, 504, 200]
    assert [code_of(answers[1])[1], code_of(answers[3])[1]] == ["numerics", "internal_error"]
    assert "SECRET" not in answers[3].text
    alone = np.asarray(drawn(parts.draw(prompt="good", seed=1, steps=20)), int)
    for answer in (answers[0], answers[2], answers[5]):
        assert np.abs(np.asarray(drawn(answer), int) - alone).max() <= 2


def test_a_deadline_that_passes_is_504(parts: Any) -> None:
    assert code_of(parts.draw(steps=200, deadline=0.05)) == (504, "deadline_passed")


def test_a_full_disk_is_503(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OutputError("/secret/place: no space left")

    monkeypatch.setattr(parts.store, "put", full)
    answer = parts.draw(response_format="url")
    assert code_of(answer) == (503, "storage")
    assert "secret" not in answer.text
    assert parts.draw().status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        ({"size": "big"}, "size", "size: write WIDTHxHEIGHT such as 256x256, or auto."),
        ({"prompt": "a\0b"}, "prompt", "prompt: the character NUL is not allowed: remove it."),
        ({"n": 11}, "n", "n: Input should be less than or equal to 10."),
        ({"guidence": 3}, "guidence", "Unknown field 'guidence': did you mean 'guidance'?"),
        (
            {"solver": "scm"},
            "solver",
            'solver = \'scm\', but pocket supports only "dpm" (usual) or "euler": omit it, or use that.',
        ),
        ({"zzzz": 3}, "zzzz", "Unknown field 'zzzz'; /openapi.json lists all of them."),
    ],
)
def test_a_wrong_field_is_a_sentence_that_mends_it(
    parts: Any, body: dict[str, Any], param: str, sentence: str
) -> None:
    error = parts.draw(**body).json()["error"]
    assert (error["param"], error["message"]) == (param, sentence)


def test_the_filters_log_the_id_of_the_answer(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(parts.engine, "prompt_filter", lambda prompts, name: told.append(name))
    monkeypatch.setattr(parts.engine, "image_filter", lambda images, name: told.append(name))
    answer = parts.draw()
    assert told == [answer.headers["X-Request-Id"]] * 2

"""Control images by HTTP: in a request, a form or a job; ControlNets listed with the models."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from PIL import Image, ImageDraw

from sanakit import ControlImage
from sanakit.images.image import read_metadata
from sanakit.images.opening import MAX_PIXELS
from sanakit.models.controlnet import ControlNet
from sanakit.serve.engine.engine import Engine
from sanakit.serve.http.openai_schema import MAX_CONTROL
from sanakit.serve.jobs.runner import JobRunner
from sanakit.weights import load_transformer, save_controlnet

WORDS = {"seed": 1, "response_format": "b64_json"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The embedded model with a ControlNet of random projections."""
    base, path = load_transformer("pocket"), tmp_path_factory.mktemp("nets") / "lines"
    torch.manual_seed(1)
    net = ControlNet.of(base, 2)
    with torch.no_grad():
        for block in net.controlnet:
            for name, parameter in block.named_parameters():
                if name.startswith(("before_proj", "after_proj")):
                    parameter.normal_(std=0.2)
    save_controlnet(path, net, base, hint="edges")
    running = Engine(["pocket"], device="cpu", threads=1, controls={"lines": str(path)})
    running.start()
    yield running
    running.close()


def sketch(colour: str = "yellow", side: int = 64) -> Image.Image:
    image = Image.new("RGB", (side, side), "navy")
    ImageDraw.Draw(image).ellipse((8, 8, side - 20, side - 8), fill=colour)
    return image


def file_of(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def text_of(image: Image.Image, kind: str = "PNG") -> str:
    return base64.b64encode(file_of(image, kind)).decode()


def control(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "lines", "image": text_of(sketch())} | fields]


def drawn(answer: Any) -> tuple[str, str]:
    """The image of an answer, and the control in its settings."""
    assert answer.status_code == 200, answer.text
    (one,) = answer.json()["data"]
    return one["b64_json"], one["metadata"].get("control", "")


def pixels(data: str) -> bytes:
    return Image.open(io.BytesIO(base64.b64decode(data))).tobytes()


def test_a_request_is_steered_by_its_images(parts: Any, engine: Engine) -> None:
    plain, none = drawn(parts.draw(**WORDS))
    steered, told = drawn(parts.draw(**WORDS, control=control(end=0.5)))
    again, _ = drawn(parts.draw(**WORDS))
    mark = engine.residence.controls["pocket"]["lines"].fingerprint
    shown = ControlImage(sketch()).fingerprint
    assert (none, told) == ("", f"edges 1 from 0 to 0.5 of {shown} by lines@{mark}")
    assert plain == again
    assert pixels(steered) != pixels(plain)
    assert read_metadata(io.BytesIO(base64.b64decode(steered)))["control"] == told
    for nothing in ([], None):
        assert drawn(parts.draw(**WORDS, control=nothing)) == (plain, "")


def test_scale_zero_draws_what_no_control_draws_bit_for_bit(parts: Any) -> None:
    plain, _ = drawn(parts.draw(**WORDS))
    zero, told = drawn(parts.draw(**WORDS, control=control(scale=0)))
    assert told.startswith("edges 0 of ")
    assert pixels(zero) == pixels(plain)


def test_an_image_comes_in_base64_or_as_a_data_url(parts: Any) -> None:
    bare, told = drawn(parts.draw(**WORDS, control=control()))
    for kind, suffix in (("PNG", "png"), ("WEBP", "webp")):
        image = f"data:image/{suffix};base64,{text_of(sketch(), kind)}"
        other, _ = drawn(parts.draw(**WORDS, control=control(image=image)))
        assert (pixels(other) == pixels(bare)) is (kind == "PNG")
    nothing_said = control(kind=None, scale=None, start=None, end=None)
    assert drawn(parts.draw(**WORDS, control=nothing_said)) == (bare, told)
    assert drawn(parts.draw(**WORDS, control=control(kind="blocks")))[1].startswith("blocks 1 of")


def test_without_a_size_the_nearest_that_the_model_lists_is_drawn(parts: Any) -> None:
    tall = text_of(sketch().resize((32, 64)))
    reply = parts.draw(**WORDS, size="auto", control=control(image=tall)).json()
    assert reply["size"] == "256x256"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (control(name="pen"), "pocket has no ControlNet 'pen'; there are: pocket-lines, lines"),
        (control(name="../lines"), "no ControlNet '../lines'"),
        (control(name="n" * 300), "control.0.name"),
        (control(name=None), "control.0.name"),
        ([{"image": "x"}], "control.0.name"),
        ([{"name": "lines"}], "control.0.image"),
        (control(kind="depth"), "control.0.kind"),
        (control(scale=101), "control.0.scale"),
        (control(scale="1"), "control.0.scale"),
        (control(scale=True), "control.0.scale"),
        (control(start=-0.1), "control.0.start"),
        (control(start=0.5, end=0.5), "the end must be later"),
        (control(end=1.5), "control.0.end"),
        (control(strength=1), "Unknown field 'strength'"),
        (control(scael=1), "did you mean 'scale'"),
        (control(image="/etc/passwd"), "The image of control 1"),
        (control(image="file:///etc/passwd"), "The image of control 1 is not base64"),
        (control(image="http://127.0.0.1/a.png"), "The image of control 1 is not base64"),
        (control(image="data:image/png;base64,????"), "The image of control 1 is not base64"),
        (control(image="\N{OWL}"), "The image of control 1 is not base64"),
        (control(image=""), "The image of control 1"),
        (control(image=base64.b64encode(b"<svg/>").decode()), "The image of control 1"),
        (control(image=text_of(sketch())[:200]), "The image of control 1"),
        (control(image="A" * (MAX_CONTROL - 300)), "The image of control 1"),
        (control() + control(image="AAAA"), "The image of control 2"),
        (control() * 5, "control"),
        ("lines", "control"),
        ({"name": "lines"}, "control"),
        ([1], "control.0"),
        ([None], "control.0"),
    ],
)
def test_wrong_controls_are_refused_in_a_sentence(parts: Any, wrong: Any, said: str) -> None:
    answer = parts.draw(**WORDS, control=wrong)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]
    assert len(answer.json()["error"]["message"]) < 500


def test_an_image_of_megabytes_is_taken_by_requests_forms_and_jobs(parts: Any) -> None:
    noise = Image.effect_noise((2000, 2000), 120)
    data = text_of(noise)
    assert 3_000_000 < len(data) < MAX_CONTROL
    shown = control(image=data, scale=0)
    drawn(parts.draw(**WORDS, control=shown))
    form = {"prompt": "a fox", "steps": "1", "control": json.dumps(shown)}
    file = {"image": file_of(sketch())}
    answer = parts.client.post("/v1/images/edits", data=form, files=file)
    assert answer.status_code == 200, answer.text
    body = {"prompt": "a fox", "steps": 1, "size": "64x64", "control": shown}
    answer = parts.client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text


def test_a_control_that_is_too_large_is_not_decoded(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Image.new("L", (MAX_PIXELS // 4000 + 1, 4000))
    answer = parts.draw(**WORDS, control=control(image=text_of(wide)))
    assert answer.status_code == 400, answer.text
    monkeypatch.setattr(parts.engine.decoding, "limit", 1000)
    answer = parts.draw(**WORDS, control=control())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_size")
    assert "too many for this server's memory" in answer.text


def test_models_list_their_controlnets_and_the_hints_that_these_learned(parts: Any) -> None:
    (model,) = parts.client.get("/v1/models").json()["data"]
    assert model["controls"] == {"pocket-lines": "lines", "lines": "edges"}


def test_openais_client_sends_controls_in_both_forms(parts: Any) -> None:
    client = openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=parts.client)
    two: Any = [*control(scale=0.5), {"name": "lines", "image": text_of(sketch("red")), "end": 0.5}]
    words = {"seed": 1, "steps": 2, "control": two}
    made = client.images.generate(prompt="a red apple", size="64x64", extra_body=words)
    image, form = file_of(sketch("green")), words | {"control": json.dumps(two)}
    edited = client.images.edit(image=image, prompt="an apple", size="64x64", extra_body=form)
    for reply in (made, edited):
        assert reply.data
        told = reply.data[0].metadata["control"]  # pyright: ignore[reportAttributeAccessIssue]
        assert [one.split(" of ")[0] for one in told.split("; ")] == ["edges 0.5", "edges 1 from 0 to 0.5"]


def test_a_form_takes_json(parts: Any) -> None:
    def sent(**more: str) -> str:
        data = {"prompt": "x", "seed": "1", "steps": "3", "strength": "1", **more}
        files = {"image": ("a.png", file_of(sketch("green")))}
        return drawn(parts.client.post("/v1/images/edits", data=data, files=files))[0]

    plain, half = sent(), sent(control=json.dumps(control(scale=0.5)))
    assert pixels(sent(control=json.dumps(control(scale=0)))) == pixels(plain) == pixels(sent(control=""))
    assert pixels(half) != pixels(plain)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"control": "lines"}, "control"),
        ({"control": "{"}, "control"),
        ({"control": "[" * 100_000}, "control"),
        ({"control": json.dumps(control(scale="1"))}, "control.0.scale"),
        ({"control[][name]": "lines", "control[][image]": "AAAA"}, "send json.dumps([...]) as its text"),
        ({"control[0][name]": "lines"}, "send json.dumps"),
        ({"control[]": "lines"}, "send json.dumps"),
        ({"controls": "[]"}, "did you mean 'control'"),
    ],
)
def test_wrong_controls_in_a_form_are_refused(parts: Any, fields: dict[str, Any], said: str) -> None:
    files = {"image": ("a.png", file_of(sketch()))}
    answer = parts.client.post("/v1/images/edits", data={"prompt": "x", **fields}, files=files)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]


# Jobs

BODY = {"prompt": "a red apple", "size": "64x64", "steps": 3, "seed": 1}


def ended(parts: Any, job: dict[str, Any]) -> dict[str, Any]:
    end = time.monotonic() + 60
    while job["status"] not in ("finished", "failed") and time.monotonic() < end:
        time.sleep(0.05)
        job = parts.client.get(f"/v1/jobs/{job['id']}").json()
    return job


def test_a_job_keeps_its_control_image_over_a_restart(parts: Any) -> None:
    at_once, told = drawn(parts.draw(**BODY | {"control": control(scale=0.8)}))
    job = parts.client.post("/v1/jobs", json=BODY | {"control": control(scale=0.8)}).json()
    (kept,) = job["request"]["control"]
    assert {key: kept[key] for key in ("name", "kind", "scale")} == {
        "name": "lines",
        "kind": "edges",
        "scale": 0.8,
    }
    assert kept["image"].startswith(f"{job['id']}-control-")
    assert parts.store.names("job_") == [kept["image"]]
    assert parts.jobs.unused([kept["image"]]) == []
    claimed = parts.jobs.claim("killed", 60)  # by a server that then is gone
    assert claimed.id == job["id"]
    again = JobRunner(parts.engine, parts.jobs, parts.store, "killed", poll=0.05)
    again.start()
    try:
        job = ended(parts, job)
    finally:
        again.close()
    assert job["status"] == "finished", job
    assert job["data"][0]["metadata"]["control"] == told
    name = job["data"][0]["url"].rpartition("/")[2]
    assert Image.open(io.BytesIO(parts.store.get(name))).tobytes() == pixels(at_once)
    from sanakit.serve.jobs.database import now

    assert parts.jobs.delete_before(now(), parts.store.delete) == 1
    assert parts.store.names("job_") == []


def test_an_edits_job_keeps_all_its_images(parts: Any) -> None:
    parts.runner.start()
    files = {
        "image": ("a.png", file_of(sketch("green"))),
        "mask": ("m.png", file_of(Image.new("L", (64, 64), 255))),
    }
    fields = {"prompt": "x", "steps": "2", "seed": "1", "control": json.dumps(control() + control(end=0.6))}
    job = parts.client.post("/v1/jobs/edits", data=fields, files=files).json()
    assert len(job["request"]["control"]) == 2
    job = ended(parts, job)
    assert job["status"] == "finished", job
    assert job["data"][0]["metadata"]["control"].count("edges 1") == 2


def test_an_idempotency_key_goes_with_its_control(parts: Any) -> None:
    key = {"Idempotency-Key": "k"}

    def ask(image: Image.Image, **more: Any) -> Any:
        body = BODY | {"control": control(image=text_of(image), **more)}
        return parts.client.post("/v1/jobs", json=body, headers=key)

    first = ask(sketch())
    assert ask(sketch()).json()["id"] == first.json()["id"]
    assert ask(sketch("red")).status_code == 409
    assert ask(sketch(), scale=0.5).status_code == 409
    assert len(parts.store.names("job_")) == 1


def test_a_job_whose_controlnet_is_gone_fails_in_a_sentence(parts: Any, monkeypatch: Any) -> None:
    job = parts.client.post("/v1/jobs", json=BODY | {"control": control()}).json()
    monkeypatch.setitem(parts.engine.residence.controls, "pocket", {})
    parts.runner.start()
    job = ended(parts, job)
    assert job["status"] == "failed"
    assert "pocket has no ControlNet 'lines'; it has none here" in job["error"]["message"]


@pytest.mark.parametrize("wrong", [1, "x", [1], [{}], [{"image": 1}], {"image": "x"}])
def test_a_damaged_row_of_control_images_is_a_failed_job(parts: Any, wrong: Any) -> None:
    job = parts.jobs.add("generation", BODY | {"control": wrong}, None, 1)
    found = parts.client.get(f"/v1/jobs/{job.id}").json()
    assert (found["status"], "damaged" in found["error"]["message"]) == ("failed", True)

"""What each client does, without keys and with one: part of `clients.py`."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from real_clients.report import Client, run

SMALL = {"steps": 2, "seed": 7}
SIZE, WRONG_SIZE = "256x256", "both sides must be from 64 to 4096 px"
WRONG_MODEL = "There is no model 'none' here; there are: pocket."
EXAMPLES = 4  # that schemathesis makes up for each operation and phase
# Where schemathesis may be wrong about this server, with the reason.
SCHEMATHESIS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503", "504"]  # a full queue; the request's own deadline
"""
# What a mask or two fields together ask for, no schema can tell; DELETE cancels a job, which stays visible.
NOT_CHECKED = "positive_data_acceptance,use_after_free"


@dataclass(frozen=True, slots=True)
class Served:
    """A running server, and what the clients send it."""

    address: str
    folder: Path  # of its data
    image: Path  # 128 x 96, noise
    mask: Path  # its left half is white
    site: str | None

    @property
    def api(self) -> str:
        """Where OpenAI's clients look."""
        return f"{self.address}/v1"


def opened(data: str | bytes) -> Image.Image:
    """Open an image of base64, or of bytes."""
    image = Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))
    image.load()
    return image


def kept(data: str | bytes, served: Served) -> bool:
    """Return whether an edit has left what its mask keeps, and changed the rest."""
    drawn, image = np.asarray(opened(data)), np.asarray(Image.open(served.image))
    return np.array_equal(drawn[:, 64:], image[:, 64:]) and not np.array_equal(drawn, image)


def fetched(address: str) -> bytes:
    """Return what is at an address, without a key."""
    import httpx

    return httpx.get(address).raise_for_status().content


@contextmanager
def refuses(error: type[Exception], sentence: str) -> Iterator[None]:
    """Expect a client's own exception with our sentence in it."""
    try:
        yield
    except error as caught:
        if sentence in str(caught):
            return
        raise
    raise AssertionError(f"it was accepted, not refused with {sentence!r}")


def use_openai(client: Client, served: Served) -> None:
    """OpenAI's client, as docs/serve.md shows it."""
    import openai

    api = openai.OpenAI(base_url=served.api, api_key="none", max_retries=0)
    draw: Any = api.images.generate
    with client.does("models.list, retrieve"):
        assert [one.id for one in api.models.list()] == ["pocket"]
        assert api.models.retrieve("pocket").id == "pocket"
    with client.does("generate as b64, n = 2"):
        reply = draw(prompt="a red apple", n=2, size=SIZE, extra_body=SMALL)
        assert [opened(one.b64_json).size for one in reply.data] == [(256, 256)] * 2
        assert [one.metadata["seed"] for one in reply.data] == [7, 8]
    with client.does("as url"):
        [one] = draw(prompt="a red apple", model="pocket", response_format="url", extra_body=SMALL).data
        assert opened(fetched(one.url)).size == (256, 256)
    with client.does("edit with mask"), served.image.open("rb") as image, served.mask.open("rb") as mask:
        reply = api.images.edit(image=image, mask=mask, prompt="a pear", extra_body=SMALL)
        assert reply.data
        assert kept(reply.data[0].b64_json or "", served)
    with client.does("edit of a list"), served.image.open("rb") as image:
        assert len(api.images.edit(image=[image], prompt="a pear", n=2, extra_body=SMALL).data or []) == 2
    with client.does("stream"):
        events = list(draw(prompt="a fox", stream=True, partial_images=2, extra_body={"steps": 4}))
        kinds = ["partial_image", "partial_image", "completed"]
        assert [event.type for event in events] == [f"image_generation.{kind}" for kind in kinds]
        assert opened(events[-1].b64_json).size == (256, 256)
    with client.does("wrong size"), refuses(openai.BadRequestError, WRONG_SIZE):
        draw(prompt="a fox", size="50x50")
    with client.does("unknown model"), refuses(openai.NotFoundError, WRONG_MODEL):
        draw(prompt="a fox", model="none")
    with client.does("unknown field"), refuses(openai.BadRequestError, "did you mean 'guidance'"):
        draw(prompt="a fox", extra_body={"guidence": 3})


def use_openai_keys(client: Client, served: Served, key: str) -> None:
    """The same, where a key is needed."""
    import openai

    with client.does("key"):
        assert openai.OpenAI(base_url=served.api, api_key=key).models.list().data
    with client.does("wrong key"), refuses(openai.AuthenticationError, "key"):
        openai.OpenAI(base_url=served.api, api_key="none", max_retries=0).images.generate(prompt="a fox")


def use_litellm(client: Client, served: Served) -> None:
    """LiteLLM, which speaks to any server of OpenAI's API as provider openai."""
    import litellm

    litellm.suppress_debug_info = True
    to: Any = {"api_base": served.api, "api_key": "none"}
    with client.does("get_valid_models"):
        asked = {"check_provider_endpoint": True, "custom_llm_provider": "openai"}
        assert litellm.get_valid_models(**asked, **to) == ["pocket"]
    with client.does("image_generation as b64, n = 2"):
        own = {"size": SIZE, "extra_body": SMALL}
        reply: Any = litellm.image_generation("a red apple", model="openai/pocket", n=2, **own, **to)
        assert [opened(one.b64_json).size for one in reply.data] == [(256, 256)] * 2
    with client.does("as url"):
        own = {"extra_body": {"response_format": "url", **SMALL}}
        reply = litellm.image_generation("a red apple", model="openai/pocket", **own, **to)
        assert opened(fetched(reply.data[0].url)).size == (256, 256)
    with (
        client.does("image_edit with mask"),
        served.image.open("rb") as image,
        served.mask.open("rb") as mask,
    ):
        reply = litellm.image_edit(image, "a pear", model="openai/pocket", mask=mask, **SMALL, **to)
        assert kept(reply.data[0].b64_json, served)
    with client.does("wrong size"), refuses(litellm.BadRequestError, WRONG_SIZE):
        litellm.image_generation("a fox", model="openai/pocket", size="50x50", **to)
    with client.does("unknown model"), refuses(litellm.NotFoundError, WRONG_MODEL):
        litellm.image_generation("a fox", model="openai/none", **to)


def use_litellm_keys(client: Client, served: Served, key: str) -> None:
    """The same, where a key is needed."""
    import litellm

    own: Any = {"model": "openai/pocket", "api_base": served.api, "extra_body": SMALL}
    with client.does("key"):
        assert litellm.image_generation("a fox", api_key=key, **own).data
    with client.does("wrong key"), refuses(litellm.AuthenticationError, "key"):
        litellm.image_generation("a fox", api_key="none", **own)


def curl(served: Served, path: str, *options: str) -> tuple[int, str]:
    """Return status and body of an answer."""
    said = run("curl", "-s", "-w", "\n%{http_code}", *options, served.address + path).stdout
    body, _, status = said.rpartition("\n")
    return int(status), body


def use_curl(client: Client, served: Served) -> None:
    """curl, as docs/serve.md shows it, and with forms as browsers send them."""
    as_json = ("-H", "Content-Type: application/json", "-d")
    with client.does("JSON, url, HEAD of both"):
        body = json.dumps({"prompt": "a red apple", "response_format": "url", **SMALL})
        status, answer = curl(served, "/v1/images/generations", *as_json, body)
        url = json.loads(answer)["data"][0]["url"]
        assert (status, opened(fetched(url)).size) == (200, (256, 256))
        for address in (url, f"{served.api}/models"):
            head = run("curl", "-sI", address).stdout
            assert head.startswith("HTTP/1.1 200")
            assert int(re.findall(r"(?i)content-length: (\d+)", head)[0]) == len(fetched(address))
    with client.does("form with mask and empty fields"):
        form = ["-F", f"image=@{served.image}", "-F", f"mask=@{served.mask}", "-F", "prompt=a pear"]
        form += ["-F", "negative_prompt=", "-F", "seed=7", "-F", "steps=2"]
        status, answer = curl(served, "/v1/images/edits", *form)
        assert kept(json.loads(answer)["data"][0]["b64_json"], served)
    with client.does("stream"):
        body = json.dumps({"prompt": "a fox", "stream": True, "partial_images": 1, **SMALL})
        _, answer = curl(served, "/v1/images/generations", "-N", *as_json, body)
        assert answer.count("event: image_generation.") == 2
    with client.does("wrong size, unknown model, no image, wrong method"):
        for path, options, status, sentence in (
            ("/v1/images/generations", (*as_json, '{"prompt": "x", "size": "50x50"}'), 400, WRONG_SIZE),
            ("/v1/images/generations", (*as_json, '{"prompt": "x", "model": "none"}'), 404, WRONG_MODEL),
            ("/v1/images/edits", ("-F", "prompt=x"), 400, "an edit needs an image to start from"),
            ("/v1/images/generations", (), 405, "GET is not supported"),
        ):
            came = curl(served, path, *options)
            assert came[0] == status, came
            assert sentence in json.loads(came[1])["error"]["message"], came


def use_curl_keys(client: Client, served: Served, key: str) -> None:
    """The same, where a key is needed."""
    with client.does("key, none, a wrong one"):
        statuses = [
            curl(served, "/v1/models", "-H", f"Authorization: Bearer {one}")[0] for one in (key, "none")
        ]
        assert [*statuses, curl(served, "/v1/models")[0]] == [200, 401, 401]


def httpie(served: Served, *words: str) -> tuple[int, Any]:
    """Return status and JSON of an answer."""
    environment = os.environ | ({"PYTHONPATH": served.site} if served.site else {})
    command = (sys.executable, "-m", "httpie", "--ignore-stdin", "--print=hb", "--pretty=none", *words)
    said = run(*command, env=environment).stdout
    head, _, body = said.replace("\r\n", "\n").partition("\n\n")
    return int(head.split()[1]), json.loads(body) if body else None


def use_httpie(client: Client, served: Served) -> None:
    """HTTPie with JSON, forms and HEAD."""
    draw, edit = f"{served.api}/images/generations", f"{served.api}/images/edits"
    with client.does("JSON"):
        status, body = httpie(served, draw, "prompt=a red apple", "steps:=2", "response_format=url")
        assert (status, opened(fetched(body["data"][0]["url"])).size) == (200, (256, 256))
    with client.does("--form with image and mask"):
        files = (f"image@{served.image}", f"mask@{served.mask}")
        status, body = httpie(served, "--form", edit, *files, "prompt=a pear", "steps=2")
        assert kept(body["data"][0]["b64_json"], served)
    with client.does("HEAD"):
        assert httpie(served, "HEAD", f"{served.api}/models") == (200, None)
    with client.does("text for a number, wrong size, form for JSON, JSON for a form"):
        for words, sentence in (
            ((draw, "prompt=x", "steps=2"), "steps: Input should be a valid integer."),
            ((draw, "prompt=x", "size=50x50"), WRONG_SIZE),
            (("--form", draw, "prompt=x"), "The body must be a JSON object"),
            ((edit, "prompt=x"), "An edit must be a form"),
        ):
            status, body = httpie(served, *words)
            assert (status, sentence in body["error"]["message"]) == (400, True), body


def use_httpie_keys(client: Client, served: Served, key: str) -> None:
    """The same, where a key is needed."""
    with client.does("key, a wrong one"):
        for token, status in ((key, 200), ("none", 401)):
            assert httpie(served, "-A", "bearer", "-a", token, f"{served.api}/models")[0] == status


def use_gradio_client(client: Client, served: Served) -> None:
    """The endpoints of the page, as docs/ui.md shows them. served: by `sana ui`."""
    from gradio_client import Client as Page
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    page = Page(served.address, download_files=served.folder.parent, verbose=False)
    with client.does("view_api"):
        assert list(page.view_api(print_info=False, return_format="dict")["named_endpoints"]) == [
            "/generate",
            "/edit",
        ]
    with client.does("/generate, num_images = 2"):
        files, told = page.predict("a red apple", num_images=2, api_name="/generate", **SMALL)
        assert [opened(Path(file).read_bytes()).size for file in files] == [(256, 256)] * 2
        assert [one["seed"] for one in told["images"]] == [7, 8]
    with client.does("/edit with mask"):
        image, mask = handle_file(served.image), handle_file(served.mask)
        [file], _ = page.predict(image, "a pear", mask, steps=2, api_name="/edit")
        assert kept(Path(file).read_bytes(), served)
    with client.does("wrong size"), refuses(AppError, "Width: use a whole number from 64 to 4096."):
        page.predict("a fox", width=50, api_name="/generate")
    with client.does("unknown model"), refuses(AppError, "none is not in the list of choices: ['pocket']"):
        page.predict("a fox", model="none", api_name="/generate")


def use_gradio_client_keys(client: Client, served: Served, key: str) -> None:
    """The same, where a login is needed: a key's name, and the key."""
    from gradio_client import Client as Page

    with client.does("login"):
        page = Page(served.address, auth=("ann", key), download_files=served.folder.parent, verbose=False)
        assert page.predict("a red apple", api_name="/generate", **SMALL)[0]
    with client.does("wrong login"), refuses(ValueError, "Could not login"):
        Page(served.address, auth=("ann", "none"), verbose=False)


def use_schemathesis_keys(client: Client, served: Served, key: str) -> None:
    """Requests that it makes up from /openapi.json, right and wrong, with a key: all checks but two."""
    settings = served.folder.parent / "schemathesis.toml"
    settings.write_text(SCHEMATHESIS)
    program = str(Path(sys.executable).with_name("st"))
    options = f"--exclude-checks {NOT_CHECKED} --max-examples {EXAMPLES} --seed 1"
    options += " --continue-on-failure --request-timeout 300"
    with client.does(f"{EXAMPLES} examples of each operation and phase, all checks but two"):
        key_header = f"Authorization: Bearer {key}"
        schema = f"{served.address}/openapi.json"
        words = ("--config-file", str(settings), "run", schema, "-H", key_header, *options.split())
        run(program, *words, cwd=settings.parent)  # where it leaves its findings

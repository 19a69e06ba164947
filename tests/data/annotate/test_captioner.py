"""Captioners ask a server, or a model of transformers, and give one line an image."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from sanakit.data.annotate.captioner import captioner_name, endpoint_captioner, transformers_captioner
from sanakit.errors import BusyError, MissingExtraError, ModelNotFoundError, SettingsError, WeightsError
from sanakit.weights.read.header import write_safetensors

Answer = tuple[int, dict]


class Endpoint(ThreadingHTTPServer):
    """A server of chat completions whose answers a test chooses, by the number of the question."""

    def __init__(self, answer: Callable[[int, dict], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.questions: list[dict] = []
        self.keys: list[str | None] = []
        self.open, self.most_open = 0, 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.questions)
            self.server.questions.append({"path": self.path} | question)
            self.server.keys.append(self.headers["Authorization"])
            self.server.open += 1
            self.server.most_open = max(self.server.most_open, self.server.open)
        status, body = self.server.answer(number, question)
        with self.server.lock:
            self.server.open -= 1
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        with suppress(BrokenPipeError):  # who asked has stopped waiting
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def says(text: str | None) -> Answer:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def colour(question: dict) -> str:
    """Name what the image of a question mostly is, to show that it arrived."""
    address = question["messages"][0]["content"][0]["image_url"]["url"]
    head, content = address.split(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        pixel = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return ("red", "green", "blue")[max(range(3), key=lambda channel: pixel[channel])]


def refuses(status: int, words: str) -> Answer:
    return status, {"error": {"message": words, "type": "error", "code": None}}


@pytest.fixture
def serving() -> Iterator[Callable[[Callable[[int, dict], Answer]], Endpoint]]:
    begun = []

    def serve(answer: Callable[[int, dict], Answer]) -> Endpoint:
        server = Endpoint(answer)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        begun.append(server)
        return server

    yield serve
    for server in begun:
        server.shutdown()
        server.server_close()


def pictures(*colours: str, side: int = 8) -> list[Image.Image]:
    return [Image.new("RGB", (side, side), colour) for colour in colours]


def test_each_picture_gets_the_answer_to_its_own_question(serving) -> None:
    server = serving(lambda number, question: says(f" A {colour(question)}\n square. "))
    caption = endpoint_captioner(server.url, "seer", "secret", prompt="What is it?", max_tokens=17)
    colours = ["red", "lime", "blue", "lime", "red"]
    assert caption(pictures(*colours)) == [f"A {c.replace('lime', 'green')} square." for c in colours]
    question = server.questions[0]
    assert question["path"] == "/v1/chat/completions"
    assert (question["model"], question["max_tokens"]) == ("seer", 17)
    assert question["messages"][0]["content"][1] == {"type": "text", "text": "What is it?"}
    assert set(server.keys) == {"Bearer secret"}


def test_without_a_key_none_of_the_environment_is_sent(serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "somebody's")
    server = serving(lambda number, question: says("A square."))
    endpoint_captioner(server.url, "seer")(pictures("red"))
    assert server.keys == ["Bearer none"]


def test_large_pictures_are_sent_smaller(serving) -> None:
    sizes = []

    def answer(number: int, question: dict) -> Answer:
        content = question["messages"][0]["content"][0]["image_url"]["url"].split(",")[1]
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            sizes.append(image.size)
        return says("Wide.")

    image = Image.new("RGB", (4096, 1024))
    endpoint_captioner(serving(answer).url, "seer")([image])
    assert sizes == [(1024, 256)]
    assert image.size == (4096, 1024)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(serving, status: int) -> None:
    server = serving(lambda number, _: refuses(status, "later") if number < 2 else says("A square."))
    assert endpoint_captioner(server.url, "seer")(pictures("red")) == ["A square."]
    assert len(server.questions) == 3


def test_a_server_that_stays_busy_is_an_error_that_says_what_to_do(serving) -> None:
    server = serving(lambda number, _: refuses(429, "quota"))
    with pytest.raises(BusyError, match=r"429, 3 times: .*quota.*continues"):
        endpoint_captioner(server.url, "seer", retries=2)(pictures("red"))
    assert len(server.questions) == 3


def test_an_answer_that_takes_too_long_is_asked_for_again(serving) -> None:
    stuck = threading.Event()

    def answer(number: int, _: dict) -> Answer:
        if number == 0:
            stuck.wait(30)
        return says("A square.")

    server = serving(answer)
    try:
        assert endpoint_captioner(server.url, "seer", timeout=0.3)(pictures("red")) == ["A square."]
    finally:
        stuck.set()
    assert len(server.questions) == 2


def test_no_server_at_all_is_a_sentence(serving) -> None:
    server = serving(lambda number, _: says("never"))
    server.shutdown()
    server.server_close()
    with pytest.raises(BusyError, match="does not answer"):
        endpoint_captioner(server.url, "seer", retries=0)(pictures("red"))


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [(401, SettingsError, "--key"), (404, ModelNotFoundError, "'seer'"), (405, SettingsError, "405")],
)
def test_a_refusal_of_all_questions_is_an_error_without_retries(serving, status: int, kind: type, words: str):
    server = serving(lambda number, _: refuses(status, "no, secret"))
    with pytest.raises(kind, match=words) as caught:
        endpoint_captioner(server.url, "seer", "secret", concurrency=1)(pictures("red"))
    assert len(server.questions) == 1
    assert "secret" not in str(caught.value)


def test_a_refused_picture_has_no_caption_and_the_others_have_theirs(serving) -> None:
    server = serving(lambda n, q: refuses(400, "unsafe") if colour(q) == "red" else says("Fine."))
    caption = endpoint_captioner(server.url, "seer")
    with pytest.warns(UserWarning, match="refused an image: .*unsafe"):
        assert caption(pictures("red", "blue")) == ["", "Fine."]


@pytest.mark.parametrize("answer", [says(None), (200, {"id": "1", "choices": []})])
def test_an_empty_answer_is_no_caption(serving, answer: Answer) -> None:
    server = serving(lambda number, _: answer)
    assert endpoint_captioner(server.url, "seer")(pictures("red")) == [""]


def test_no_more_questions_are_open_at_once_than_allowed(serving) -> None:
    together = threading.Barrier(3)

    def answer(number: int, _: dict) -> Answer:
        together.wait(10)  # passes three at a time: fewer at once would never get through
        return says("A square.")

    server = serving(answer)
    begun = time.monotonic()
    assert len(endpoint_captioner(server.url, "seer", concurrency=3)(pictures(*["red"] * 9))) == 9
    assert server.most_open == 3
    assert time.monotonic() - begun < 10


def test_addresses_and_numbers_are_checked() -> None:
    with pytest.raises(SettingsError, match="localhost:8000/v1"):
        endpoint_captioner("localhost:8000", "seer")
    with pytest.raises(SettingsError, match="at least 1"):
        endpoint_captioner("http://localhost:8000/v1", "seer", concurrency=0)


@pytest.mark.parametrize(
    ("package", "make", "words"),
    [
        ("openai", endpoint_captioner, ("http://localhost:8000/v1", "seer")),
        ("transformers", transformers_captioner, ("folder",)),
    ],
)
def test_without_the_extra_it_is_named(
    package: str, make: Callable, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*sanakit\[caption\]"):
        make(*words)


@pytest.fixture(scope="module")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA of random weights, with a tokenizer of 40 words."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("vlm")
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:", "what", "is", "it"]
    words += [f"word{index}" for index in range(30)]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    size = {"height": 16, "width": 16}
    pixels = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size)
    template = (
        "{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'image' %}<image> "
        "{% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}ASSISTANT:"
    )
    transformers.LlavaProcessor(
        image_processor=pixels,
        tokenizer=fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    side = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(image_size=16, patch_size=8, **side),
        text_config=transformers.LlamaConfig(
            vocab_size=len(words),
            num_key_value_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **side,
        ),
        image_token_index=4,
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_a_model_of_transformers_captions_alone_as_in_a_batch(tiny_vlm: Path) -> None:
    caption = transformers_captioner(tiny_vlm, "what is it", max_tokens=5, device="cpu")
    images = [*pictures("red", "blue"), Image.radial_gradient("L").convert("RGB")]
    together = caption(images)
    assert together == [caption([image])[0] for image in images]
    assert all("word" in text and "USER" not in text for text in together)
    assert len(set(together)) > 1  # the images reach the model


def test_a_model_without_chat_template_can_not_be_asked(tiny_vlm: Path, tmp_path: Path) -> None:
    for file in tiny_vlm.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(WeightsError, match="chat template"):
        transformers_captioner(tmp_path, device="cpu")


def test_what_is_no_captioning_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not a file or folder here"):
        transformers_captioner(tmp_path / "nothing", device="cpu")


def test_a_captioner_is_known_by_its_weights_and_its_question(tmp_path: Path) -> None:
    names = []
    for number, value in enumerate((1.0, 1.0, 2.0)):
        folder = tmp_path / str(number) / "seer"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "seer"}')
        write_safetensors(folder / "model.safetensors", {"a": torch.full((3,), value)}, torch.float32)
        names.append(captioner_name(folder))
    assert names[0] == names[1] != names[2]
    assert {name.partition("@")[0] for name in names} == {"seer"}
    assert captioner_name(folder, "What is it?") != names[2]
    assert captioner_name("org/seer", remote=True) == "seer"
    assert captioner_name("org/seer", "What is it?", remote=True) != "seer"


def test_captions_of_clips_are_known_by_the_number_of_frames_shown() -> None:
    """Else captions by four frames would pass for those by one, and never be asked for."""
    names = [captioner_name("org/seer", remote=True, frames=frames) for frames in (None, 1, 4)]
    assert len({*names}) == 3
    assert captioner_name("org/seer", "What moves?", remote=True, frames=4) not in names

"""The nodes by ComfyUI's protocol, without ComfyUI: classes that declare inputs, outputs and a function."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sanakit.adapters.describe import known_models
from sanakit.adapters.save import save_adapter
from sanakit.comfy import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from sanakit.errors import ModelNotFoundError, SettingsError, SizeError
from sanakit.eval.metrics.similarity import psnr
from sanakit.images.image import to_pil
from sanakit.models.sana import Sana
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.text_to_image import TextToImage
from tests.adapters.loras import lora
from tests.comfy.calling import SMALL, call, inputs

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "examples" / "comfyui").glob("*-api.json"))
# ComfyUI's own nodes that the example workflows use: their inputs, and the types that they give.
THEIRS = {
    "SaveImage": ({"images", "filename_prefix"}, ()),
    "LoadImage": ({"image"}, ("IMAGE", "MASK")),
    "LoadVideo": ({"file"}, ("VIDEO",)),
    "GetVideoComponents": ({"video"}, ("IMAGE", "AUDIO", "FLOAT")),
    "CreateVideo": ({"images", "fps"}, ("VIDEO",)),
    "SaveVideo": ({"video", "filename_prefix", "format", "codec"}, ()),
}

every_node = pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS.values(), ids=NODE_CLASS_MAPPINGS)


@pytest.fixture
def inks(tmp_path: Path) -> list[Path]:
    """Two adapters of the embedded model."""
    config = known_models()["pocket"]
    made = [lora(["blocks.0.attn.qkv", "blocks.1.mlp.point_conv.conv"], config, seed=n) for n in (1, 2)]
    return [save_adapter(tmp_path / f"ink{n}.safetensors", one, config) for n, one in enumerate(made)]


def test_an_adapter_is_added_and_the_model_stays_as_it_is(model: TextToImage, inks: list[Path]) -> None:
    def draw(one: TextToImage) -> Tensor:
        [image] = call("SanakitTextToImage", one, prompt="a red apple", seed=3, steps=2)
        return image

    before = draw(model)
    [first] = call("SanakitLoadAdapter", model, weight=0.5, path=f" {inks[0]} ")
    [both] = call("SanakitLoadAdapter", first, weight=-1.0, path=str(inks[1]))
    images = [draw(one) for one in (first, both, model)]
    assert torch.equal(images[2], before)
    assert not torch.equal(images[0], before)
    assert not torch.equal(images[1], images[0])
    assert (first.adapters, both.adapters) == ({"ink0": 0.5}, {"ink0": 0.5, "ink1": -1.0})
    assert call("SanakitLoadAdapter", model)[0] is model
    with pytest.raises(SettingsError, match=r"The adapter 'gone.safetensors' left"):
        call("SanakitLoadAdapter", model, adapter="gone.safetensors")


def test_adapters_of_comfyuis_folder_are_offered(
    model: TextToImage, inks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = SimpleNamespace(get_folder_paths=lambda kind: [str(inks[0].parent)] if kind == "loras" else [])
    monkeypatch.setitem(sys.modules, "folder_paths", paths)  # pyright: ignore[reportArgumentType]
    names = inputs(NODE_CLASS_MAPPINGS["SanakitLoadAdapter"])["adapter"][0]
    assert names == ["none", "ink0.safetensors", "ink1.safetensors"]
    assert call("SanakitLoadAdapter", model, adapter="ink1.safetensors")[0].adapters == {"ink1": 1.0}


@pytest.fixture(scope="module")
def sprint(model: TextToImage) -> TextToImage:
    """A SANA-Sprint model of random weights, with the other parts of the embedded one."""
    torch.manual_seed(0)
    transformer = Sana(replace(model.transformer.config, guidance_embed=True, qk_norm=True, time_scale=1.0))
    own = replace(model.settings, name="sprint", solver="scm", steps=2)
    return TextToImage(transformer.eval(), model.autoencoder, model.text_encoder, own)


def square(side: int, low: int, high: int) -> Tensor:
    mask = torch.zeros(1, side, side)
    mask[:, low:high, low:high] = 1
    return mask


# the protocol


@every_node
def test_a_node_declares_what_comfyui_asks_for(node: type) -> None:
    function = getattr(node, node.FUNCTION)
    assert set(inspect.signature(function).parameters) - {"self"} == set(inputs(node))
    optional = {
        name for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty
    }
    assert optional == set(node.INPUT_TYPES().get("optional", {}))
    assert all(isinstance(kind, str) and kind.isupper() for kind in node.RETURN_TYPES)
    assert len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)) == len(node.RETURN_TYPES)
    assert node.CATEGORY
    assert node.DESCRIPTION


@every_node
def test_a_default_lies_in_its_range(node: type) -> None:
    for name, (kind, *rest) in inputs(node).items():
        own = rest[0] if rest else {}
        if isinstance(kind, list):
            assert own["default"] in kind, name
        elif kind in ("INT", "FLOAT"):
            assert own["min"] <= own["default"] <= own["max"], name


def test_a_sprint_model_draws_with_what_the_widgets_hold_at_first(sprint: TextToImage, apple: Tensor) -> None:
    """Of its two steps, 0.6 would be all."""
    texts = call("SanakitTextEncode", sprint)
    [latent] = call("SanakitEncode", sprint, apple)
    for more in ({}, {"latent": latent}):
        [drawn] = call("SanakitSampler", sprint, *texts, **more)
        assert drawn["samples"].shape == (1, 32, 8, 8)
    for key, given in {
        "SanakitTextToImage": (),
        "SanakitImageToImage": (apple,),
        "SanakitInpaint": (apple, square(256, 64, 128)),
    }.items():
        [image] = call(key, sprint, *given)
        assert image.shape == (1, 256, 256, 3), key


def test_a_strength_of_the_models_own_is_the_one_of_the_other_ways_to_edit(
    model: TextToImage, sprint: TextToImage, apple: Tensor
) -> None:
    [picture] = to_pil(apple.permute(0, 3, 1, 2) * 2 - 1)
    for pipe, strength in ((model, 0.6), (sprint, 0.5)):
        [drawn] = call("SanakitImageToImage", pipe, apple, seed=2)
        [image] = to_pil(drawn.permute(0, 3, 1, 2) * 2 - 1)
        expected = ImageToImage(pipe)(picture, "a red apple", strength=strength, seed=2).images[0]
        assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("key", "name", "limits"), [("SanakitInpaint", "feather", (0, 64)), ("SanakitExpand", "left", (0, 4096))]
)
def test_the_ends_of_a_widgets_range_are_taken(
    model: TextToImage, apple: Tensor, key: str, name: str, limits: tuple[int, int]
) -> None:
    own = inputs(NODE_CLASS_MAPPINGS[key])[name][1]
    assert (own["min"], own["max"]) == limits
    given = (model, apple, square(256, 0, 200)) if key == "SanakitInpaint" else (apple,)
    steps = {"steps": 1} if key == "SanakitInpaint" else {"right": 1}
    for limit in limits:
        assert call(key, *given, **steps, **{name: limit})[0].shape[3] == 3


def test_every_node_has_a_name_to_show() -> None:
    assert set(NODE_DISPLAY_NAME_MAPPINGS) == set(NODE_CLASS_MAPPINGS)


def test_the_folder_for_custom_nodes_gives_the_same_nodes() -> None:
    path = ROOT / "deploy" / "comfyui" / "sanakit" / "__init__.py"
    spec = spec_from_file_location("a_custom_node", path)  # as ComfyUI does, whatever the folder is called
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS is NODE_CLASS_MAPPINGS
    assert module.NODE_DISPLAY_NAME_MAPPINGS is NODE_DISPLAY_NAME_MAPPINGS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_uses_nodes_inputs_and_links_that_exist(path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    types = {name: node.RETURN_TYPES for name, node in NODE_CLASS_MAPPINGS.items()}
    types |= {name: gives for name, (_, gives) in THEIRS.items()}
    for step in workflow.values():
        name, given = step["class_type"], step["inputs"]
        if name in THEIRS:
            assert set(given) == THEIRS[name][0]
            continue
        declared = inputs(NODE_CLASS_MAPPINGS[name])
        assert set(given) <= set(declared)
        assert set(given) >= set(NODE_CLASS_MAPPINGS[name].INPUT_TYPES()["required"])
        for key, value in given.items():
            if isinstance(value, list):
                assert types[workflow[value[0]]["class_type"]][value[1]] == declared[key][0], key


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_workflow_to_open_in_the_page_says_the_same(path: Path) -> None:
    """The page's form holds widgets by position: we read it as the page does."""
    api = json.loads(path.read_text(encoding="utf-8"))
    page = json.loads(path.with_name(path.name.replace("-api", "")).read_text(encoding="utf-8"))
    links = {link[0]: [str(link[1]), link[2]] for link in page["links"]}
    assert {str(node["id"]): node["type"] for node in page["nodes"]} == {
        key: step["class_type"] for key, step in api.items()
    }
    for node in page["nodes"]:
        given = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        if node["type"] in NODE_CLASS_MAPPINGS:
            values = iter(node["widgets_values"])
            for name, (kind, *rest) in inputs(NODE_CLASS_MAPPINGS[node["type"]]).items():
                if isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING"):
                    value = next(values)
                    given.setdefault(name, value)  # a widget that a link was drawn to keeps its place
                    if rest[0].get("control_after_generate"):
                        assert next(values) in ("fixed", "randomize", "increment", "decrement")
            assert list(values) == []
            assert given == api[str(node["id"])]["inputs"]


# what the nodes draw


def test_the_chain_of_nodes_draws_what_text_to_image_draws(model: TextToImage, texts: tuple) -> None:
    [latent] = call("SanakitSampler", model, *texts, seed=3, batch_size=2)
    [image] = call("SanakitDecode", model, latent)
    expected = model("a red apple", seed=3, num_images=2, output="pt").images
    assert isinstance(expected, Tensor)
    assert image.shape == (2, 256, 256, 3)
    assert image.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1
    assert (image - (expected.permute(0, 2, 3, 1) + 1) / 2).abs().max() < 1 / 255


def test_the_text_to_image_node_draws_what_text_to_image_draws(model: TextToImage, apple: Tensor) -> None:
    [picture] = to_pil(apple.permute(0, 3, 1, 2) * 2 - 1)
    assert picture.tobytes() == model("a red apple", seed=3).images[0].tobytes()


def test_the_image_nodes_read_weights_on_request(model: TextToImage, apple: Tensor) -> None:
    words = {"model": model, "prompt": "a (red:4) apple", "seed": 3, "steps": 1}
    for key, given in (
        ("SanakitTextToImage", {}),
        ("SanakitImageToImage", {"image": apple, "strength": 1.0}),
    ):
        [read] = call(key, **words, **given, prompt_weights=True)
        with pytest.warns(UserWarning, match="prompt weights"):
            [text] = call(key, **words, **given)
        assert not torch.equal(read, text)


def test_a_latent_holds_what_the_autoencoder_gives(model: TextToImage, apple: Tensor) -> None:
    """Unscaled, as ComfyUI keeps the latents of every model between two nodes."""
    [latent] = call("SanakitEncode", model, apple)
    with torch.no_grad():
        expected = model.autoencoder.encode(apple.permute(0, 3, 1, 2) * 2 - 1)
    torch.testing.assert_close(latent["samples"], expected)


def test_encoding_and_decoding_gives_the_image_back(model: TextToImage, apple: Tensor) -> None:
    [latent] = call("SanakitEncode", model, apple)
    [again] = call("SanakitDecode", model, latent)
    assert latent["samples"].shape == (1, 32, 8, 8)
    assert psnr(*(image.permute(0, 3, 1, 2) * 2 - 1 for image in (again, apple))) > 30


def test_encoding_cuts_the_middle_out_of_other_sizes(model: TextToImage, apple: Tensor) -> None:
    [whole] = call("SanakitEncode", model, apple[:, 16:240, 32:224])
    framed = apple[:, 8:248, 24:232]  # 240 x 208: 16 px more on each side than 224 x 192
    [cut] = call("SanakitEncode", model, framed)
    torch.testing.assert_close(cut["samples"], whole["samples"])


def test_less_strength_stays_nearer_to_the_latent(model: TextToImage, apple: Tensor) -> None:
    [latent] = call("SanakitEncode", model, apple)
    texts = call("SanakitTextEncode", model, prompt="a green pear")
    distance = []
    for strength in (0.2, 0.5, 1.0):
        [drawn] = call("SanakitSampler", model, *texts, latent=latent, strength=strength)
        distance.append((drawn["samples"] - latent["samples"]).square().mean().item())
    assert 0 < distance[0] < distance[1] < distance[2]


def test_strength_0_gives_the_latent_itself(model: TextToImage, texts: tuple, apple: Tensor) -> None:
    [latent] = call("SanakitEncode", model, apple)
    [kept] = call("SanakitSampler", model, *texts, latent=latent, strength=0.0)
    assert torch.equal(kept["samples"], latent["samples"])


def test_full_strength_forgets_the_latent(model: TextToImage, texts: tuple) -> None:
    [fresh] = call("SanakitSampler", model, *texts, **SMALL, seed=4)
    [same] = call(
        "SanakitSampler", model, *texts, steps=2, seed=4, latent={"samples": torch.rand(1, 32, 2, 2)}
    )
    torch.testing.assert_close(same["samples"], fresh["samples"])


def test_a_noise_mask_keeps_the_latents_outside_and_is_passed_on(
    model: TextToImage, texts: tuple, apple: Tensor
) -> None:
    [latent] = call("SanakitEncode", model, apple)
    latent["noise_mask"] = square(256, 64, 128)[None]  # as Set Latent Noise Mask does
    [drawn] = call("SanakitSampler", model, *texts, steps=3, latent=latent)
    moved = (drawn["samples"] - latent["samples"]).abs().amax(dim=1)[0]
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:4, 2:4] = True
    assert moved[inside].min() > 0.01
    assert moved[~inside].max() < 1e-4
    assert drawn["noise_mask"] is latent["noise_mask"]


def test_image_to_image_draws_each_image_of_a_batch_in_its_size(model: TextToImage, apple: Tensor) -> None:
    batch = torch.cat([apple, apple.flip(2)])[:, :200, :240]
    [drawn] = call("SanakitImageToImage", model, batch, prompt="a green pear", steps=3, seed=5)
    [second] = call("SanakitImageToImage", model, batch[1:], prompt="a green pear", steps=3, seed=6)
    assert drawn.shape == (2, 200, 240, 3)
    assert (drawn[1] - second[0]).abs().max() < 1.5 / 255


def test_inpainting_keeps_every_pixel_outside_the_mask(model: TextToImage, apple: Tensor) -> None:
    mask = square(256, 80, 176)
    [drawn] = call("SanakitInpaint", model, apple, mask, prompt="a yellow star", steps=3)
    outside = mask[0] == 0
    assert torch.equal(drawn[0][outside], apple[0][outside])
    assert (drawn[0][~outside] - apple[0][~outside]).abs().mean() > 0.02


def test_an_expanded_image_is_drawn_beyond_its_edge(model: TextToImage, apple: Tensor) -> None:
    canvas, mask = call("SanakitExpand", apple, left=64)
    [drawn] = call("SanakitInpaint", model, canvas, mask, prompt="a yellow star", steps=3)
    assert drawn.shape == (1, 256, 320, 3)
    assert mask.shape == (1, 256, 320)
    assert torch.equal(drawn[:, :, 64:], apple)
    assert not torch.equal(drawn[:, :, :64], canvas[:, :, :64])


def test_a_mask_of_another_size_is_scaled(model: TextToImage, apple: Tensor) -> None:
    [drawn] = call("SanakitInpaint", model, apple, square(64, 16, 48), prompt="a star", steps=2)
    assert torch.equal(drawn[:, :60], apple[:, :60])
    assert not torch.equal(drawn, apple)


def test_concatenated_conditionings_are_one_longer_prompt(model: TextToImage, texts: tuple) -> None:
    more = call("SanakitTextEncode", model, prompt="on a table")[0]
    joined = [[torch.cat([texts[0][0][0], more[0][0]], dim=1), {}]]  # as Conditioning (Concat) does
    [drawn] = call("SanakitSampler", model, joined, texts[1], **SMALL)
    [alone] = call("SanakitSampler", model, *texts, **SMALL)
    assert not torch.equal(drawn["samples"], alone["samples"])


# what is refused, and how


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"width": 100}, SizeError, "multiples of 32"),
        ({"strength": 0.5}, SettingsError, "needs an input latent"),
        ({"guidance": -0.5}, SettingsError, "guidance"),
        ({"latent": {"samples": torch.zeros(1, 4, 32, 32)}}, SettingsError, r"\(1, 4, 32, 32\)"),
        ({"positive": []}, SettingsError, "positive holds 0 conditionings"),
        ({"positive": [[torch.zeros(1, 3, 8), {}]]}, SettingsError, r"positive came as \(1, 3, 8\)"),
        ({"positive": [[torch.zeros(1, 3, 8), {"area": 1}]]}, SettingsError, "carries area"),
    ],
)
def test_the_sampler_says_what_is_wrong(
    model: TextToImage, texts: tuple, given: dict, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        call("SanakitSampler", model, *texts, **given)


def test_the_number_of_masks_must_fit(model: TextToImage, apple: Tensor) -> None:
    with pytest.raises(SettingsError, match="2 masks came for 3 images"):
        call("SanakitInpaint", model, apple.expand(3, -1, -1, -1), torch.ones(2, 64, 64))


def test_a_path_wins_over_the_chosen_name() -> None:
    with pytest.raises(ModelNotFoundError, match=r"\./nowhere"):
        call("SanakitLoadModel", path=" ./nowhere ")


def test_a_prompt_that_is_cut_is_warned_of(model: TextToImage) -> None:
    with pytest.warns(UserWarning, match="too long"):
        call("SanakitTextEncode", model, prompt="apple " * 400)

"""Control images: against diffusers' SanaControlNetPipeline, and what requests and pipelines promise."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sanakit import ControlImage
from sanakit.errors import SettingsError
from sanakit.flow.dpm import FlowDPM, dpm_times
from sanakit.flow.euler import Euler, euler_times
from sanakit.flow.scm import SCM, scm_times
from sanakit.images.hints import make_hint
from sanakit.images.image import read_metadata, save
from sanakit.models.controlnet import ControlNet
from sanakit.models.sana import Sana, SanaConfig
from sanakit.pipelines.control import check_controls, size_like, step_times
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights import load_transformer, save_controlnet
from sanakit.weights.control import ControlFile
from tests.pipelines.noises import seeded_noise

TOLERANCE, CONTRAST = 2, 10  # of 255: in every pixel; flatter images could agree by chance
SHAPE = (8, 2, 3)  # C h w of 96 x 64 px
PROMPT = "two green foxes on a table"
DEPTH = 4


def drawing(width: int = 96, height: int = 64) -> Image.Image:
    image = Image.new("RGB", (width, height), (20, 60, 90))
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 8, width // 2, height - 8), fill=(250, 220, 40))
    draw.rectangle((width // 2, height // 3, width - 10, height - 20), fill=(200, 30, 30))
    return image


def random_net(base: Sana, order="native", copies: int = 2, seed: int = 1) -> ControlNet:
    torch.manual_seed(seed)
    net = ControlNet.of(base, copies, order)
    with torch.no_grad():
        for block in net.controlnet:
            for name, parameter in block.named_parameters():
                if "proj" in name.split(".")[0]:
                    parameter.normal_(std=0.3)
    return net.eval()


@pytest.fixture(scope="module")
def base_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, four blocks deep: two copies need three."""
    deep = tmp_path_factory.mktemp("deep") / "model"
    shutil.copytree(folder, deep)
    config = json.loads((deep / "transformer" / "config.json").read_text())
    (deep / "transformer" / "config.json").write_text(json.dumps(config | {"num_layers": DEPTH}))
    from safetensors.torch import load_file, save_file

    file = deep / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    for name in [name for name in state if name.startswith("transformer_blocks.")]:
        _, number, inner = name.split(".", 2)
        state[f"transformer_blocks.{int(number) + 2}.{inner}"] = 0.9 * state[name].flip(0)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return deep


@pytest.fixture(scope="module")
def control_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a SanaControlNetPipeline."""
    folder = tmp_path_factory.mktemp("control") / "model"
    shutil.copytree(base_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "SanaControlNetPipeline", "controlnet": ["diffusers", "SanaControlNetModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    save_controlnet(folder / "controlnet", random_net(load_transformer(folder), "diffusers"))
    return folder


@pytest.fixture(scope="module")
def pipe(control_folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(control_folder, device="cpu")


@pytest.fixture(scope="module")
def plain(base_folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(base_folder, device="cpu")


def pixels(result) -> np.ndarray:
    return np.asarray(result.images[0]).astype(int)


def draw(pipe: TextToImage, control, **settings) -> np.ndarray:
    return pixels(pipe(PROMPT, **{"seed": 3, "steps": 4, "control": control} | settings))


@pytest.mark.parametrize(("scale", "guidance"), [(1.0, 3.0), (0.5, 1.0), (0.0, 3.0)])
def test_diffusers_folder_draws_diffusers_picture(pipe, control_folder, scale, guidance):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = diffusers.SanaControlNetPipeline.from_pretrained(control_folder, local_files_only=True)
    oracle.set_progress_bar_config(disable=True)
    theirs = np.asarray(
        oracle(
            PROMPT,
            control_image=drawing(),
            controlnet_conditioning_scale=scale,
            guidance_scale=guidance,
            num_inference_steps=5,
            latents=seeded_noise([7], SHAPE),
            width=96,
            height=64,
            use_resolution_binning=False,
            max_sequence_length=20,
            complex_human_instruction=["Draw this: "],
        ).images[0]
    ).astype(int)
    settings = {"guidance": guidance, "seed": 7, "steps": 5}
    ours = draw(pipe, ControlImage(drawing(), scale=scale), **settings)
    assert theirs.std() > CONTRAST
    assert np.abs(ours - theirs).max() <= TOLERANCE
    if scale:
        assert np.abs(theirs - draw(pipe, None, **settings)).max() > 20  # the control changes it


def test_scale_zero_and_no_control_are_the_model_itself(pipe, plain):
    alone = draw(plain, None)
    assert np.array_equal(draw(pipe, ControlImage(drawing(), scale=0)), alone)
    result = pipe(PROMPT, seed=3, steps=4)
    assert np.array_equal(pixels(result), alone)
    assert "no control image was given" in result.warnings[0]


def test_a_controlnet_is_given_beside_a_model_in_either_order(base_folder, plain, tmp_path):
    base = load_transformer(base_folder)
    drawn = {}
    for order in ("native", "diffusers"):
        net = save_controlnet(tmp_path / order, random_net(base, order), base)
        pipe = TextToImage.from_pretrained(base_folder, device="cpu", control_model=net)
        assert pipe.controlnets[0].order == order
        drawn[order] = draw(pipe, ControlImage(drawing()))
    assert np.abs(drawn["native"] - drawn["diffusers"]).max() > 20
    assert np.abs(drawn["native"] - draw(plain, None)).max() > 20


def test_several_controls_share_a_net_or_have_one_each(base_folder, tmp_path):
    base = load_transformer(base_folder)
    nets = [save_controlnet(tmp_path / str(i), random_net(base, seed=i), base) for i in (1, 2)]
    first, second = ControlImage(drawing(), scale=0.5), ControlImage(drawing(), kind="edges", scale=0.25)
    both = TextToImage.from_pretrained(base_folder, device="cpu", control_model=nets)
    one = TextToImage.from_pretrained(base_folder, device="cpu", control_model=nets[0])
    # a scale of 0 leaves one out
    silent = replace(second, scale=0.0)
    assert np.array_equal(draw(both, [first, silent]), draw(one, first))
    assert np.array_equal(draw(one, [first, silent]), draw(one, first))
    # the same image twice at half the scale is once at the whole
    half = [first, first]
    assert np.abs(draw(one, half) - draw(one, replace(first, scale=1.0))).max() <= TOLERANCE
    assert np.abs(draw(both, [first, second]) - draw(one, [first, second])).max() > 5
    for images in (first, [first], [first] * 3):
        with pytest.raises(SettingsError, match=r"[13] control images came for 2 ControlNets"):
            both(PROMPT, control=images)


def test_images_of_a_batch_are_those_alone(pipe):
    control = ControlImage(drawing(), kind="soft-edges", scale=0.8)
    result = pipe([PROMPT, "a red apple"], seed=5, num_images=2, steps=3, control=control)
    for number in range(4):
        prompt = [PROMPT, "a red apple"][number // 2]
        alone = pixels(pipe(prompt, seed=5 + number, steps=3, control=control))
        assert np.abs(np.asarray(result.images[number]).astype(int) - alone).max() <= TOLERANCE


@pytest.mark.parametrize("solver", ["dpm", "euler"])
def test_a_range_of_steps_steers_these_alone(pipe, solver):
    settings = {"solver": solver, "steps": 4}
    alone, always = draw(pipe, None, **settings), draw(pipe, ControlImage(drawing()), **settings)
    ranged = {
        span: list(
            pipe.stream(
                PROMPT, seed=3, control=ControlImage(drawing(), start=span[0], end=span[1]), **settings
            )
        )
        for span in ((0, 0.5), (0.5, 1))
    }
    plain = list(pipe.stream(PROMPT, seed=3, **settings))
    steered = list(pipe.stream(PROMPT, seed=3, control=ControlImage(drawing()), **settings))
    assert torch.equal(ranged[0, 0.5][1].latents, steered[1].latents)
    assert torch.equal(ranged[0.5, 1][1].latents, plain[1].latents)
    assert not torch.equal(ranged[0.5, 1][2].latents, plain[2].latents)
    for span in ranged:
        last = np.asarray(ranged[span][-1].result.images[0]).astype(int)
        assert np.abs(last - alone).max() > 5
        assert np.abs(last - always).max() > 5


@pytest.mark.parametrize(
    ("solver", "count"),
    [(FlowDPM(dpm_times(5, 3.0)), 5), (Euler(euler_times(4, 3.0)), 4), (SCM(scm_times(2)), 2)],
    ids=["dpm", "euler", "scm"],
)
@pytest.mark.parametrize(
    ("span", "inside"), [((0, 1), 1.0), ((0, 0.5), 0.5), ((0.5, 1), 0.5), ((0, 0.01), 0)]
)
def test_the_steps_of_a_range_are_counted_by_their_beginning(solver, count, span, inside):
    control = ControlImage(drawing(), start=span[0], end=span[1])
    (checked,), _ = check_controls([control], 1, (64, 96), solver)
    first, last = checked.times
    acting = [i for i, t in enumerate(step_times(solver)) if last <= t <= first]
    assert acting == [i for i in range(count) if span[0] <= i / count < span[1]]
    assert len(acting) >= inside * count - 1


def test_a_range_without_a_step_is_refused():
    control = ControlImage(drawing(), start=0.3, end=0.4)
    with pytest.raises(SettingsError, match=r"No step of 2 lies from 0\.3 to 0\.4 of the way"):
        check_controls([control], 1, (64, 96), Euler(euler_times(2, 3.0)))


def test_the_hint_is_made_at_the_drawn_size_and_reaches_the_net(pipe):
    hint = make_hint(drawing(), "edges")
    assert np.array_equal(draw(pipe, ControlImage(drawing(), kind="edges")), draw(pipe, ControlImage(hint)))
    large = drawing().resize((192, 128), Image.Resampling.LANCZOS)
    checked, notes = check_controls([ControlImage(large)], 1, (64, 96), None)
    assert checked[0].pixels.shape == (1, 3, 64, 96)
    assert not notes
    _, notes = check_controls([ControlImage(drawing(64, 64))], 1, (64, 96), None)
    assert "64x64 px is cut to the shape of the drawn 96x64 px" in notes[0]


def test_without_a_size_the_image_has_the_shape_of_the_control(pipe):
    tall = pipe(PROMPT, seed=1, steps=1, control=ControlImage(drawing(40, 160))).images[0]
    assert tall.height > 2 * tall.width
    given = pipe(PROMPT, seed=1, steps=1, width=64, height=64, control=ControlImage(drawing(40, 160)))
    assert given.images[0].size == (64, 64)
    assert size_like(drawing(300, 200), 96, 64, 32) == (96, 64)
    assert size_like(drawing(512, 512), 1024, 1024, 32) == (1024, 1024)
    assert size_like(drawing(1600, 900), 1024, 1024, 32) == (1376, 768)
    with pytest.raises(SettingsError, match="1700x100 px is too narrow"):
        size_like(drawing(1700, 100), 1024, 1024, 32)


def test_a_model_of_few_sizes_draws_the_nearest_of_them_and_tells_the_cut(pipe):
    own = replace(pipe.settings, sizes=((64, 64), (96, 64)))
    spec = replace(pipe.spec, settings=own)
    for size, drawn in (((40, 160), (64, 64)), ((300, 200), (96, 64))):
        request = check_request(spec, PROMPT, control=ControlImage(drawing(*size)))
        assert request.size == (drawn[1], drawn[0])  # as it is drawn, and not cut again
        assert spec.size_like(drawing(*size)) == drawn
        cut = [note for note in request.notes if "is cut to the shape of the drawn" in note]
        assert len(cut) == (size == (40, 160))
        assert not any("did not learn" in note for note in request.notes)


def test_an_image_to_start_from_can_be_steered_too(control_folder):
    task = ImageToImage.from_pretrained(control_folder, device="cpu")
    drawn = [
        np.asarray(task(drawing(), PROMPT, strength=0.5, steps=4, seed=2, control=control).images[0]).astype(
            int
        )
        for control in (None, ControlImage(drawing(), kind="edges"))
    ]
    assert np.abs(drawn[0] - drawn[1]).max() > 5


def test_the_settings_lie_in_the_png_and_say_that_the_image_is_missing(pipe, plain, control_folder, tmp_path):
    control = ControlImage(drawing(), kind="edges", scale=0.8, end=0.5)
    result = pipe(PROMPT, seed=3, steps=4, control=[control, ControlImage(drawing(), scale=0.1)])
    path = save(result.images[0], tmp_path / "fox.png", result.metadata[0])
    found = read_metadata(path)
    shown, net = control.fingerprint, ControlFile(control_folder).fingerprint
    both = ("edges 0.8 from 0 to 0.5", "as-is 0.1")
    assert found["control"] == "; ".join(f"{one} of {shown} by model@{net}" for one in both)
    made_here = plain.beside([random_net(plain.transformer)])
    assert check_request(made_here.spec, PROMPT, control=control).metadata[0]["control"] == (
        f"edges 0.8 from 0 to 0.5 of {shown}"
    )
    kept = {name: value for name, value in found.items() if name not in ("model", "version")}
    with pytest.raises(SettingsError, match="the settings of a PNG do not hold the image"):
        pipe(**kept)


def test_another_image_of_the_same_settings_has_another_record():
    images = [drawing(), drawing().rotate(180), drawing(64, 96), drawing(96, 64)]
    marks = [ControlImage(image).fingerprint for image in images]
    assert marks[0] == marks[3] == ControlImage(drawing().convert("RGBA")).fingerprint
    assert len({*marks}) == 3
    assert all(len(mark) == 12 for mark in marks)


# What is refused, without weights


def test_pag_and_a_control_image_are_refused_together(pipe):
    control = ControlImage(drawing())
    with pytest.raises(SettingsError, match="pag cannot be combined with a control image"):
        check_request(pipe.spec, PROMPT, guidance_kind="pag=2", control=control)
    assert check_request(pipe.spec, PROMPT, guidance_kind="pag=2").kind.blocks
    assert check_request(pipe.spec, PROMPT, guidance_kind="rescale=0.5", control=control).kind.rescale


@pytest.mark.parametrize(
    ("words", "naming"),
    [
        ({"scale": float("nan")}, "control scale = nan"),
        ({"scale": float("inf")}, "control scale = inf"),
        ({"scale": -101}, "from -100 to 100"),
        ({"scale": True}, "control scale = True"),
        ({"scale": "1"}, "control scale = '1'"),
        ({"kind": "depth"}, "control kind = 'depth'"),
        ({"kind": []}, "control kind"),
        ({"start": -0.1}, "control start = -0.1"),
        ({"end": 1.1}, "control end = 1.1"),
        ({"start": 0.5, "end": 0.5}, "the end must be later"),
        ({"start": 1, "end": 0}, "the end must be later"),
    ],
)
def test_a_setting_out_of_range_is_refused(words, naming):
    with pytest.raises(SettingsError, match=naming):
        ControlImage(drawing(), **words)


def test_numbers_of_numpy_are_numbers():
    assert ControlImage(drawing(), scale=np.float32(0.5)).settings == "as-is 0.5"


@pytest.mark.parametrize("image", ["fox.png", None, np.zeros((4, 4, 3))])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(SettingsError, match="The control image came as"):
        ControlImage(image)


@pytest.mark.parametrize("control", [drawing(), [drawing()], "edges", 1, [ControlImage(drawing()), None]])
def test_what_is_no_control_image_is_refused(pipe, control):
    with pytest.raises(SettingsError, match="must be a ControlImage or a list of them"):
        check_request(pipe.spec, PROMPT, control=control)


def test_a_model_without_a_controlnet_refuses_a_control_before_any_weights(plain):
    with pytest.raises(SettingsError, match="tiny has no ControlNet, which a control image needs"):
        check_request(plain.spec, PROMPT, control=ControlImage(drawing()))


def test_a_net_of_another_size_is_refused_when_it_is_loaded(base_folder, tmp_path):
    other = Sana(SanaConfig(depth=4, width=32, cross_heads=2, text_width=48, latent_channels=8))
    net = save_controlnet(tmp_path / "net", ControlNet.of(other, 2), other)
    with pytest.raises(SettingsError, match="width 32, this one has 64"):
        TextToImage.from_pretrained(base_folder, device="cpu", control_model=net)


def test_the_plan_counts_the_net_and_its_activations(pipe, plain):
    request = check_request(plain.spec, PROMPT)
    needs = [one.plan(request).peak - one._memory.base for one in (pipe, plain)]
    weights = sum(tensor.nbytes for tensor in pipe.controlnets[0].state_dict().values())
    tokens = (
        2 * 2 * 3 * 2 * pipe.transformer.config.width * 4
    )  # with and without the prompt: 2 of 2 x 3 tokens
    decoders = [one._memory.weights.decoder for one in (pipe, plain)]  # the former has an encoder as well
    assert needs[0] - needs[1] in range(tokens, weights + tokens + decoders[0] - decoders[1] + 1)

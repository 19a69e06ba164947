"""What a call for a clip along a path is checked for, without weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import SettingsError, SizeError, WeightsError
from sanakit.models.video.ltx2_config import LTX2VAEConfig
from sanakit.models.world.config import SANA_WM_1600M, SANA_WM_1600M_STREAMING
from sanakit.pipelines.video.request import VideoSpec
from sanakit.pipelines.world.paths import CameraPath
from sanakit.pipelines.world.request import check_world_request, covering, lens_of
from sanakit.weights.settings import WORLD_DEFAULTS, WORLD_SIZE, ModelSettings
from sanakit.weights.video.settings import WORLD_CHUNKS, VideoSettings, load_world_settings
from tests.pipelines.world.tiny import STREAMING, TRANSFORMER, photo, save_world

SETTINGS = VideoSettings(
    shared=ModelSettings(name="wm", **WORLD_DEFAULTS, **WORLD_SIZE),
    negative_prompt="",
    motion=0,
    chunks=WORLD_CHUNKS,
)
SPEC = VideoSpec.of(SETTINGS, SANA_WM_1600M, LTX2VAEConfig())
LIVE = VideoSpec.of(SETTINGS, SANA_WM_1600M_STREAMING, LTX2VAEConfig(decoder_causal=True))


def check(image=None, spec=SPEC, **settings):
    called = {"path": "w-16", "fov": 60, **settings}
    return check_world_request(spec, image or photo(1280, 704), **called)


def test_published_defaults() -> None:
    request = check(path="w-160")
    sampling = request.clip.sampling
    assert (sampling.steps, sampling.guidance, sampling.metadata[0]["solver"]) == (60, 5.0, "euler")
    assert sampling.cells.dims == (128, 21, 22, 40)
    times = sampling.solver.times
    assert (times[0].item(), times[-2].item()) == (1.0, pytest.approx(0.0877, abs=5e-5))
    assert request.inputs.cameras.shape == (21, 20)
    assert request.inputs.plucker.shape == (48, 21, 22, 40)
    assert {part.dtype for part in request.inputs} == {torch.float32}
    assert "motion" not in sampling.metadata[0]


def test_students_go_euler_steps_at_their_own_times() -> None:
    sampling = check(spec=LIVE, path="w-72").clip.sampling
    assert sampling.solver.times.tolist() == [1.0, 0.96, 0.889, 0.727, 0.0]
    state = sampling.solver.start(torch.ones(1, 2), torch.Generator())
    state = sampling.solver.advance(state, torch.full((1, 2), 2.0))
    assert (state.t, state.sample.tolist()) == (pytest.approx(0.96), [[pytest.approx(0.92)] * 2])
    with pytest.raises(SettingsError, match="without guidance"):
        check(spec=LIVE, path="w-72", guidance=4)


def test_the_lens_is_cut_with_the_image() -> None:
    """The point of the image that a pixel shows has the same direction before and after."""
    lens = [900.0, 880.0, 700.0, 300.0]
    request = check(photo(1000, 500), fov=None, intrinsics=lens)
    fx, fy, cx, cy = request.lens[0].tolist()
    # 1408x704 is cut by 64 on the left
    assert (fx, cx) == (pytest.approx(900 * 1.408), pytest.approx(700 * 1.408 - 64))
    assert (fy, cy) == (pytest.approx(880 * 1.408), pytest.approx(300 * 1.408))
    assert request.clip.sampling.metadata[0]["intrinsics"] == "900 880 700 300"


def test_images_cover_the_size_and_are_cut_at_their_centre() -> None:
    image = Image.fromarray(np.arange(100 * 50, dtype=np.uint8).reshape(50, 100)).convert("RGB")
    same = covering(image, 60, 50)
    assert np.array_equal(np.asarray(same), np.asarray(image)[:, 20:80])
    assert covering(image, 96, 64).size == (96, 64)


def test_frames_that_no_latent_holds_are_left_out_and_told() -> None:
    request = check(path="w-20")
    assert request.clip.frames == 17
    assert "The path has 21 frames with its start; the first 17 are drawn" in request.clip.sampling.notes[0]
    assert check(path="w-20", frames=9).clip.frames == 9
    with pytest.raises(SettingsError, match="Go 8 frames or further"):
        check(path="w-4")
    with pytest.raises(SettingsError, match="from 1 to 17"):
        check(frames=25)
    with pytest.raises(SizeError, match="use 9 or 17 frames"):
        check(frames=12)
    for few in (1, 5, 8):  # the image alone is not a clip
        with pytest.raises(SettingsError, match="9 are the fewest that can be drawn"):
            check(frames=few)


def test_what_is_recorded_tells_paths_apart() -> None:
    one = check(path=" W-8, d-8 ", fov=70).clip.sampling.metadata[0]
    assert (one["path"], one["keys"], one["fov"]) == ("w-8,d-8", "turning", 70.0)
    poses = torch.eye(4, dtype=torch.float64).repeat(17, 1, 1)
    moved = poses.clone()
    moved[5, 0, 3] = 0.1
    names = [check(path=path).clip.sampling.metadata[0]["path"] for path in (poses, moved)]
    assert names[0] != names[1]
    assert all(str(name).startswith("17 poses@") for name in names)


def test_an_unknown_angle_of_view_is_told() -> None:
    request = check(fov=None)
    assert "60 degrees are taken" in request.clip.sampling.notes[0]
    assert request.clip.sampling.metadata[0]["fov"] == 60.0


def test_lenses() -> None:
    assert lens_of(90, None, (200, 100)).tolist() == pytest.approx([100, 100, 100, 50])
    for wrong in ([1.0, 2.0], [0.0, 1.0, 1.0, 1.0], [1.0, 1.0, float("nan"), 1.0]):
        with pytest.raises(SettingsError, match="fx and fy above 0"):
            lens_of(None, wrong, (8, 8))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"image": "photo.png"}, "open it with PIL"),
        ({"path": 3}, "path came as int"),
        ({"path": torch.zeros(17, 4, 4)}, "not a rotation"),
        ({"path": "q-8"}, "unknown keys"),
        ({"keys": "walking"}, "turning"),
        ({"fov": 10}, "from 25 to 120 degrees"),
        ({"fov": True}, "from 25 to 120 degrees"),
        ({"intrinsics": [1, 1, 1, 1]}, "cannot be combined"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_is_refused(settings, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence):
        check(**settings)


def test_a_path_with_its_own_lens_is_of_images_of_one_shape() -> None:
    path = CameraPath(torch.eye(4).repeat(17, 1, 1).double(), torch.full((17, 4), 300.0).double(), 640, 352)
    assert check(path=path, fov=None).lens[0].tolist() == pytest.approx([600.0] * 4)
    with pytest.raises(SettingsError, match="lens of its own"):
        check(path=path)
    with pytest.raises(SettingsError, match="crop the image to that shape"):
        check(photo(500, 500), path=path, fov=None)


def test_folders_tell_their_own_defaults(tmp_path) -> None:
    def settings(name, config=TRANSFORMER, **defaults):
        return load_world_settings(save_world(tmp_path / name, config, defaults=defaults))

    usual = settings("usual")
    assert (usual.shared.steps, usual.shared.solver, usual.shared.shift) == (60, "euler", 9.8)
    assert (usual.shared.width, usual.frames, usual.rate, usual.negative_prompt) == (1280, 161, 16, "")
    chunks = settings("own", STREAMING, chunks={"length": 2, "times": [1.0, 0.5]}).chunks
    assert (chunks.length, chunks.times, chunks.shift) == (2, (1.0, 0.5), None)
    with pytest.raises(WeightsError, match="times"):
        settings("wrong", STREAMING, chunks={"times": [0.5, 0.6]})
    with pytest.raises(WeightsError, match="says motion, which models of worlds do not know"):
        settings("moves", motion=5)

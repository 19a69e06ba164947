"""Networks as rewards: the embedded CLIP by its own scores, and ImageReward with each image's own prompt."""

from __future__ import annotations

import torch

from sanakit.train.reinforce.reward_networks import PreferenceReward, clip_reward
from sanakit.train.reinforce.rewards import open_reward
from sanakit.weights import load_clip


def test_pocket_clip_scores_by_the_cosine_and_keeps_negative_ones_apart() -> None:
    reward, clip = open_reward("pocket-clip"), load_clip("pocket-clip")
    images, prompts = torch.rand(3, 3, 64, 64) * 2 - 1, ["a red apple", "a fox", "a fox"]
    wanted = 100 * torch.nn.functional.cosine_similarity(clip.images(images), clip.texts(prompts))
    torch.testing.assert_close(reward(images, prompts), wanted)
    assert reward.name == "pocket-clip"


def test_any_clip_is_named_by_its_place(tmp_path) -> None:
    from sanakit.weights.clip import clip_folder

    place = tmp_path / "my clip"
    place.symlink_to(clip_folder("pocket-clip"))
    assert clip_reward(str(place)).name == "my-clip"
    assert open_reward(f"clip:{place}").name == "my-clip"


def test_image_reward_sees_each_image_with_its_own_prompt() -> None:
    seen = []

    def network(images, prompts):
        seen.extend(zip(images, prompts, strict=True))
        return [image.getpixel((0, 0))[0] / 255 for image in images]

    reward = PreferenceReward("image-reward", network)  # pyright: ignore[reportArgumentType]
    images = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert reward(images, ["a", "b"]).tolist() == [0.0, 1.0]
    assert [(image.mode, image.size, prompt) for image, prompt in seen] == [
        ("RGB", (4, 4), "a"),
        ("RGB", (4, 4), "b"),
    ]

"""Recipes of the embedded models, and those that train a finished model on pocket's data set."""

from __future__ import annotations

# As `sanakit.recipes.RECIPES`, in the order in which the stages of a model build on each other.
RECIPES = {
    "pocket-autoencoder": ("sanakit.pocket.recipes.pocket", "autoencoder"),
    "pocket-decoder": ("sanakit.pocket.recipes.pocket", "decoder"),
    "pocket-words": ("sanakit.pocket.recipes.pocket", "words"),
    "pocket-drawings": ("sanakit.pocket.recipes.pocket", "drawings"),
    "pocket-names": ("sanakit.pocket.recipes.stages", "names"),
    "pocket-poses": ("sanakit.pocket.recipes.stages", "poses"),
    "pocket-512": ("sanakit.pocket.recipes.stages", "double"),
    "pocket-refine": ("sanakit.pocket.recipes.stages", "refine"),
    "pocket-further": ("sanakit.pocket.recipes.stages", "further"),  # names, refine, poses, 512
    "pocket-clip": ("sanakit.pocket.recipes.clip", "contrastive"),
    "pocket-judge": ("sanakit.pocket.recipes.pocket", "judge"),
    "pocket-control": ("sanakit.pocket.recipes.control", "control"),
    "pocket-video-autoencoder": ("sanakit.pocket.recipes.video", "autoencoder"),
    "pocket-video-images": ("sanakit.pocket.recipes.video", "images"),
    "pocket-video": ("sanakit.pocket.recipes.video", "video"),
    "pocket-world-autoencoder": ("sanakit.pocket.recipes.world", "further_autoencoder"),
    "pocket-world": ("sanakit.pocket.recipes.world", "world"),
    "pocket": ("sanakit.pocket.recipes.pocket", "pocket"),  # all of them
    "pocket-rl": ("sanakit.pocket.recipes.reinforce", "reinforce"),
    "pocket-sprint": ("sanakit.pocket.recipes.sprint", "sprint"),
    "grow": ("sanakit.pocket.recipes.grow", "grow"),
    "prune": ("sanakit.pocket.recipes.prune", "prune"),
}

"""Recipes: what it takes to train a model, one file per model, or to make another model of a finished one."""

from __future__ import annotations

# name -> (module, function), as `sanakit.train.run.run_recipe` takes them
RECIPES = {
    "autoencoder": ("sanakit.recipes.autoencoder", "autoencoder"),
    "autoencoder-adapt": ("sanakit.recipes.autoencoder", "adapt"),
    "autoencoder-refine": ("sanakit.recipes.autoencoder", "refine"),
    "autoencoder-decoder": ("sanakit.recipes.autoencoder", "decoder"),
    "finetune": ("sanakit.recipes.finetune", "finetune"),
    "pretrain": ("sanakit.recipes.curriculum", "pretrain"),
    "enlarge": ("sanakit.recipes.curriculum", "enlarge"),
}

"""Recipes: full training configurations, one file per model, some of which start from a finished model."""

from __future__ import annotations

# name -> (module, function), as `sanakit.train.run.run_recipe` takes them
RECIPES = {
    "autoencoder": ("sanakit.recipes.autoencoder", "autoencoder"),
    "autoencoder-adapt": ("sanakit.recipes.autoencoder", "adapt"),
    "autoencoder-refine": ("sanakit.recipes.autoencoder", "refine"),
    "autoencoder-decoder": ("sanakit.recipes.autoencoder", "decoder"),
    "finetune": ("sanakit.recipes.finetune", "finetune"),
    "world": ("sanakit.recipes.world", "world"),
    "lora": ("sanakit.recipes.lora", "lora"),
    "dreambooth": ("sanakit.recipes.lora", "dreambooth"),
    "reinforce": ("sanakit.recipes.reinforce", "reinforce"),
    "control": ("sanakit.recipes.control", "control"),
    "sprint-teacher": ("sanakit.recipes.sprint", "teacher"),
    "sprint": ("sanakit.recipes.sprint", "sprint"),
    "causal": ("sanakit.recipes.causal", "causal"),
    "causal-chunks": ("sanakit.recipes.causal", "chunks"),
    "causal-ode": ("sanakit.recipes.causal", "ode"),
    "causal-forcing": ("sanakit.recipes.causal", "forcing"),
    "pretrain": ("sanakit.recipes.curriculum", "pretrain"),
    "enlarge": ("sanakit.recipes.curriculum", "enlarge"),
}

"""One file per served model: labels, measure, bands, network, in one frozen value."""

from overread.recipes.recipe import FOLDER, RECIPES, Recipe, recipe_named

__all__ = ["FOLDER", "RECIPES", "Recipe", "recipe_named"]

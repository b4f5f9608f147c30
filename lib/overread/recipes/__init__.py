"""One file per served model: labels, measure, bands, network, in one frozen value."""

from overread.recipes.recipe import RECIPES, Recipe, recipe_named

__all__ = ["RECIPES", "Recipe", "recipe_named"]

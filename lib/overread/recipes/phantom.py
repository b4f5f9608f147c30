"""Liver and lesions in the computed studies that `sample-data/make_phantoms.py` writes."""

from overread.recipes.recipe import RECIPES, Recipe

LIVER_PHANTOM = RECIPES.add(
    "liver_phantom",
    Recipe(
        name="liver_phantom",
        description="Liver and lesions in computed CT phantoms, with the regions to doubt.",
    ),
)

"""Hippocampus in T1 MR crops (Medical Segmentation Decathlon, task 4)."""

from overread.recipes.recipe import RECIPES, Recipe

HIPPOCAMPUS = RECIPES.add(
    "hippocampus",
    Recipe(
        name="hippocampus", description="Anterior and posterior hippocampus in MR, with the regions to doubt."
    ),
)

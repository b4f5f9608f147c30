"""Liver and lesions in the computed studies that `sample-data/make_phantoms.py` writes."""

from overread.recipes.recipe import RECIPES, Recipe

LIVER_PHANTOM = RECIPES.add(
    "liver_phantom",
    Recipe(
        name="liver_phantom",
        description="Liver and lesions in computed CT phantoms, with the regions to doubt.",
        # Coarser and smaller than planned: the starter model of `make demo` has less than five minutes on two cores.
        plan={"spacing_mm": (2.0, 2.0, 3.0), "patch": (48, 48, 32), "features": (12, 24, 48, 96)},
    ),
)

"""Tumour in the computed H&E slides of the sample data."""

from overread.recipes.recipe import RECIPES, Recipe

TUMOUR_SLIDES = RECIPES.add(
    "tumour_slides",
    Recipe(
        name="tumour_slides",
        description="Tumour in slides stained with haematoxylin and eosin, with the regions to doubt.",
        # Small, and with batch statistics that another laboratory's can take the place of: the starter model of
        # `make demo APP=pathology` has less than four minutes on two cores, at 2 µm per pixel.
        plan={
            "patch": (128, 128),
            "batch": 8,
            "strides": ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2)),
            "kernels": ((3, 3),) * 5,
            "features": (12, 24, 48, 96, 96),
            "norm": "batch",
        },
    ),
)

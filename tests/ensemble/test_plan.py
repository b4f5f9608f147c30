"""The plan follows nnU-Net's rules for spacing, pooling and normalisation, at a size that the hardware can train."""

import json

import pytest

from overread.domain import BadInputError
from overread.ensemble.fingerprint import Fingerprint, Intensities
from overread.ensemble.plan import CPU, GPU, Normalisation, Plan, make_plan, target_spacing, topology

SEEN = Intensities(mean=50, std=100, percentile_00_5=-100, percentile_99_5=300)


def fingerprint(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    *,
    cases: int = 20,
    channels: tuple[str, ...] = ("T1",),
    classes: tuple[str, ...] = ("background", "tumour"),
    nonzero_share: float = 1.0,
    um_per_px: float | None = None,
) -> Fingerprint:
    intensities = (SEEN,) * len(channels)
    return Fingerprint(
        (shape,) * cases, (spacing,) * cases, intensities, nonzero_share, classes, channels, um_per_px
    )


def test_small_isotropic_volumes_are_seen_whole() -> None:
    plan = make_plan(fingerprint((35, 50, 36), (1.0, 1.0, 1.0)), CPU)
    assert plan.spacing_mm == (1.0, 1.0, 1.0)
    # 36 -> 18 -> 9 -> 5 and 50 -> 25 -> 13 -> 7: three halvings, each axis grown to a multiple of 8.
    assert plan.patch == (40, 56, 40)
    assert plan.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert plan.kernels == ((3, 3, 3),) * 4
    assert plan.features == (16, 32, 64, 128)
    assert plan.batch == 2
    assert plan.supervised == 3


def test_a_gpu_gets_a_wider_network_and_larger_patches() -> None:
    large = fingerprint((512, 512, 300), (0.8, 0.8, 1.5))
    small, wide = make_plan(large, CPU), make_plan(large, GPU)
    assert small.features[0] == 16
    assert wide.features[0] == 32
    assert wide.features[-1] == 320
    voxels = [plan.patch[0] * plan.patch[1] * plan.patch[2] for plan in (small, wide)]
    assert voxels[0] <= CPU.patch[3] < voxels[1] <= GPU.patch[3]


def test_thick_slices_are_pooled_and_convolved_last() -> None:
    plan = make_plan(fingerprint((320, 320, 20), (0.6, 0.6, 3.6)), GPU)
    assert plan.patch == (320, 320, 20)
    # In plane 0.6, 1.2, 2.4 mm against 3.6 mm: from 2.4 mm on all axes are alike.
    assert plan.kernels[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    assert plan.strides[:4] == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))


def test_a_single_slice_is_never_pooled_across() -> None:
    plan = make_plan(fingerprint((64, 64, 1), (1.0, 1.0, 5.0)), CPU)
    assert plan.patch == (64, 64, 1)
    assert {row[2] for row in plan.strides} == {1}
    assert {row[2] for row in plan.kernels} == {1}


def test_pictures_get_a_plane_network_that_may_be_mirrored_both_ways() -> None:
    plan = make_plan(fingerprint((1000, 800), (1.0, 1.0), channels=("R", "G", "B")), CPU)
    assert plan.axes == 2
    # At most 256 x 256 pixels, in the shape of the pictures.
    assert plan.patch == (288, 224)
    assert plan.mirror_axes == (0, 1)
    assert plan.normalisation == (Normalisation("rgb"),) * 3


def test_tiny_cases_still_get_the_three_stages_that_the_network_needs() -> None:
    assert topology((8, 8, 8), (1.0, 1.0, 1.0), 6) == (
        (8, 8, 8),
        ((3, 3, 3),) * 3,
        ((1, 1, 1), (2, 2, 2), (1, 1, 1)),
    )


def test_spacing_is_the_median_and_along_thick_slices_the_tenth_percentile() -> None:
    even = Fingerprint(
        ((100, 100, 100),) * 3, ((1.0, 1, 1), (2, 2, 2), (5, 5, 5)), (SEEN,), 1, ("b", "t"), ("T1",)
    )
    assert target_spacing(even) == (2, 2, 2)
    # Slices of 4 to 6 mm; the tenth percentile of 4, 5, 6 lies a fifth of the way from 4 to 5.
    thick = Fingerprint(
        ((400, 400, 20),) * 3, ((1.0, 1, 4), (1, 1, 5), (1, 1, 6)), (SEEN,), 1, ("b", "t"), ("T1",)
    )
    assert target_spacing(thick) == (1, 1, 4.2)


def test_channels_are_normalised_by_their_names() -> None:
    plan = make_plan(fingerprint((32, 32, 32), (1.0, 1, 1), channels=("CT", "PET")), CPU)
    assert plan.normalisation == (Normalisation("ct", -100, 300, 50, 100), Normalisation("zscore"))
    skull_stripped = make_plan(fingerprint((32, 32, 32), (1.0, 1, 1), nonzero_share=0.5), CPU)
    assert skull_stripped.normalisation == (Normalisation("zscore", nonzero_only=True),)


def test_bodies_are_mirrored_left_to_right_unless_a_class_names_its_side() -> None:
    assert make_plan(fingerprint((32, 32, 32), (1.0, 1, 1)), CPU).mirror_axes == (0,)
    sided = fingerprint((32, 32, 32), (1.0, 1, 1), classes=("background", "Left kidney", "Right kidney"))
    assert make_plan(sided, CPU).mirror_axes == ()


def test_a_plan_survives_json() -> None:
    plan = make_plan(fingerprint((64, 48, 20), (0.7, 0.7, 3.0), channels=("CT", "T2")), CPU)
    written = json.dumps({**plan.to_json(), "held_out": [["a"]]})
    assert Plan.from_json(json.loads(written)) == plan


def test_pictures_of_slides_keep_their_pixel_size_and_vary_their_stains() -> None:
    cut = fingerprint((256, 256), (1.0, 1.0), channels=("R", "G", "B"), um_per_px=2.0)
    plan = make_plan(cut)
    assert (plan.um_per_px, plan.stain, plan.norm) == (2.0, 0.05, "instance")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    decided = make_plan(cut, overrides={"um_per_px": 1.0, "stain": 0.2, "norm": "batch"})
    assert (decided.um_per_px, decided.stain, decided.norm) == (1.0, 0.2, "batch")
    fluorescence = fingerprint((256, 256), (1.0, 1.0), channels=("DAPI",), um_per_px=2.0)
    assert make_plan(fluorescence).stain == 0
    photographs = fingerprint((256, 256), (1.0, 1.0), channels=("R", "G", "B"))
    assert (make_plan(photographs).um_per_px, make_plan(photographs).stain) == (None, 0.0)


def test_a_plan_of_before_slides_is_still_read() -> None:
    plan = make_plan(fingerprint((35, 50, 36), (1.0, 1.0, 1.0)), CPU)
    stored = {
        key: value for key, value in plan.to_json().items() if key not in ("um_per_px", "norm", "stain")
    }
    assert Plan.from_json(json.loads(json.dumps(stored))) == plan


def test_what_the_recipe_decided_is_kept() -> None:
    decided = {"patch": [32, 32, 32], "features": (8, 16, 32, 64), "batch": 4, "mirror_axes": []}
    plan = make_plan(fingerprint((35, 50, 36), (1.0, 1, 1)), CPU, decided)
    assert (plan.patch, plan.features, plan.batch, plan.mirror_axes) == ((32, 32, 32), (8, 16, 32, 64), 4, ())
    given = {"normalisation": [{"kind": "ct", "lower": -50, "upper": 150, "mean": 20, "std": 30}]}
    assert make_plan(fingerprint((35, 50, 36), (1.0, 1, 1)), CPU, given).normalisation == (
        Normalisation("ct", -50, 150, 20, 30),
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patsh": (32, 32, 32)}, "a plan has no 'patsh'; it has spacing_mm, patch"),
        (
            {"patch": (33, 32, 32)},
            r"patch \(33, 32, 32\) does not suit the strides; the nearest is \(40, 32, 32\)",
        ),
        ({"features": (8, 16)}, "for the same 3 stages or more, got 4, 4 and 2"),
        ({"batch": 0}, "batch is 0, expected at least 1"),
        ({"strides": ((1, 1),) * 4}, "have 3 axes as its patch"),
        (
            {"strides": ((1, 1, 1), *((3, 3, 3),) * 3)},
            r"not divisible by \(27, 27, 27\), the product of the strides",
        ),
        ({"norm": "group"}, "a plan's norm is 'group', expected instance or batch"),
        ({"stain": -0.1}, "a plan's stain is -0.1, expected 0"),
        (
            {"stain": 0.05},
            "stains vary in RGB pictures only: stain is 0.05, and the channels are normalised as zscore",
        ),
        ({"um_per_px": -1.0}, "a pixel of -1.0 µm cannot be meant"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        make_plan(fingerprint((32, 32, 32), (1.0, 1, 1)), CPU, overrides)

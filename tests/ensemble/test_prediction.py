"""One streamed pass of windows gives exactly what a whole-volume, member-by-member computation gives."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overread.domain import BadInputError, Grid, Opinions, OverreadError
from overread.ensemble.ensemble import Calibration, Ensemble, Prepared
from overread.ensemble.prediction import predict
from overread.imaging.volumes import Volume
from overread.imaging.windows import gaussian_weight, window_starts
from overread.uncertainty.measures import MEASURES

CLASSES = ("background", "organ", "lesion")


def convolution(seed: int, axes: int, classes: int = 3) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    layer = (torch.nn.Conv2d if axes == 2 else torch.nn.Conv3d)(1, classes, 3, padding=1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def an_ensemble(members, prepare, patch, **more) -> Ensemble:
    return Ensemble(
        name="toy", classes=CLASSES, channels=("CT",), members=members, patch=patch, prepare=prepare, **more
    )


def a_volume(shape, seed=0) -> Volume:
    voxels = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    return Volume(voxels, Grid(shape, np.eye(4)))


def as_it_is(volume: Volume) -> Prepared:
    axes = tuple(range(len(volume.grid.shape)))
    return Prepared(
        voxels=torch.from_numpy(volume.voxels),
        input_grid=volume.grid,
        axes=axes,
        flips=(False,) * len(axes),
        crop=tuple((0, n) for n in volume.grid.shape),
        interpolation=("linear",) * len(axes),
    )


def literal_opinions(ensemble: Ensemble, prepared: Prepared) -> torch.Tensor:
    """Member by member over the whole volume, with torch's own interpolation: slow and plain."""
    image = prepared.voxels
    space = tuple(image.shape[1:])
    box = tuple(stop - start for start, stop in prepared.crop)
    missing = [max(0, p - n) for n, p in zip(space, ensemble.patch, strict=True)]
    pads = [(m // 2, m - m // 2) for m in missing]
    image = torch.nn.functional.pad(image, [n for pair in reversed(pads) for n in pair])
    size = tuple(image.shape[1:])
    weight = gaussian_weight(ensemble.patch)
    opinions = []
    for member in ensemble.members:
        total = torch.zeros(len(ensemble.classes), *size)
        weights = torch.zeros(size)
        starts = [window_starts(n, p, ensemble.step) for n, p in zip(size, ensemble.patch, strict=True)]
        for corner in np.ndindex(*(len(s) for s in starts)):
            place = tuple(
                slice(starts[axis][c], starts[axis][c] + ensemble.patch[axis])
                for axis, c in enumerate(corner)
            )
            with torch.no_grad():
                total[(slice(None), *place)] += member(image[(None, slice(None), *place)])[0] * weight
            weights[place] += weight
        logits = (total / weights)[
            (slice(None), *(slice(a, a + n) for (a, _), n in zip(pads, space, strict=True)))
        ]
        mode = "bilinear" if len(space) == 2 else "trilinear"
        logits = torch.nn.functional.interpolate(logits[None], size=box, mode=mode, align_corners=False)[0]
        opinions.append(torch.softmax(logits / ensemble.calibration.temperature, dim=0))
    return torch.stack(opinions)


@settings(max_examples=25)
@given(
    space=st.tuples(st.integers(3, 20), st.integers(3, 20), st.integers(3, 20)),
    box=st.tuples(st.integers(2, 24), st.integers(2, 24), st.integers(2, 24)),
    patch=st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(2, 9)),
    step=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_equals_the_literal_computation_whatever_the_shapes(space, box, patch, step):
    volume = a_volume(box)
    model_voxels = torch.from_numpy(np.random.default_rng(1).normal(size=(1, *space)).astype(np.float32))

    def prepare(volume: Volume) -> Prepared:
        return Prepared(
            model_voxels, volume.grid, (0, 1, 2), (False,) * 3, tuple((0, n) for n in box), ("linear",) * 3
        )

    members = [convolution(seed, 3) for seed in range(3)]
    ensemble = an_ensemble(members, prepare, patch, step=step, calibration=Calibration(temperature=1.7))
    expected = Opinions(literal_opinions(ensemble, prepare(volume)))

    prediction = predict(ensemble, volume, measures=list(MEASURES), precision="full")

    torch.testing.assert_close(prediction.probabilities, expected.mean, atol=2e-5, rtol=0)
    for name in MEASURES:
        torch.testing.assert_close(
            prediction.maps[name].values, MEASURES[name](expected.sums()).values, atol=2e-4, rtol=0
        )
    assert prediction.members_spared == 0


def test_works_on_two_axes():
    ensemble = an_ensemble([convolution(0, 2), convolution(1, 2)], as_it_is, (8, 6))
    volume = a_volume((21, 13))
    expected = Opinions(literal_opinions(ensemble, as_it_is(volume)))
    prediction = predict(ensemble, volume, precision="full")
    torch.testing.assert_close(prediction.probabilities, expected.mean, atol=2e-5, rtol=0)
    assert prediction.labels.shape == (21, 13)


def test_answers_on_the_input_grid_after_turning_flipping_and_cropping():
    """A marker at one voxel comes back at that voxel, and outside the box there is background for sure."""
    shape, marker = (9, 7, 5), (6, 2, 3)
    voxels = np.zeros((1, *shape), np.float32)
    voxels[(0, *marker)] = 1
    volume = Volume(voxels, Grid(shape, np.eye(4)))
    axes, flips, crop = (2, 0, 1), (True, False, True), ((1, 4), (5, 9), (2, 7))

    def prepare(volume: Volume) -> Prepared:
        turned = np.flip(np.transpose(volume.voxels[0], axes), (0, 2))
        boxed = turned[tuple(slice(*bounds) for bounds in crop)]
        assert boxed.max() == 1
        return Prepared(torch.from_numpy(boxed[None].copy()), volume.grid, axes, flips, crop, ("linear",) * 3)

    def sees_the_marker(windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(windows), 40 * windows - 20, torch.full_like(windows, -20)], dim=1)

    prediction = predict(an_ensemble([sees_the_marker], prepare, (3, 2, 4)), volume, precision="full")
    assert np.argwhere(prediction.labels).tolist() == [list(marker)]
    assert prediction.probabilities[0, 0, 0, 0] == 1
    assert prediction.maps["predictive_entropy"].values[0, 0, 0] == 0


def test_nearest_interpolation_repeats_slices():
    def prepare(volume: Volume) -> Prepared:
        voxels = torch.tensor([-20.0, 20.0, -20.0]).reshape(1, 1, 1, 3).expand(1, 4, 4, 3)
        return Prepared(
            voxels,
            volume.grid,
            (0, 1, 2),
            (False,) * 3,
            ((0, 4), (0, 4), (0, 9)),
            ("linear", "linear", "nearest"),
        )

    def copies(windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(windows), windows, torch.full_like(windows, -40)], dim=1)

    prediction = predict(an_ensemble([copies], prepare, (4, 4, 2)), a_volume((4, 4, 9)), precision="full")
    assert prediction.labels[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_visitor_sees_every_voxel_once_with_the_same_block_of_the_truth():
    shape = (11, 9, 8)
    truth = np.arange(np.prod(shape)).reshape(shape)
    seen = []

    def visit(logits, take):
        assert logits.shape[:2] == (2, 3)
        assert take(truth).shape == logits.shape[2:]
        seen.append(take(truth).ravel())

    members = [convolution(0, 3), convolution(1, 3)]
    predict(an_ensemble(members, as_it_is, (4, 4, 4)), a_volume(shape), precision="full", visit=visit)
    assert len(seen) > 1
    assert sorted(np.concatenate(seen)) == list(range(truth.size))


def sure_but_where_it_is_bright() -> tuple[list, list[torch.Tensor]]:
    """Two members, the first torn where the image is above 0, and the windows that the second is shown."""
    asked: list[torch.Tensor] = []

    def first(windows: torch.Tensor) -> torch.Tensor:
        torn = (windows > 0).float()
        return torch.cat([20 * (1 - torn), torch.zeros_like(windows), torch.full_like(windows, -20)], dim=1)

    def second(windows: torch.Tensor) -> torch.Tensor:
        asked.append(windows)
        return torch.cat([-windows * 20, windows * 20, torch.full_like(windows, -20)], dim=1)

    return [first, second], asked


def test_cascade_asks_the_others_only_where_the_first_is_unsure():
    """The first member is sure on the left half and torn on the right; only there the second one counts."""
    members, asked = sure_but_where_it_is_bright()
    voxels = np.zeros((1, 8, 4, 4), np.float32)
    voxels[:, 4:] = 1
    volume = Volume(voxels, Grid((8, 4, 4), np.eye(4)))
    ensemble = an_ensemble(members, as_it_is, (4, 4, 4), step=1.0)
    prediction = predict(ensemble, volume, precision="full", cascade=0.1)
    assert [float(windows.max()) for windows in asked] == [1.0]
    assert prediction.members_spared == pytest.approx(0.25)
    everybody = predict(ensemble, volume, precision="full")
    assert (prediction.labels == everybody.labels).all()
    assert (prediction.labels[4:] == 1).all()


def test_windows_are_shown_several_at_a_time_as_memory_allows(monkeypatch):
    """As many as fit the limit, the last of a slab what is left; what comes out is the same."""
    counts = []
    inner = convolution(0, 3)

    def member(windows: torch.Tensor) -> torch.Tensor:
        counts.append(len(windows))
        return inner(windows)

    volume = a_volume((9, 15, 6), seed=2)
    monkeypatch.setattr("overread.ensemble.prediction.VOXELS_SHOWN", 3 * 27)
    ensemble = an_ensemble([member], as_it_is, (3, 3, 3), step=1.0)
    said = predict(ensemble, volume, precision="full")
    # The pass runs along the longest axis: five slabs of 3 x 2 windows.
    assert counts == [3, 3] * 5
    torch.testing.assert_close(
        said.probabilities, literal_opinions(ensemble, as_it_is(volume))[0], atol=2e-5, rtol=0
    )
    counts.clear()
    monkeypatch.setattr("overread.ensemble.prediction.VOXELS_SHOWN", 4 * 27)
    predict(ensemble, volume, precision="full")
    assert counts == [4, 2] * 5


def test_cascade_asks_about_single_windows_of_those_shown_together():
    """Beside each other: the first member is torn in one window of four, and the second sees only that one."""
    members, asked = sure_but_where_it_is_bright()
    voxels = np.zeros((1, 4, 8, 8), np.float32)
    voxels[:, :, 4:, :4] = 1
    volume = Volume(voxels, Grid((4, 8, 8), np.eye(4)))
    ensemble = an_ensemble(members, as_it_is, (4, 4, 4), step=1.0)
    said = predict(ensemble, volume, precision="full", cascade=0.1)
    assert [len(windows) for windows in asked] == [1]
    assert said.members_spared == pytest.approx(3 / 8)
    expected = np.zeros((4, 8, 8), int)
    expected[:, 4:, :4] = 1
    assert (said.labels == expected).all()


def test_cascade_asks_the_others_where_the_first_has_no_answer():
    asked = []

    def broken(windows: torch.Tensor) -> torch.Tensor:
        return torch.full((len(windows), 3, *windows.shape[2:]), float("nan"))

    def whole(windows: torch.Tensor) -> torch.Tensor:
        asked.append(len(windows))
        return torch.zeros(len(windows), 3, *windows.shape[2:])

    ensemble = an_ensemble([broken, whole], as_it_is, (4, 4, 4))
    with pytest.raises(OverreadError):
        predict(ensemble, a_volume((4, 4, 4)), precision="full", cascade=0.1)
    assert asked == [1]


def test_a_subset_of_members_can_be_asked():
    members = [convolution(seed, 3) for seed in range(3)]
    volume = a_volume((6, 6, 6))
    two = predict(an_ensemble(members, as_it_is, (6, 6, 6)), volume, members=2, precision="full")
    alone = predict(an_ensemble(members[:2], as_it_is, (6, 6, 6)), volume, precision="full")
    torch.testing.assert_close(two.probabilities, alone.probabilities)
    with pytest.raises(BadInputError, match="has 3 members, 4 were asked for"):
        predict(an_ensemble(members, as_it_is, (6, 6, 6)), volume, members=4)


def test_wrong_number_of_channels_is_named():
    ensemble = an_ensemble([convolution(0, 3)], as_it_is, (4, 4, 4))
    two_channels = Volume(np.zeros((2, 4, 4, 4), np.float32), Grid((4, 4, 4), np.eye(4)))
    with pytest.raises(BadInputError, match=r"toy expects 1 channels \(CT\), the image has 2"):
        predict(ensemble, two_channels)


def test_memory_for_logits_does_not_grow_with_the_length_of_the_volume():
    """The largest block handed on is as deep as a window, in a volume of ten windows."""
    depths = []

    def visit(logits, take):
        depths.append(max(logits.shape[2:]))

    member = convolution(0, 3)
    predict(an_ensemble([member], as_it_is, (4, 4, 8)), a_volume((4, 4, 80)), precision="full", visit=visit)
    assert len(depths) >= 10
    assert max(depths) <= 8


def test_unknown_precision_is_named():
    with pytest.raises(BadInputError, match="precision 'half' is not one of"):
        predict(an_ensemble([convolution(0, 3)], as_it_is, (4, 4, 4)), a_volume((4, 4, 4)), precision="half")  # type: ignore[arg-type]


def test_progress_ends_at_one_and_can_cancel():
    shares = []
    ensemble = an_ensemble([convolution(0, 3)], as_it_is, (4, 4, 4))
    predict(ensemble, a_volume((8, 8, 8)), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1

    class CancelledError(Exception):
        pass

    def stop(share: float) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        predict(ensemble, a_volume((8, 8, 8)), progress=stop)


MEMORY_SCRIPT = """
import resource, tempfile
from pathlib import Path
import numpy as np
from overread.domain import Grid
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble
from overread.ensemble.threshold import write_threshold_ensemble
from overread.imaging.volumes import Volume

SHAPE = (32, 32, 2400)
volume = Volume(np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32), Grid(SHAPE, np.eye(4)))
for members in (1, 16):
    folder = Path(tempfile.mkdtemp())
    offsets = [0.1 * i for i in range(members)]
    write_threshold_ensemble(folder, "m", ["b", "a", "c"], [0, 1], offsets, patch=(32, 32, 32))
    predict(load_ensemble(folder), volume, precision="full")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_sixteen_members_of_a_long_volume_never_sit_in_memory_together():
    printed = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT], capture_output=True, text=True, check=True
    ).stdout.split()
    one_mb, sixteen_mb = (float(line) for line in printed)
    all_together_mb = 15 * 3 * 32 * 32 * 2400 * 4 / 2**20
    assert sixteen_mb - one_mb < all_together_mb / 4

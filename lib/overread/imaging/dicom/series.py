"""A DICOM series as a volume: its slices sorted, checked and put on one grid.

Slices are ordered along the normal of their planes, row × column, as ITK orders them: voxel `(i, j, k)` is column i
and row j of the k-th slice. What is missing and can be told with certainty is repaired, and each repair is a
warning in words; where the geometry would have to be guessed, the series is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset

from overread.domain import BadInputError, Grid
from overread.imaging.dicom.damage import damage_named
from overread.imaging.dicom.pixels import PIXEL_KEYWORDS, grey, has_pixels, stored_values
from overread.imaging.dicom.slices import Slice, slices_of
from overread.imaging.volumes import LPS_TO_RAS

# Planes whose unit vectors differ by less are parallel.
PARALLEL = 1e-3
# Slices closer than this lie at one place.
SAME_PLACE_MM = 1e-3
# Distances that differ by less from their median are rounding; by less than the second, an uneven scan.
EVEN, NEARLY_EVEN = 1e-2, 0.1
# Below this the shift of the slices is rounding, above the second they are no stack.
STRAIGHT_DEG, MOST_TILT_DEG = 0.3, 45.0
# A table that sags or a patient who is followed moves slices off the straight line through the first and last.
OFF_LINE_MM = 2.0
# Another stack within a series, such as its localiser, may be left out up to this share.
STRAY_SHARE = 0.2
DEFAULT_MM = 1.0


@dataclass(frozen=True, eq=False)
class SeriesGeometry:
    """Where the slices of a series really lie, and which files they come from.

    Attributes:
        instances: headers of the files, without pixels, repaired.
        sources: for each slice the file's index and the frame in it.
        positions: of each slice's first pixel, mm, LPS, `(slice, 3)`.
        orientation: unit vectors along rows and columns, `(2, 3)`.
        spacing_mm: between rows and between columns.
        size: rows and columns.
    """

    instances: tuple[Dataset, ...]
    sources: tuple[tuple[int, int], ...]
    positions: np.ndarray
    orientation: np.ndarray
    spacing_mm: tuple[float, float]
    size: tuple[int, int]

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the slices, in the order of the slices."""
        return np.cross(self.orientation[0], self.orientation[1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j, k."""
        return self.size[1], self.size[0], len(self.sources)

    @property
    def is_multiframe(self) -> bool:
        """Whether the slices are frames of one enhanced file."""
        return len(self.instances) == 1 and len(self.sources) > 1


@dataclass(frozen=True, eq=False)
class Series:
    """A series as a volume.

    Attributes:
        uid, study_uid, patient, modality: of the series; the patient is the study's where it has no id.
        voxels: in the modality's unit, `(i, j, k)`; int16 where that holds them, else float32.
        grid: where the voxels lie. A tilted gantry is straightened: slices keep their pixels, and lie exactly
            above each other.
        geometry: where the slices really lie.
        warnings: what was repaired or left out, in words.
    """

    uid: str
    study_uid: str
    patient: str
    modality: str
    voxels: np.ndarray
    grid: Grid
    geometry: SeriesGeometry
    warnings: tuple[str, ...]


def read_series(instances: Iterable[Dataset]) -> Series:
    """Make a volume of the files of a series; they lose their pixels on the way.

    Raises:
        BadInputError: it is no volume: no image in it, several stacks, places that are missing or taken twice,
            slices at uneven distances, not behind each other, pixels that cannot be decoded, or a damaged file.
    """
    with damage_named("a file of the series"):
        return _series(instances)


def _series(instances: Iterable[Dataset]) -> Series:
    warnings: list[str] = []
    slices = _read(instances, warnings)
    if not slices:
        raise BadInputError("the series holds no image")
    slices = _one_stack(slices, warnings)
    slices = _with_spacing(slices, warnings)
    slices = [_one_slice(slices[0], warnings)] if len(slices) == 1 else _sorted(slices, warnings)
    first = slices[0]
    positions = np.array([each.position for each in slices])
    assert first.orientation is not None
    assert first.spacing_mm is not None
    grid = _grid(first, positions, _thickness(first, warnings) if len(slices) == 1 else None, warnings)
    header = first.instance
    study, patient = str(header.get("StudyInstanceUID") or ""), str(header.get("PatientID") or "").strip()
    if not patient:
        warnings.append("no PatientID: the study stands for the patient")
    geometry = _geometry(slices, positions)
    return Series(
        uid=str(header.get("SeriesInstanceUID") or ""),
        study_uid=study,
        patient=patient or study,
        modality=str(header.get("Modality") or "OT"),
        voxels=_voxels(slices, warnings),
        grid=grid,
        geometry=geometry,
        warnings=tuple(warnings),
    )


def _read(instances: Iterable[Dataset], warnings: list[str]) -> list[Slice]:
    found: list[Slice] = []
    seen: set[str] = set()
    without = 0
    for instance in instances:
        uid = str(instance.get("SOPInstanceUID") or "")
        if uid in seen:
            continue
        seen.add(uid)
        if not has_pixels(instance):
            without += 1
            continue
        pixels = stored_values(instance)
        header = _without_pixels(instance)
        found += slices_of(header, pixels)
    if without and found:
        warnings.append(f"{without} objects without an image were left out")
    return found


def _without_pixels(instance: Dataset) -> Dataset:
    for keyword in PIXEL_KEYWORDS:
        if keyword in instance:
            delattr(instance, keyword)
    # The decoded pixels that pydicom keeps beside the dataset.
    instance._pixel_array = None
    instance.remove_private_tags()
    return instance


def _one_stack(slices: list[Slice], warnings: list[str]) -> list[Slice]:
    """The slices of one size, orientation and spacing."""
    if len(slices) == 1:
        return slices
    oriented = [each for each in slices if each.orientation is not None]
    if not oriented:
        slices = _axial(slices, warnings)
    elif len(oriented) < len(slices):
        # What all others say holds for a slice that says nothing.
        common = oriented[0].orientation
        warnings.append(
            f"{len(slices) - len(oriented)} slices without ImageOrientationPatient: taken from the others"
        )
        slices = [
            each if each.orientation is not None else replace(each, orientation=common) for each in slices
        ]
    stacks: list[list[Slice]] = []
    for each in slices:
        for stack in stacks:
            if _parallel(stack[0], each):
                stack.append(each)
                break
        else:
            stacks.append([each])
    stacks.sort(key=len, reverse=True)
    strays = len(slices) - len(stacks[0])
    if strays > STRAY_SHARE * len(slices):
        sizes = ", ".join(f"{len(stack)} of {stack[0].size[1]}x{stack[0].size[0]}" for stack in stacks[:4])
        raise BadInputError(
            f"the series holds {len(stacks)} stacks of different orientation or size ({sizes}), expected one"
        )
    if strays:
        warnings.append(f"{strays} slices of another orientation or size were left out (a localiser?)")
    return stacks[0]


def _parallel(first: Slice, second: Slice) -> bool:
    assert first.orientation is not None
    assert second.orientation is not None
    same_plane = np.abs(first.orientation - second.orientation).max() < PARALLEL
    return bool(same_plane) and first.size == second.size


def _axial(slices: list[Slice], warnings: list[str]) -> list[Slice]:
    """Slices without any orientation are axial where their places differ along the body only."""
    places = [each.position for each in slices]
    if any(place is None for place in places):
        raise BadInputError(
            "no slice has an ImageOrientationPatient and some have no ImagePositionPatient: where the slices "
            "lie cannot be told"
        )
    spread = np.ptp(np.array(places), axis=0)
    if not (spread[2] > SAME_PLACE_MM and max(spread[:2]) < SAME_PLACE_MM):
        raise BadInputError(
            "no slice has an ImageOrientationPatient, and the places do not tell it: "
            "where the slices lie cannot be told"
        )
    warnings.append("no ImageOrientationPatient: taken for axial, as the places differ along the body only")
    return [replace(each, orientation=np.eye(3)[:2]) for each in slices]


def _with_spacing(slices: list[Slice], warnings: list[str]) -> list[Slice]:
    known = sorted({each.spacing_mm for each in slices if each.spacing_mm is not None})
    if not known:
        if len(slices) > 1:
            raise BadInputError("no slice has a PixelSpacing: how large its pixels are cannot be told")
        warnings.append(f"no PixelSpacing: pixels are taken for {DEFAULT_MM:g} mm wide")
        return [replace(slices[0], spacing_mm=(DEFAULT_MM, DEFAULT_MM))]
    if np.ptp(np.array(known), axis=0).max() > EVEN * min(known[0]):
        raise BadInputError(f"the slices have pixels of different size, from {known[0]} to {known[-1]} mm")
    if any(each.spacing_mm is None for each in slices):
        warnings.append("some slices without PixelSpacing: taken from the others")
    if (
        "PixelSpacing" not in slices[0].instance
        and "PerFrameFunctionalGroupsSequence" not in slices[0].instance
    ):
        warnings.append("no PixelSpacing: the detector's spacing stands for it")
    return [replace(each, spacing_mm=known[0]) for each in slices]


def _one_slice(only: Slice, warnings: list[str]) -> Slice:
    if only.orientation is None:
        only = replace(only, orientation=np.eye(3)[:2])
        if only.position is not None or only.instance.get("Modality") in ("CT", "MR", "PT", "NM"):
            warnings.append("no ImageOrientationPatient: the only slice is taken for axial")
    if only.position is None:
        only = replace(only, position=np.zeros(3))
    return only


def _thickness(only: Slice, warnings: list[str]) -> float:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        try:
            thickness = abs(float(only.instance.get(keyword)))
        except (TypeError, ValueError):
            continue
        if thickness > 0:
            return thickness
    warnings.append(f"a single slice of unknown thickness: taken for {DEFAULT_MM:g} mm thick")
    return DEFAULT_MM


def _sorted(slices: list[Slice], warnings: list[str]) -> list[Slice]:
    orientation = slices[0].orientation
    assert orientation is not None
    normal = np.cross(orientation[0], orientation[1])
    slices = _with_positions(slices, normal, warnings)
    placed = sorted(slices, key=lambda each: _along(each, normal))
    along = np.array([_along(each, normal) for each in placed])
    gaps = np.diff(along)
    if (gaps < SAME_PLACE_MM).any():
        places = 1 + int((gaps >= SAME_PLACE_MM).sum())
        raise BadInputError(
            f"{len(placed)} slices lie at {places} places: time points, echoes or phases in one series, no volume"
        )
    typical = float(np.median(gaps))
    worst = int(np.abs(gaps - typical).argmax())
    deviation = abs(gaps[worst] - typical) / typical
    if deviation > NEARLY_EVEN:
        raise BadInputError(
            f"the slices lie {typical:.4g} mm apart, but {gaps[worst]:.4g} mm between slice {worst + 1} and "
            f"{worst + 2} of {len(placed)}: a slice is missing, or the scan changes its distance"
        )
    if deviation > EVEN:
        warnings.append(
            f"uneven distances between slices, {gaps.min():.4g} to {gaps.max():.4g} mm: their mean stands for all"
        )
    return placed


def _with_positions(slices: list[Slice], normal: np.ndarray, warnings: list[str]) -> list[Slice]:
    lacking = [each for each in slices if each.position is None]
    if not lacking:
        return slices
    known = [each.position for each in slices if each.position is not None]
    origin = known[0] - normal * (known[0] @ normal) if known else np.zeros(3)
    # SliceLocation has a zero of its own; what one slice says of both ties them together.
    offsets = [
        float(each.position @ normal) - float(each.instance.SliceLocation)
        for each in slices
        if each.position is not None and each.instance.get("SliceLocation") is not None
    ]
    if any(each.instance.get("SliceLocation") is None for each in lacking) or (known and not offsets):
        raise BadInputError(
            f"{len(lacking)} of {len(slices)} slices have no ImagePositionPatient, and no SliceLocation tells it"
        )
    warnings.append(f"{len(lacking)} slices without ImagePositionPatient: placed by their SliceLocation")
    shift = float(np.median(offsets)) if offsets else 0.0
    return [
        each
        if each.position is not None
        else replace(each, position=origin + normal * (float(each.instance.SliceLocation) + shift))
        for each in slices
    ]


def _along(each: Slice, normal: np.ndarray) -> float:
    assert each.position is not None
    return float(each.position @ normal)


def _grid(first: Slice, positions: np.ndarray, thickness: float | None, warnings: list[str]) -> Grid:
    assert first.orientation is not None
    assert first.spacing_mm is not None
    along_row, along_column = first.orientation
    normal = np.cross(along_row, along_column)
    between_rows, between_columns = first.spacing_mm
    step = thickness
    if step is None:
        run = positions[-1] - positions[0]
        height = float(run @ normal)
        step = height / (len(positions) - 1)
        _check_straight(positions, run, height, normal, warnings)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * between_columns, along_column * between_rows
    affine[:3, 2], affine[:3, 3] = normal * step, positions[0]
    rows, columns = first.size
    return Grid((columns, rows, len(positions)), LPS_TO_RAS @ affine)


def _check_straight(
    positions: np.ndarray, run: np.ndarray, height: float, normal: np.ndarray, warnings: list[str]
) -> None:
    share = ((positions - positions[0]) @ normal) / height
    off_mm = np.linalg.norm(positions - positions[0] - share[:, None] * run, axis=1)
    if off_mm.max() > OFF_LINE_MM:
        raise BadInputError(
            f"slice {int(off_mm.argmax()) + 1} of {len(positions)} lies {off_mm.max():.3g} mm beside the line "
            "through the first and the last: they are no straight stack"
        )
    tilt_deg = float(np.degrees(np.arctan2(np.linalg.norm(run - height * normal), height)))
    if tilt_deg > MOST_TILT_DEG:
        raise BadInputError(
            f"the slices are shifted against each other by {tilt_deg:.0f}°: they are no stack"
        )
    if tilt_deg > STRAIGHT_DEG:
        warnings.append(
            f"the gantry was tilted by {tilt_deg:.1f}°: the volume is straightened, its slices as they were taken"
        )


def _geometry(slices: Sequence[Slice], positions: np.ndarray) -> SeriesGeometry:
    """Headers with what was repaired written into them, so that objects made from them are whole."""
    first = slices[0]
    assert first.orientation is not None
    assert first.spacing_mm is not None
    unique: dict[int, int] = {}
    instances: list[Dataset] = []
    sources = []
    for each in slices:
        if id(each.instance) not in unique:
            unique[id(each.instance)] = len(instances)
            instances.append(each.instance)
        sources.append((unique[id(each.instance)], each.frame))
        if "PerFrameFunctionalGroupsSequence" not in each.instance:
            _fill(each.instance, "ImagePositionPatient", positions[len(sources) - 1])
            _fill(each.instance, "ImageOrientationPatient", first.orientation.ravel())
            _fill(each.instance, "PixelSpacing", np.array(first.spacing_mm))
    return SeriesGeometry(
        tuple(instances), tuple(sources), positions, first.orientation, first.spacing_mm, first.size
    )


def _fill(header: Dataset, keyword: str, numbers: np.ndarray) -> None:
    value = header.get(keyword)
    if value is None or len(value) != len(numbers):
        # A decimal string has at most 16 characters.
        setattr(header, keyword, [f"{number:.9g}" for number in numbers])


def _voxels(slices: Sequence[Slice], warnings: list[str]) -> np.ndarray:
    rows, columns = slices[0].size
    voxels = np.empty((columns, rows, len(slices)), np.float32)
    if slices[0].pixels.ndim == 3:
        warnings.append("a colour image: its luminance is read")
    for k, each in enumerate(slices):
        values = grey(each.pixels).astype(np.float32) * each.slope + each.intercept
        if str(each.instance.get("PhotometricInterpretation")) == "MONOCHROME1":
            values = _turned(each, values)
        voxels[:, :, k] = values.T
    if any(str(each.instance.get("PhotometricInterpretation")) == "MONOCHROME1" for each in slices):
        warnings.append("the lowest value is meant as white (MONOCHROME1): values were turned round")
    if not np.isfinite(voxels).all():
        raise BadInputError("the pixels hold NaN or infinite values")
    whole = bool((voxels == np.rint(voxels)).all())
    small = float(np.abs(voxels).max(initial=0)) <= np.iinfo(np.int16).max
    return voxels.astype(np.int16) if whole and small else voxels


def _turned(each: Slice, values: np.ndarray) -> np.ndarray:
    """Bright for dark, within the range that the stored bits span."""
    bits = int(each.instance.get("BitsStored") or 8)
    signed = int(each.instance.get("PixelRepresentation") or 0) == 1
    lowest, highest = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return (lowest + highest) * each.slope + 2 * each.intercept - values

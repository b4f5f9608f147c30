"""What an ensemble is worth on cases that it never saw: Dice case by case, and whether its doubt finds its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from overread.domain import PatchLocation
from overread.domain.labels import IGNORE
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.prediction import predict
from overread.imaging.volumes import Volume, read_volume
from overread.metrics.calibration import expected_calibration_error, foreground_region
from overread.metrics.overlap import dice
from overread.metrics.selective import risk_coverage
from overread.studies.uga.bench import Bench, patch_about
from overread.studies.uga.looking import ENTROPY, Look, Looking
from overread.studies.uga.sets import StudyCase
from overread.uncertainty.calibration import band_map

# Doubt is judged voxel by voxel, on so many patches of each domain and so many voxels of each.
PATCHES, VOXELS = 12, 4000


def truth_of(bench: Bench, case: StudyCase, look: Look) -> np.ndarray:
    """Classes in the shape of what was said."""
    if bench.study_set.axes == 3:
        return bench.study_set.volume_truth(case)
    rows, columns = look.labels.shape
    with bench.study_set.open(case) as slide:
        return bench.study_set.truth(case, slide.bounds, (columns, rows)).astype(np.int32)


def voxel_mm(bench: Bench, case: StudyCase) -> float:
    """Area of a model's pixel in mm², volume of a voxel in mm³."""
    if bench.study_set.axes == 3:
        return float(np.prod(read_volume((case.image,)).grid.spacing_mm))
    return (bench.study_set.pixel_size.um / 1000) ** 2


def case_row(bench: Bench, case: StudyCase, look: Look) -> dict[str, Any]:
    """Dice of one case; null where the truth holds no class, and then what was called one counts."""
    truth = truth_of(bench, case, look)
    classes = bench.study_set.classes
    known = truth != IGNORE
    found = dice(look.labels[known].astype(np.int32), truth[known], len(classes), both_empty=float("nan"))
    per_class = {
        name: float(value) for name, value in zip(classes[1:], found, strict=True) if np.isfinite(value)
    }
    has_truth = bool((truth[known] > 0).any())
    false = float((look.labels[known & (truth == 0)] > 0).sum()) * voxel_mm(bench, case)
    return {
        "domain": case.domain,
        "case": case.id,
        "patient": case.patient,
        "kind": case.kind,
        "dice": float(np.mean(list(per_class.values()))) if has_truth else None,
        "dice_per_class": per_class if has_truth else {},
        "false_mm2": false,
    }


def judge_cases(
    bench: Bench, at: Looking, cases: Sequence[StudyCase], told: Callable[[float], None]
) -> list[dict[str, Any]]:
    """`case_row` of each."""
    rows: list[dict[str, Any]] = []
    ensembles = {domain: at(domain) for domain in {case.domain for case in cases}}
    for number, case in enumerate(cases):
        look = bench.look(ensembles[case.domain], case)
        rows.append(case_row(bench, case, look))
        told((number + 1) / len(cases))
    return rows


def judge_doubt(bench: Bench, at: Looking, domains: Sequence[str]) -> list[dict[str, Any]]:
    """By domain: does doubt come with errors, do probabilities mean what they say, what do the bands hold?"""
    return [_doubt_of(bench, at(domain), domain) for domain in domains]


def _doubt_of(bench: Bench, ensemble: Ensemble, domain: str) -> dict[str, Any]:
    bands = ensemble.calibration.bands.get(ENTROPY)
    doubts, wrongs, sures, sures_raw, rights = [], [], [], [], []
    rng = np.random.default_rng([bench.seed, 8])
    for volume, truth in _samples(bench, domain, rng):
        mean, raw = _both_temperatures(ensemble, volume, bench.device)
        said, known = mean.argmax(axis=0), truth != IGNORE
        region = foreground_region(said, np.where(known, truth, 0), spacing_mm=volume.grid.spacing_mm) & known
        doubt = -(mean * np.log(np.maximum(mean, 1e-12))).sum(axis=0)
        places = np.flatnonzero(known)
        places = places[rng.permutation(len(places))[:VOXELS]]
        doubts.append(doubt.ravel()[places].astype(np.float32))
        wrongs.append((said != truth).ravel()[places])
        near = np.flatnonzero(region)
        near = near[rng.permutation(len(near))[:VOXELS]]
        sures.append(mean.max(axis=0).ravel()[near])
        sures_raw.append(raw.max(axis=0).ravel()[near])
        rights.append((said == truth).ravel()[near])
    doubt, wrong = np.concatenate(doubts), np.concatenate(wrongs)
    right = np.concatenate(rights)
    curve = risk_coverage(doubt, wrong)
    told: dict[str, Any] = {
        "domain": domain,
        "voxels": int(doubt.size),
        "error_share": float(wrong.mean()),
        "aurc": curve.aurc,
        "augrc": curve.augrc,
        "ece_before": expected_calibration_error(np.concatenate(sures_raw), right) if right.size else None,
        "ece_after": expected_calibration_error(np.concatenate(sures), right) if right.size else None,
        "temperature": ensemble.calibration.temperature,
    }
    names = ("shown_in_high", "shown_in_moderate", "errors_in_high", "errors_in_moderate")
    if bands is None:
        return told | dict.fromkeys(names)
    band = band_map(doubt, bands)
    errors = int(wrong.sum())
    return told | {
        "shown_in_high": float((band == 2).mean()),
        "shown_in_moderate": float((band > 0).mean()),
        "errors_in_high": float((band[wrong] == 2).mean()) if errors else None,
        "errors_in_moderate": float((band[wrong] > 0).mean()) if errors else None,
    }


def _both_temperatures(ensemble: Ensemble, volume: Volume, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities `(class, *space)` at the ensemble's temperature, and at 1."""
    mean = predict(ensemble, volume, measures=(), device=device).probabilities.numpy()
    if ensemble.calibration.temperature == 1:
        return mean, mean
    plain = replace(ensemble, calibration=replace(ensemble.calibration, temperature=1.0))
    return mean, predict(plain, volume, measures=(), device=device).probabilities.numpy()


def _samples(bench: Bench, domain: str, rng: np.random.Generator) -> list[tuple[Volume, np.ndarray]]:
    """Patches of a domain's judges with their truth, or whole volumes, `PATCHES` of them."""
    ids = bench.division.test[domain]
    chosen = [ids[index] for index in rng.permutation(len(ids))[:PATCHES]]
    cases = [bench.study_set.by_id[name] for name in chosen]
    if bench.study_set.axes == 3:
        return [(read_volume((case.image,)), bench.study_set.volume_truth(case)) for case in cases]
    found = []
    for number in range(PATCHES):
        location = random_patch(bench, cases[number % len(cases)], rng)
        picture = bench.image_of(location.name)
        assert picture is not None
        found.append((read_volume((picture,)), bench.label_of(location).astype(np.int32)))
    return found


def random_patch(bench: Bench, case: StudyCase, rng: np.random.Generator) -> PatchLocation:
    """A patch of the size that is asked about, its middle anywhere in tissue."""
    with bench.study_set.open(case) as slide:
        edge = patch_px0(bench, slide.pixel_size.um)
        return PatchLocation(case.id, patch_about(bench.study_set.tissue(slide), slide, edge, rng))


def patch_px0(bench: Bench, um: float) -> int:
    """Edge of an asked patch in level-0 pixels of that size."""
    assert bench.study_set.patch_px is not None
    return max(1, round(bench.study_set.patch_px * bench.study_set.pixel_size.um / um))

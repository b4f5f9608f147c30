"""Labels that no reader gave: what a model says of pictures of a place that it knows the batch statistics of.

Self-training (pseudo-labels, Lee 2013) on the answers of AdaBN (Li et al. 2016, arXiv:1603.04779): with a laboratory's
own batch statistics a model of another laboratory is often right there, and often enough sure of it. Where it is sure,
its answers are shown to the same model without those statistics, which so learns the other stain with every class in
it; and labels of readers, few and perhaps of one class alone, no longer decide what that stain stands for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from overread.domain.labels import IGNORE
from overread.ensemble.adabn import adapt_ensemble
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble
from overread.imaging.volumes import read_volume, write_nifti
from overread.learning.training_set import LocalCase

# Pixels of which the members' mean is surer than that teach; of the others nothing is said.
SURE = 0.8


def pseudo_labelled(
    model: Path,
    pictures: Mapping[str, Sequence[Path]],
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    sure: float = SURE,
    heard: Callable[[int, int], None] = lambda _done, _of: None,
) -> list[LocalCase]:
    """Let a model label pictures of other places, each place with its own batch statistics.

    Args:
        model: folder of an ensemble of kind `dynunet` whose plan says `norm: batch`.
        pictures: by place; at least one each. Their names tell them apart.
        folder: keeps the labels; what was there goes.
        sure: share that the members' mean must give a class.
        heard: is told how many pictures are done, and of how many; may raise to cancel.

    Returns:
        A case for each picture, for `training_set.with_unlabelled`.

    Raises:
        BadInputError: the model keeps no batch statistics, or a picture cannot be read.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cases = pseudo_cases(pictures, folder)
    done = 0
    for number, place in enumerate(sorted(pictures)):
        adapted = folder / f"adapted_{number}"
        adapt_ensemble(model, [(path,) for path in pictures[place]], adapted, device=device, seed=seed)
        ensemble = load_ensemble(adapted, device, verify=False)
        for case in cases:
            if case.centre == place:
                _label(ensemble, case, device, sure)
                done += 1
                heard(done, len(cases))
        shutil.rmtree(adapted)
    return cases


def pseudo_cases(pictures: Mapping[str, Sequence[Path]], folder: Path) -> list[LocalCase]:
    """The cases that `pseudo_labelled` makes of these pictures in that folder."""
    return [
        LocalCase(name, (path,), folder / f"{name}.nii.gz", name, False, place)
        for place in sorted(pictures)
        for path in pictures[place]
        for name in (f"pseudo-{path.stem}",)
    ]


def _label(ensemble: Ensemble, case: LocalCase, device: torch.device | str, sure: float) -> None:
    volume = read_volume(case.channels)
    shares = predict(ensemble, volume, measures=(), device=device).probabilities
    surest, classes = shares.max(dim=0)
    said = torch.where(surest >= sure, classes, IGNORE)
    write_nifti(case.label, said.cpu().numpy().astype(np.uint8), volume.grid)

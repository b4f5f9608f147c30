"""Batch statistics are those of the pictures that are shown; nothing else of an ensemble changes."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from overread.domain import BadInputError
from overread.ensemble.adabn import adapt_ensemble, estimate_statistics
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description
from overread.ensemble.threshold import write_threshold_ensemble
from overread.ensemble.training import train_ensemble
from overread.imaging.dataset import read_dataset
from overread.imaging.volumes import read_volume
from support.pictures import EXACT, TINY, tissue, write_tissue

# Another laboratory: everything is darker and bluer.
TINT = (0.55, 0.6, 0.8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members with batch norm."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = read_dataset(write_tissue(folder / "data", 6))
    return train_ensemble("tissue", dataset, folder / "work", EXACT, {**TINY, "norm": "batch", "stain": 0.0})


def pictures(folder: Path, cases: int) -> list[tuple[Path, np.ndarray]]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(50)
    found = []
    for index in range(cases):
        picture, label = tissue(rng, tint=TINT)
        Image.fromarray(picture).save(folder / f"{index}.png")
        found.append((folder / f"{index}.png", label.T))
    return found


def mean_dice(folder: Path, shown: list[tuple[Path, np.ndarray]]) -> float:
    ensemble = load_ensemble(folder)
    values = []
    for path, label in shown:
        said = predict(ensemble, read_volume([path]), measures=()).labels > 0
        values.append(2 * (said & (label > 0)).sum() / max(1, said.sum() + (label > 0).sum()))
    return float(np.mean(values))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix in (".pt", ".json")
    }


def test_statistics_are_the_plain_mean_over_the_batches_and_nothing_else_changes() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1))
    network.eval()
    before = network[0].weight.detach().clone()
    batches = [torch.tensor(pair).reshape(2, 1, 1, 1) for pair in ([0.0, 2.0], [4.0, 8.0])]
    estimate_statistics(network, batches)
    # Means 1 and 6; unbiased variances 2 and 8.
    assert float(network[0].running_mean) == pytest.approx(3.5)
    assert float(network[0].running_var) == pytest.approx(5.0)
    assert torch.equal(network[0].weight, before)
    assert not network.training
    assert network[0].momentum == 0.1


def test_an_adapted_ensemble_sees_better_at_the_other_place_and_the_first_one_stays(
    trained: Path, tmp_path: Path
) -> None:
    shown = pictures(tmp_path / "local", 6)
    before = hashes(trained)
    adapted = adapt_ensemble(trained, [(path,) for path, _ in shown], tmp_path / "adapted")
    assert hashes(trained) == before
    old, new = read_description(trained), read_description(adapted)
    assert new["identity"] != old["identity"]
    assert new["parent"] == old["identity"]
    assert new["adabn"] == {"images": 6, "batches": 20, "seed": 0}
    for name in old["members"]:
        one, other = (torch.load(folder / name, weights_only=True) for folder in (trained, adapted))
        changed = {key for key in one if not torch.equal(one[key], other[key])}
        assert changed
        assert all(
            key.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
            for key in changed
        )
    assert mean_dice(adapted, shown) > mean_dice(trained, shown) + 0.2


def test_the_same_pictures_and_chance_give_the_same_ensemble(trained: Path, tmp_path: Path) -> None:
    images = [(path,) for path, _ in pictures(tmp_path / "local", 2)]
    folders = [adapt_ensemble(trained, images, tmp_path / name, batches=2) for name in ("one", "other")]
    first, second = (read_description(folder)["identity"] for folder in folders)
    assert first == second


def test_what_cannot_be_adapted_is_refused_in_words(trained: Path, tmp_path: Path) -> None:
    images = [(path,) for path, _ in pictures(tmp_path / "local", 1)]
    dataset = read_dataset(write_tissue(tmp_path / "data", 4))
    instance = train_ensemble("plain", dataset, tmp_path / "work", replace(EXACT, iterations=1), TINY)
    with pytest.raises(BadInputError, match="plain normalises by instance and keeps no batch statistics"):
        adapt_ensemble(instance, images, tmp_path / "a")
    write_threshold_ensemble(tmp_path / "cuts", "bright", ("background", "organ"), [0.5])
    with pytest.raises(BadInputError, match="bright is of kind threshold"):
        adapt_ensemble(tmp_path / "cuts", images, tmp_path / "a")
    with pytest.raises(BadInputError, match="tissue cannot be adapted without an image"):
        adapt_ensemble(trained, [], tmp_path / "b")
    with pytest.raises(BadInputError, match="exists already"):
        adapt_ensemble(trained, images, trained)

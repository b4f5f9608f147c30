"""The folds of a trained nnU-Net v2 model as the members of an ensemble.

Images are cropped, normalised and resampled by nnunetv2's own preprocessor, the network is the one that the
trainer built, and the way back follows the resampling function that the plans name. Mirroring at test time is
left out: the folds are the opinions.

`nnUNetv2_predict` averages the *logits* of several folds before the softmax; Overread averages their
*probabilities*, as `nnUNetv2_ensemble` does and as every measure of disagreement needs.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from overread.domain import BadInputError, NotFoundError, OverreadError, install_command
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.importing import whole_folder
from overread.ensemble.nnunet_model import NnunetModel, last_line
from overread.ensemble.storage import KINDS, calibration_from_json, write_description

ALL_AVAILABLE = "all available"


def import_nnunet(
    results_dir: Path,
    name: str,
    target_folder: Path,
    *,
    folds: Sequence[int | str] | str = ALL_AVAILABLE,
    checkpoint: str = "checkpoint_final.pth",
) -> Path:
    """Make an ensemble folder of the folds of a trained nnU-Net v2 model.

    Args:
        results_dir: a folder such as `nnUNetTrainer__nnUNetPlans__3d_fullres`, or the dataset's folder around it
            if that holds one trained configuration only.
        name: the recipe's name.
        target_folder: a new or empty folder.
        folds: fold numbers (or `"all"` for the fold trained on everything); by default every fold that has the
            checkpoint, `fold_all` only where there is no other.
        checkpoint: which of nnU-Net's checkpoints to take.

    Returns:
        `target_folder`.

    Raises:
        NotFoundError: no trained model or no such fold there.
        BadInputError: several configurations to choose from, a cascade, regions instead of classes, a checkpoint
            that is damaged or holds more than weights and numbers.
        OverreadError: nnunetv2 is not installed.
    """
    _require_nnunetv2()
    model_folder = _model_folder(Path(results_dir))
    dataset = _read_json(model_folder / "dataset.json")
    plans = _read_json(model_folder / "plans.json")
    paths = _fold_checkpoints(model_folder, folds, checkpoint)
    with whole_folder(Path(target_folder)) as staging:
        files, trainers, configurations = [], set(), set()
        for fold, path in paths.items():
            content = _read_checkpoint(path)
            trainers.add(content["trainer_name"])
            configurations.add(content["init_args"]["configuration"])
            files.append(f"member_{fold}.pt")
            weights = {key: value.detach().cpu() for key, value in content["network_weights"].items()}
            torch.save(weights, staging / files[-1])
        if len(trainers) > 1 or len(configurations) > 1:
            raise BadInputError(
                f"the folds in {model_folder} were not trained alike: {sorted(trainers)}, {sorted(configurations)}"
            )
        model = NnunetModel(dataset, plans, configurations.pop(), trainers.pop())
        model.check(str(model_folder))
        for file in files:
            model.member(torch.load(staging / file, weights_only=True))
        plan = {
            "configuration": model.configuration_name,
            "trainer": model.trainer,
            "checkpoint": checkpoint,
            "folds": list(paths),
            "dataset": dataset,
            "plans": plans,
        }
        description = {
            "kind": "nnunet",
            "name": name,
            "classes": list(model.classes),
            "channels": list(model.channels),
            "plan": plan,
            "members": files,
            "calibration": None,
        }
        write_description(staging, description)
    return Path(target_folder)


@KINDS.register("nnunet")
def load(folder: Path, description: dict[str, Any], device: torch.device) -> Ensemble:
    """Load what `import_nnunet` wrote. Raises OverreadError where nnunetv2 is not installed."""
    _require_nnunetv2()
    plan = description["plan"]
    model = NnunetModel(plan["dataset"], plan["plans"], plan["configuration"], plan["trainer"])
    members = []
    for name in description["members"]:
        weights = torch.load(folder / name, map_location=device, weights_only=True)
        members.append(model.member(weights).to(device))
    return Ensemble(
        name=description["name"],
        classes=tuple(description["classes"]),
        channels=tuple(description["channels"]),
        members=members,
        patch=model.patch,
        prepare=model.prepare,
        calibration=calibration_from_json(description.get("calibration")),
        identity=description["identity"],
        folder=folder,
        metadata={
            "source": "nnU-Net v2",
            "dataset": model.plans_manager.dataset_name,
            "plans": model.plans_manager.plans_name,
            "configuration": model.configuration_name,
            "trainer": model.trainer,
            "folds": plan["folds"],
        },
    )


def _require_nnunetv2() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nnunetv2.utilities.plans_handling.plans_handler  # noqa: F401
    except ImportError as error:
        raise OverreadError(
            f"nnU-Net models need the package nnunetv2 ({error}): {install_command('nnunet')}"
        ) from error


def _model_folder(folder: Path) -> Path:
    if (folder / "plans.json").exists() and (folder / "dataset.json").exists():
        return folder
    found = sorted(path.parent for path in folder.glob("*/plans.json")) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(path.name for path in found)
        raise BadInputError(f"{folder} holds several trained models; name one of {choices}")
    raise NotFoundError(
        f"{folder} holds no trained nnU-Net v2 model: expected plans.json, dataset.json and fold_* in it, "
        "as in nnUNet_results/Dataset001_Name/nnUNetTrainer__nnUNetPlans__3d_fullres"
    )


def _fold_checkpoints(folder: Path, folds: Sequence[int | str] | str, checkpoint: str) -> dict[str, Path]:
    """Checkpoint file by fold name, in fold order."""
    found = {
        path.parent.name.removeprefix("fold_"): path for path in sorted(folder.glob(f"fold_*/{checkpoint}"))
    }
    if not found:
        others = sorted({path.name for path in folder.glob("fold_*/*.pth")})
        hint = f"; there is {', '.join(others)}" if others else ""
        raise NotFoundError(f"{folder} has no fold with a {checkpoint}{hint}")
    if folds == ALL_AVAILABLE:
        return {fold: path for fold, path in found.items() if fold != "all"} or found
    wanted = [folds] if isinstance(folds, str) else [str(fold) for fold in folds]
    missing = [fold for fold in wanted if fold not in found]
    if missing or not wanted:
        raise NotFoundError(f"{folder} has no fold {', '.join(missing)}; it has {', '.join(found)}")
    return {fold: found[fold] for fold in wanted}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise BadInputError(f"{path} is not valid JSON: {error}") from error


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read weights and numbers, never code: what nnunetv2 pickles beside tensors are numpy numbers."""
    scalar = np.core.multiarray.scalar  # type: ignore[attr-defined]
    numbers = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    # numpy 2 calls the module by another name.
    allowed = [scalar, (scalar, "numpy._core.multiarray.scalar"), np.dtype, *numbers]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True)
        _ = content["network_weights"], content["trainer_name"], content["init_args"]["configuration"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise BadInputError(
            f"{path} is not an nnU-Net v2 checkpoint, is damaged, or holds more than weights: {last_line(error)}"
        ) from error
    return content

"""nnU-Net v2 as it comes, trained for a given number of minutes, to stand beside our own ensemble.

Fingerprint, plan, preprocessing, network, augmentation, loss and optimiser are nnunetv2's defaults (`3d_fullres`,
five folds). Only the length differs: instead of 1000 epochs each fold trains for its share of the minutes, and the
polynomial learning rate falls with the share of the time that is spent, so that the schedule is complete. Minutes
are processor time of the training process (with one thread: wall time of an otherwise idle core), so that what else
runs on the machine does not count against it.

    python -m overread.studies.nnunet_rival --raw FOLDER --work FOLDER --minutes 25
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path

DATASET_ID = 999
POLY_EXPONENT = 0.9
FOLDS = 5


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", type=Path, required=True, help="training data in nnU-Net raw layout")
    parser.add_argument("--work", type=Path, required=True, help="where nnU-Net keeps its three folders")
    parser.add_argument("--minutes", type=float, required=True, help="processor minutes, all folds together")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    print(train_nnunet(arguments.raw, arguments.work, arguments.minutes, arguments.threads))


def train_nnunet(raw: Path, work: Path, minutes: float, threads: int | None = None) -> Path:
    """Plan, preprocess and train five folds. Returns nnU-Net's results folder; finished folds are not repeated."""
    dataset = f"Dataset{DATASET_ID}_Study"
    folders = {name: work / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    if not (folders["nnUNet_raw"] / dataset).exists():
        shutil.copytree(raw, folders["nnUNet_raw"] / dataset)

    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )

    plans_file = folders["nnUNet_preprocessed"] / dataset / "nnUNetPlans.json"
    if not plans_file.exists():
        extract_fingerprints([DATASET_ID], num_processes=1)
        plan_experiments([DATASET_ID])
        preprocess([DATASET_ID], configurations=("3d_fullres",), num_processes=(1,))
    # Augmentation in the training process: the time that it costs counts. (The planner refuses 0, hence here.)
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112
    results = folders["nnUNet_results"] / dataset / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    if threads:
        torch.set_num_threads(threads)  # only now, as the planner sets it as well
    for fold in range(FOLDS):
        if not (results / f"fold_{fold}" / "checkpoint_final.pth").exists():
            _train_fold(
                plans_file, folders["nnUNet_raw"] / dataset / "dataset.json", fold, 60 * minutes / FOLDS
            )
    return results


def _train_fold(plans_file: Path, dataset_json: Path, fold: int, budget_s: float) -> None:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans = json.loads(plans_file.read_text()) | {"continue_training": False}
    trainer = nnUNetTrainer(
        plans, "3d_fullres", fold, json.loads(dataset_json.read_text()), device=torch.device("cpu")
    )
    trainer.initialize()
    trainer.on_train_start()
    assert trainer.network is not None
    assert trainer.optimizer is not None
    trainer.network.train()
    started, steps, loss = time.process_time(), 0, float("nan")
    while (share := (time.process_time() - started) / budget_s) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - share) ** POLY_EXPONENT
        loss = float(trainer.train_step(next(trainer.dataloader_train))["loss"])  # type: ignore[arg-type]
        steps += 1
    folder = Path(str(trainer.output_folder))
    trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    facts = {"fold": fold, "steps": steps, "seconds": time.process_time() - started, "last_loss": loss}
    (folder / "facts.json").write_text(json.dumps(facts) + "\n")
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()

"""Claim: an imported nnU-Net v2 model says what nnunetv2's own predictor says, on the input's grid.

The model is trained here by nnunetv2 itself, on anisotropic volumes with an empty border. The reference is
nnunetv2's predictor, fold by fold, mirroring off, probabilities averaged over folds as `nnUNetv2_ensemble` does.

nnunetv2 adds its windows up in float16 with weights that fall to 4e-10 at a window's corners, less than float16
can hold. Along the rim of an image, where no other window helps, that rounding moves its probabilities by 0.1 and
more. The comparison is therefore made three times: over every voxel with its sums kept in float32 (the only
change), and with nnunetv2 untouched over every voxel where we round as it does, and away from the rim where we do not.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from overread.domain import BadInputError, Grid, NotFoundError, OverreadError
from overread.ensemble.ensemble import Ensemble
from overread.ensemble.nnunet import import_nnunet
from overread.ensemble.prediction import predict
from overread.ensemble.storage import load_ensemble, read_description
from overread.imaging.volumes import Volume, read_volume, write_nifti
from overread.studies.tiny_nnunet import make_case, train_tiny_nnunet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]
TOLERANCE = 1e-3
SHAPE = (80, 25, 60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny_nnunet(tmp_path_factory.mktemp("nnunet"))


@pytest.fixture(scope="module")
def ensemble(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    return load_ensemble(import_nnunet(model, "tiny", tmp_path_factory.mktemp("imported") / "tiny"))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case larger than the patch on every axis, with a spacing that no training case has."""
    path = tmp_path_factory.mktemp("case") / "case_0000.nii.gz"
    image, _, grid = make_case(np.random.default_rng(9), SHAPE, (0.7, 5.1, 1.0))
    write_nifti(path, image, grid)
    return path


def nnunet_probabilities(model: Path, case: Path, folds: tuple[int, ...]) -> np.ndarray:
    """nnunetv2's mean probabilities `(class, i, j, k)`, fold by fold."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    of_folds = []
    for fold in folds:
        predictor.initialize_from_trained_model_folder(str(model), (fold,))
        reader = predictor.plans_manager.image_reader_writer_class()
        image, properties = reader.read_images([str(case)])
        of_folds.append(predictor.predict_single_npy_array(image, properties, None, None, True)[1])
    return np.mean(of_folds, axis=0).transpose(0, 3, 2, 1)


class TorchWithoutHalf:
    """The torch module, except that `half` has 32 bits."""

    def __getattr__(self, name: str) -> object:
        return getattr(torch, "float32" if name == "half" else name)


@pytest.fixture
def exact_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnunetv2's sliding window sum in float32, with weights in float32."""
    from nnunetv2.inference import predict_from_raw_data as theirs

    weights = functools.partial(theirs.compute_gaussian, dtype=torch.float32)
    monkeypatch.setattr(theirs, "torch", TorchWithoutHalf())
    monkeypatch.setattr(theirs, "compute_gaussian", weights)


@pytest.mark.usefixtures("exact_sums")
def test_two_folds_agree_with_nnunetv2_at_every_voxel(model: Path, ensemble: Ensemble, case: Path) -> None:
    prediction = predict(ensemble, read_volume([case]), precision="full")
    reference = nnunet_probabilities(model, case, (0, 1))
    assert (prediction.labels > 0).sum() > 100, "the model found nothing: the comparison would mean little"
    np.testing.assert_allclose(prediction.probabilities.numpy(), reference, atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("exact_sums")
def test_one_fold_agrees_with_nnunetv2_at_every_voxel(model: Path, case: Path, tmp_path: Path) -> None:
    only = load_ensemble(import_nnunet(model, "tiny", tmp_path / "only", folds=[1]))
    prediction = predict(only, read_volume([case]), precision="full")
    reference = nnunet_probabilities(model, case, (1,))
    assert len(only.members) == 1
    np.testing.assert_allclose(prediction.probabilities.numpy(), reference, atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def untouched(model: Path, case: Path) -> np.ndarray:
    """What nnunetv2 says as it comes."""
    return nnunet_probabilities(model, case, (0, 1))


def test_agrees_with_nnunetv2_untouched_at_every_voxel_with_sums_as_coarse(
    ensemble: Ensemble, case: Path, untouched: np.ndarray
) -> None:
    prediction = predict(ensemble, read_volume([case]), precision="full", half_sums=True)
    np.testing.assert_allclose(prediction.probabilities.numpy(), untouched, atol=TOLERANCE, rtol=0)


def test_agrees_with_nnunetv2_untouched_away_from_the_rim(
    ensemble: Ensemble, case: Path, untouched: np.ndarray
) -> None:
    prediction = predict(ensemble, read_volume([case]), precision="full")
    difference = np.abs(prediction.probabilities.numpy() - untouched).max(axis=0)
    box = difference[4:-3, 1:-1, 3:-5]
    assert box[4:-4, 2:-2, 4:-4].max() <= TOLERANCE
    assert (box > TOLERANCE).mean() < 0.02


@pytest.mark.usefixtures("exact_sums")
def test_agrees_with_nnunetv2_on_an_oblique_image_smaller_than_the_patch(
    model: Path, ensemble: Ensemble, tmp_path: Path
) -> None:
    angle = np.deg2rad(25)
    affine = np.array(
        [
            [-0.9 * np.cos(angle), 0, 1.3 * np.sin(angle), 12],
            [-0.9 * np.sin(angle), 0, -1.3 * np.cos(angle), -30],
            [0, 4.4, 0, 7],
            [0, 0, 0, 1.0],
        ]
    )
    image, _, grid = make_case(np.random.default_rng(2), (30, 8, 27), affine=affine)
    case = tmp_path / "oblique_0000.nii.gz"
    write_nifti(case, image, grid)
    prediction = predict(ensemble, read_volume([case]), precision="full")
    assert prediction.grid.difference_from(grid) is None
    reference = nnunet_probabilities(model, case, (0, 1))
    np.testing.assert_allclose(prediction.probabilities.numpy(), reference, atol=TOLERANCE, rtol=0)


def edited(model: Path, target: Path, file: str, change: dict[str, object]) -> Path:
    """A copy of the model's folder with some entries of a JSON file changed."""
    shutil.copytree(model, target)
    content = json.loads((target / file).read_text())
    for path, value in change.items():
        *parents, last = path.split("/")
        functools.reduce(lambda node, key: node[key], parents, content)[last] = value
    (target / file).write_text(json.dumps(content))
    return target


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of nnU-Net's `2d` configuration."""
    folder = tmp_path_factory.mktemp("nnunet") / "flat"
    return train_tiny_nnunet(folder, folds=1, dimensions="2d", iterations=4, cases=5)


@pytest.mark.usefixtures("exact_sums")
def test_a_2d_network_reads_a_volume_slice_by_slice_as_nnunetv2_does(
    flat: Path, case: Path, tmp_path: Path
) -> None:
    members = load_ensemble(import_nnunet(flat, "flat", tmp_path / "ensemble"))
    assert members.patch == (1, 32, 32)
    prediction = predict(members, read_volume([case]), precision="full")
    reference = nnunet_probabilities(flat, case, (0,))
    np.testing.assert_allclose(prediction.probabilities.numpy(), reference, atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("exact_sums")
def test_a_2d_network_reads_a_picture_as_nnunetv2_does(flat: Path, tmp_path: Path) -> None:
    change: dict[str, object] = {
        "image_reader_writer": "NaturalImage2DIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations/2d/spacing": [1.3, 0.8],
    }
    pictures = edited(flat, tmp_path / "model", "plans.json", change)
    grey = np.random.default_rng(4).integers(1, 255, (50, 70)).astype(np.uint8)
    # Rows 30 to 49 are a bright band, so that turning the picture would show.
    grey[30:] = 255
    path = tmp_path / "picture.png"
    Image.fromarray(grey).save(path)
    members = load_ensemble(import_nnunet(pictures, "flat", tmp_path / "ensemble"))
    prediction = predict(members, read_volume([path]), precision="full")
    assert tuple(prediction.probabilities.shape) == (3, 70, 50)
    reference = nnunet_probabilities(pictures, path, (0,))[..., 0]
    np.testing.assert_allclose(prediction.probabilities.numpy(), reference, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_sees_the_image_as_nnunetv2s_own_reader_gives_it(model: Path, tmp_path: Path, reader: str) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    copy = edited(model, tmp_path / "model", "plans.json", {"image_reader_writer": reader})
    # i runs to the feet, j to the left, k to the back.
    affine = np.array([[0, -1.2, 0, 4], [0, 0, -4.0, 5], [-0.9, 0, 0, 6], [0, 0, 0, 1.0]])
    image, _, grid = make_case(np.random.default_rng(5), (40, 44, 12), affine=affine)
    case = tmp_path / "case_0000.nii.gz"
    write_nifti(case, image, grid)
    seen = (
        load_ensemble(import_nnunet(copy, "tiny", tmp_path / "ensemble")).prepare(read_volume([case])).voxels
    )
    manager = PlansManager(json.loads((copy / "plans.json").read_text()))
    configuration = manager.get_configuration("3d_fullres")
    expected, _, _ = DefaultPreprocessor(verbose=False).run_case(
        [str(case)], None, manager, configuration, str(copy / "dataset.json")
    )
    assert tuple(seen.shape) == expected.shape
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-4)


def test_writes_a_self_describing_folder_of_plain_weights(model: Path, tmp_path: Path) -> None:
    folder = import_nnunet(model.parent, "tiny", tmp_path / "ensemble")
    description = read_description(folder)
    assert description["classes"] == ["background", "bright", "dark"]
    assert description["channels"] == ["MRI"]
    assert description["members"] == ["member_0.pt", "member_1.pt"]
    assert description["plan"]["configuration"] == "3d_fullres"
    weights = torch.load(folder / "member_0.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())


def test_says_how_to_install_nnunetv2_where_it_is_missing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = import_nnunet(model, "tiny", tmp_path / "ensemble")
    monkeypatch.setitem(sys.modules, "nnunetv2", None)
    monkeypatch.delitem(sys.modules, "nnunetv2.utilities.plans_handling.plans_handler")
    with pytest.raises(OverreadError, match=r"pip install -c constraints.txt -e '\.\[nnunet\]'"):
        load_ensemble(folder)
    with pytest.raises(OverreadError, match=r"pip install -c constraints.txt -e '\.\[nnunet\]'"):
        import_nnunet(model, "tiny", tmp_path / "again")


def test_names_the_choices_where_a_dataset_has_several_models(model: Path, tmp_path: Path) -> None:
    for name in ("nnUNetTrainer__nnUNetPlans__2d", "nnUNetTrainer__nnUNetPlans__3d_fullres"):
        shutil.copytree(model, tmp_path / "Dataset" / name, ignore=shutil.ignore_patterns("fold_*"))
    with pytest.raises(BadInputError, match=r"name one of nnUNetTrainer__nnUNetPlans__2d, nnUNetTrainer__nn"):
        import_nnunet(tmp_path / "Dataset", "tiny", tmp_path / "ensemble")


def test_refuses_folders_without_a_model_or_without_the_wanted_fold(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no trained nnU-Net v2 model"):
        import_nnunet(tmp_path, "tiny", tmp_path / "ensemble")
    with pytest.raises(NotFoundError, match="has no fold 4; it has 0, 1"):
        import_nnunet(model, "tiny", tmp_path / "ensemble", folds=[0, 4])
    with pytest.raises(
        NotFoundError, match=r"no fold with a checkpoint_last\.pth; there is checkpoint_best\.pth"
    ):
        import_nnunet(model, "tiny", tmp_path / "ensemble", checkpoint="checkpoint_last.pth")
    assert not (tmp_path / "ensemble").exists()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("plans.json", {"configurations/3d_fullres/previous_stage": "3d_lowres"}, "is a cascade"),
        ("plans.json", {"image_reader_writer": "Tiff3DIO"}, "reads images with Tiff3DIO"),
        ("plans.json", {"configurations": {"2d": {}}}, "hold no configuration '3d_fullres', only 2d"),
        (
            "plans.json",
            {"configurations/3d_fullres/resampling_fn_probabilities_kwargs": {"order": 3}},
            r"resample_data_or_seg_to_shape \[3, 0\]",
        ),
        (
            "plans.json",
            {"configurations/3d_fullres/architecture/arch_kwargs/features_per_stage": [4, 8, 16]},
            "the weights do not fit",
        ),
        (
            "dataset.json",
            {"labels": {"background": 0, "both": [1, 2], "dark": 2}},
            "trained on overlapping regions",
        ),
    ],
)
def test_refuses_in_words_what_cannot_be_members(
    model: Path, tmp_path: Path, file: str, change: dict[str, object], message: str
) -> None:
    copy = edited(model, tmp_path / "model", file, change)
    with pytest.raises(BadInputError, match=message):
        import_nnunet(copy, "tiny", tmp_path / "ensemble")
    assert list(tmp_path.iterdir()) == [copy], "a refused import leaves nothing behind"


def test_refuses_checkpoints_that_are_damaged_or_carry_code(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "model")
    (copy / "fold_0" / "checkpoint_final.pth").write_bytes(b"half a file")
    with pytest.raises(BadInputError, match=r"fold_0/checkpoint_final\.pth is not an nnU-Net v2 checkpoint"):
        import_nnunet(copy, "tiny", tmp_path / "ensemble")
    torch.save({"network_weights": {}, "trainer_name": Path("x")}, copy / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(BadInputError, match="holds more than weights"):
        import_nnunet(copy, "tiny", tmp_path / "ensemble")
    (copy / "plans.json").write_text("{")
    with pytest.raises(BadInputError, match=r"plans\.json is not valid JSON"):
        import_nnunet(copy, "tiny", tmp_path / "ensemble")


def test_refuses_folds_that_were_not_trained_alike_and_unknown_trainers(model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "model")
    path = copy / "fold_1" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["trainer_name"] = "nnUNetTrainerOfSomebodyElse"
    torch.save(content, path)
    with pytest.raises(BadInputError, match="not trained alike"):
        import_nnunet(copy, "tiny", tmp_path / "ensemble")
    with pytest.raises(BadInputError, match="set nnUNet_extTrainer"):
        import_nnunet(copy, "tiny", tmp_path / "ensemble", folds=[1])


def test_a_trainer_with_its_own_network_builds_it_itself(model: Path, tmp_path: Path) -> None:
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        pytest.skip(f"nnunetv2 finds trainers only where torchvision fits torch: {error}")
    copy = shutil.copytree(model, tmp_path / "model")
    for path in copy.glob("fold_*/checkpoint_final.pth"):
        content = torch.load(path, weights_only=False)
        content["trainer_name"] = "nnUNetTrainerNoDeepSupervision"
        torch.save(content, path)
    renamed = load_ensemble(import_nnunet(copy, "tiny", tmp_path / "renamed"))
    original = load_ensemble(import_nnunet(model, "tiny", tmp_path / "original"))
    window = torch.rand(1, 1, 8, 32, 32)
    assert torch.equal(renamed.members[1](window), original.members[1](window))
    assert renamed.metadata["trainer"] == "nnUNetTrainerNoDeepSupervision"


def test_refuses_to_write_over_something(model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInputError, match="exists already"):
        import_nnunet(model, "tiny", tmp_path)


def test_refuses_a_picture_for_a_model_of_volumes(ensemble: Ensemble) -> None:
    picture = Volume(np.ones((1, 40, 30), np.float32), Grid((40, 30), np.eye(4)))
    with pytest.raises(BadInputError, match="reads volumes, the image has 2 axes"):
        ensemble.prepare(picture)

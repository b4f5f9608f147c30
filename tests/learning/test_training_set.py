"""Nobody is judged by a case, or a patient, that it learnt from."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from overread.domain import BadInputError, NotFoundError
from overread.ensemble.storage import read_description, write_description
from overread.ensemble.training import TrainingOptions, hold_out
from overread.imaging.dataset import read_dataset
from overread.learning.central import CentralData, changed, read_central, remember_central
from overread.learning.training_set import (
    LocalCase,
    locate_central,
    patient_key,
    training_set,
    with_unlabelled,
)
from support.champions import local_balls, train_champion
from support.datasets import write_balls
from support.datasets import write_description as describe_dataset

MEMBERS = 3


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CentralData]:
    """Three members of the same six cases; two more were held out."""
    folder = tmp_path_factory.mktemp("deep")
    return train_champion(write_balls(folder / "data", 8), folder, members=MEMBERS, iterations=1)


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CentralData]:
    folder = tmp_path_factory.mktemp("folds")
    data = write_balls(folder / "data", 6)
    return train_champion(data, folder, members=MEMBERS, iterations=1, scheme="folds")


def local(case: str, patient: str, *, protected: bool = False) -> LocalCase:
    return LocalCase(case, (Path(f"{case}.nii.gz"),), Path(f"{case}-label.nii.gz"), patient, protected)


def changed_plan(champion: Path, folder: Path, **entries: object) -> Path:
    """A copy of the champion whose plan says something else."""
    folder.mkdir()
    description = read_description(champion)
    for name in description["members"]:
        (folder / name).write_bytes((champion / name).read_bytes())
    write_description(folder, {**description, "plan": {**description["plan"], **entries}})
    return folder


# Central cases.


def test_central_cases_that_were_held_out_stay_unseen_by_all(deep: tuple[Path, CentralData]) -> None:
    champion, central = deep
    cases = training_set(champion, central, [])
    held_out = read_description(champion)["plan"]["held_out"][0]
    assert len(held_out) == 2
    assert cases.unseen == dict.fromkeys(held_out, (0, 1, 2))
    assert cases.protected == frozenset(held_out) == frozenset(central.protected)
    assert cases.central == {f"ball_{index:02d}" for index in range(8)}
    for member in range(MEMBERS):
        assert cases.learnt_by(member, cases.central) == list(central.training)


def test_central_cases_of_a_cross_validation_keep_their_folds(folds: tuple[Path, CentralData]) -> None:
    champion, central = folds
    cases = training_set(champion, central, [])
    held_out = read_description(champion)["plan"]["held_out"]
    assert cases.unseen == {case: (member,) for member, ids in enumerate(held_out) for case in ids}
    assert cases.protected == frozenset()
    for member in range(MEMBERS):
        assert sorted([*cases.learnt_by(member, cases.central), *held_out[member]]) == sorted(cases.central)


def test_patients_are_held_out_as_a_whole(tmp_path: Path) -> None:
    data = write_balls(tmp_path, 9)
    patients = {f"ball_{index:02d}": f"patient {index // 3}" for index in range(9)}
    describe_dataset(data, 9, patients=patients)
    dataset = read_dataset(data)
    for seed in range(5):
        deep_scheme = hold_out(dataset, TrainingOptions(members=2, validation_share=0.3, seed=seed))
        assert len({patients[case] for case in deep_scheme[0]}) == 1
        assert len(deep_scheme[0]) == 3
        thirds = hold_out(dataset, TrainingOptions(members=3, scheme="folds", seed=seed))
        assert [len({patients[case] for case in fold}) for fold in thirds] == [1, 1, 1]
        assert sorted(case for fold in thirds for case in fold) == sorted(patients)
    with pytest.raises(BadInputError, match=r"4 folds need as many patients, dataset .* has 3"):
        hold_out(dataset, TrainingOptions(members=4, scheme="folds"))


def test_one_patient_alone_is_trained_on(tmp_path: Path) -> None:
    data = write_balls(tmp_path, 4)
    describe_dataset(data, 4, patients={f"ball_{index:02d}": "the one" for index in range(4)})
    assert hold_out(read_dataset(data), TrainingOptions(members=2)) == [[], []]


@pytest.mark.parametrize("patients", [["a"], {"ball_00": 3}, {"ball_00": ""}])
def test_patients_that_are_no_names_are_refused(tmp_path: Path, patients: object) -> None:
    data = write_balls(tmp_path, 1)
    describe_dataset(data, 1, patients=patients)
    with pytest.raises(BadInputError, match=r"dataset\.json: patients is .*, expected such as"):
        read_dataset(data)


# Local cases.


def test_local_names_never_collide_with_central_ones(deep: tuple[Path, CentralData]) -> None:
    champion, central = deep
    cases = training_set(champion, central, [local("ball_00", "ball_00")])
    assert cases.local == {"local-ball_00"}
    assert len(cases.dataset.cases) == len({case.id for case in cases.dataset.cases}) == 9
    assert cases.dataset.announced == 9


def test_protected_local_cases_are_unseen_by_all(deep: tuple[Path, CentralData]) -> None:
    champion, central = deep
    cases = training_set(champion, central, [local("a", "anna", protected=True), local("b", "bert")])
    assert cases.unseen["local-a"] == (0, 1, 2)
    assert "local-a" in cases.protected
    assert "local-b" not in cases.protected
    for member in range(MEMBERS):
        assert "local-a" not in cases.learnt_by(member, cases.local)


def test_while_few_are_protected_each_patient_is_kept_from_the_member_that_its_hash_names(
    deep: tuple[Path, CentralData],
) -> None:
    champion, central = deep
    given = [local(f"case{index}", f"patient {index // 2}") for index in range(12)]
    cases = training_set(champion, central, given)
    for case in given:
        fold = int(hashlib.sha256(case.patient.encode()).hexdigest()[:16], 16) % MEMBERS
        assert cases.unseen[f"local-{case.id}"] == (fold,)
        learners = [m for m in range(MEMBERS) if f"local-{case.id}" in cases.learnt_by(m, cases.local)]
        assert learners == [m for m in range(MEMBERS) if m != fold]
    # The same whatever else is there, in any order.
    fewer = training_set(champion, central, given[7:3:-1])
    assert all(fewer.unseen[f"local-{case.id}"] == cases.unseen[f"local-{case.id}"] for case in given[4:8])


def test_protected_patients_count_once_and_from_five_on_all_members_learn_from_the_others(
    deep: tuple[Path, CentralData],
) -> None:
    champion, central = deep
    learning = [local(f"b{index}", f"bert {index}") for index in range(4)]
    four = [local(f"a{index}", f"anna {index % 4}", protected=True) for index in range(6)]
    cases = training_set(champion, central, [*four, *learning])
    assert all(len(cases.unseen[f"local-{case.id}"]) == 1 for case in learning)
    five = [*four, local("a6", "anna 4", protected=True)]
    cases = training_set(champion, central, [*five, *learning])
    assert not any(f"local-{case.id}" in cases.unseen for case in learning)
    assert training_set(champion, central, learning, fewest_protected=0).unseen.keys() == set(
        central.protected
    )


def test_a_patient_that_a_member_learnt_from_in_an_earlier_round_is_never_its_judge(
    deep: tuple[Path, CentralData], tmp_path: Path
) -> None:
    champion, central = deep
    fold = int(patient_key("bert"), 16) % MEMBERS
    learnt: list[list[str]] = [[], [], []]
    learnt[fold] = [patient_key("bert")]
    descendant = changed_plan(champion, tmp_path / "descendant", learnt=learnt)
    # Another case of that patient, and the one after a rollback of its protection.
    cases = training_set(descendant, central, [local("another", "bert")])
    assert "local-another" not in cases.unseen
    kept = training_set(descendant, central, [local("another", "bert", protected=True)])
    assert kept.unseen["local-another"] == tuple(m for m in range(MEMBERS) if m != fold)
    assert "local-another" in kept.protected


def test_a_single_member_is_not_spared_any_case(tmp_path: Path) -> None:
    champion, central = train_champion(write_balls(tmp_path / "data", 4), tmp_path, members=1, iterations=1)
    cases = training_set(champion, central, [local("a", "anna")])
    assert "local-a" not in cases.unseen
    assert cases.learnt_by(0, cases.local) == ["local-a"]


def test_the_same_local_case_twice_is_refused(deep: tuple[Path, CentralData]) -> None:
    champion, central = deep
    with pytest.raises(BadInputError, match="case local-a is there twice"):
        training_set(champion, central, [local("a", "anna"), local("a", "anna")])


# Central data that are not what they were.


@pytest.fixture
def own(deep: tuple[Path, CentralData], tmp_path: Path) -> tuple[Path, CentralData]:
    """The champion with a copy of its data, to be spoilt."""
    champion, _ = deep
    data = write_balls(tmp_path / "data", 8)
    held_out = read_description(champion)["plan"]["held_out"][0]
    return champion, remember_central(tmp_path / "ball", data, read_dataset(data), held_out)


def test_central_data_are_remembered(own: tuple[Path, CentralData], tmp_path: Path) -> None:
    _, central = own
    assert read_central(tmp_path / "ball") == central
    assert central.folder == (tmp_path / "data").resolve()
    assert len(central.sha256) == 16
    assert sorted([*central.training, *central.protected]) == [f"ball_{index:02d}" for index in range(8)]
    assert changed(central) == []


def test_what_changed_or_went_missing_is_named(own: tuple[Path, CentralData]) -> None:
    _, central = own
    (central.folder / "labelsTr" / "ball_01.nii.gz").unlink()
    (central.folder / "imagesTr" / "ball_02_0000.nii.gz").write_bytes(b"other")
    shares: list[float] = []
    assert changed(central, shares.append) == ["imagesTr/ball_02_0000.nii.gz", "labelsTr/ball_01.nii.gz"]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_changed_training_cases_are_left_out_with_a_warning(
    own: tuple[Path, CentralData], caplog: pytest.LogCaptureFixture
) -> None:
    champion, central = own
    changed_case, lost_case = central.training[:2]
    (central.folder / "labelsTr" / f"{changed_case}.nii.gz").write_bytes(b"other")
    (central.folder / "labelsTr" / f"{lost_case}.nii.gz").unlink()
    (central.folder / "imagesTr" / f"{lost_case}_0000.nii.gz").unlink()
    cases = training_set(champion, central, [])
    assert cases.central == {*central.training[2:], *central.protected}
    assert {record.args[0] for record in caplog.records if record.args} == {changed_case, lost_case}  # type: ignore[index]


@pytest.mark.parametrize("loss", ["changed", "missing"])
def test_changed_protected_cases_are_refused_by_name(own: tuple[Path, CentralData], loss: str) -> None:
    champion, central = own
    case = central.protected[0]
    label, image = (
        central.folder / "labelsTr" / f"{case}.nii.gz",
        central.folder / "imagesTr" / f"{case}_0000.nii.gz",
    )
    if loss == "changed":
        label.write_bytes(b"other")
        named = f"labelsTr/{case}.nii.gz"
    else:
        label.unlink()
        image.unlink()
        named = f"all files of {case}"
    with pytest.raises(BadInputError, match=f"changed or went missing: {named}; put them back"):
        training_set(champion, central, [])


def test_a_folder_that_went_away_is_told_with_the_remedy(own: tuple[Path, CentralData]) -> None:
    champion, central = own
    away = replace(central, folder=central.folder / "away")
    with pytest.raises(
        BadInputError, match=r"are not in .*away any more; .*`overread central ball --data DIR`"
    ):
        training_set(champion, away, [])


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"labels": {"background": 0, "cube": 1}}, "has the classes background, cube, champion .* has"),
        ({"channel_names": {"0": "CT"}}, "has the channels CT, champion .* has MR"),
    ],
)
def test_data_of_other_classes_or_channels_are_refused(
    own: tuple[Path, CentralData], entry: dict, named: str
) -> None:
    champion, central = own
    describe_dataset(central.folder, 8, **entry)
    with pytest.raises(BadInputError, match=named):
        training_set(champion, central, [])


def test_data_that_do_not_know_what_was_held_out_are_refused(own: tuple[Path, CentralData]) -> None:
    champion, central = own
    other = replace(
        central, training=(*central.training, central.protected[0]), protected=central.protected[1:]
    )
    assert training_set(champion, other, []).unseen.keys() == set(central.protected)
    stranger = replace(central, training=central.training[1:], protected=central.training[:1])
    with pytest.raises(BadInputError, match="do not agree on what was held out"):
        training_set(champion, stranger, [])


def test_other_kinds_of_model_are_refused_with_a_sentence(
    deep: tuple[Path, CentralData], tmp_path: Path
) -> None:
    champion, central = deep
    description = read_description(champion)
    for name in description["members"]:
        (tmp_path / name).write_bytes((champion / name).read_bytes())
    write_description(tmp_path, {**description, "kind": "nnunet"})
    with pytest.raises(
        BadInputError, match="model ball is of kind nnunet, and only models that `overread train`"
    ):
        training_set(tmp_path, central, [])


# `overread central`: champions that do not know their data.


def test_nothing_remembered_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundError, match=r"recipe 'liver' does not know the data .* `overread central liver --data DIR`"
    ):
        read_central(tmp_path / "liver")


@pytest.mark.parametrize("text", ["{", '{"folder": "x"}', "[]"])
def test_a_damaged_file_is_told_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "central.json").write_text(text)
    with pytest.raises(BadInputError, match=r"central\.json is damaged .*`overread central"):
        read_central(tmp_path)


def test_a_champion_finds_its_data_again_also_after_a_retraining(
    deep: tuple[Path, CentralData], tmp_path: Path
) -> None:
    champion, central = deep
    (tmp_path / "ball").mkdir()
    held_out = read_description(champion)["plan"]["held_out"]
    after = changed_plan(
        champion, tmp_path / "ball" / "hash", held_out=[[*ids, "local-ball_00"] for ids in held_out]
    )
    assert locate_central(after, central.folder) == central
    assert read_central(tmp_path / "ball") == central


def test_data_that_the_champion_was_not_trained_on_are_refused(
    deep: tuple[Path, CentralData], tmp_path: Path
) -> None:
    champion, central = deep
    (tmp_path / "ball").mkdir()
    lost = changed_plan(champion, tmp_path / "ball" / "hash", held_out=[["elsewhere"]] * MEMBERS)
    with pytest.raises(BadInputError, match=r"case elsewhere was held out .*, and is not in"):
        locate_central(lost, central.folder)
    with pytest.raises(BadInputError, match="holds 2 cases, champion ensemble was trained on 8"):
        locate_central(champion, write_balls(tmp_path / "few", 2))
    assert not (tmp_path / "ball" / "central.json").exists()


def test_local_files_are_where_they_were_said_to_be(deep: tuple[Path, CentralData], tmp_path: Path) -> None:
    champion, central = deep
    given = local_balls(tmp_path / "local", 2, protected=1)
    cases = {case.id: case for case in training_set(champion, central, given).dataset.cases}
    assert cases["local-ball_01"].label == given[1].label
    assert cases["local-ball_01"].channels == given[1].channels
    assert json.loads((central.folder / "dataset.json").read_text())["numTraining"] == 8


# Pictures that nobody labelled.


def test_unlabelled_pictures_are_there_for_their_centre_and_judge_nobody(
    deep: tuple[Path, CentralData],
) -> None:
    asked = replace(local("a", "ada"), centre="south")
    plain = training_set(*deep, [asked])
    beside = replace(local("b", "bob"), centre="south")
    cases = with_unlabelled(plain, [beside])
    assert cases.unlabelled == {"local-b"}
    assert cases.centres == {"local-a": "south", "local-b": "south"}
    assert (cases.local, cases.protected, cases.unseen) == (plain.local, plain.protected, plain.unseen)
    assert {case.id for case in cases.dataset.cases} == {case.id for case in plain.dataset.cases} | {
        "local-b"
    }
    assert cases.dataset.announced == len(cases.dataset.cases)
    with pytest.raises(BadInputError, match="picture local-a is among the labelled cases"):
        with_unlabelled(plain, [asked])

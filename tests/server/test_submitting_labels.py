"""What is submitted over HTTP is kept of every rater, with its origin; viewers see the newest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient

from overread.domain import BadInputError
from overread.domain.labels import IGNORE
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.learning.accepted import AcceptedLabels, Submission
from overread.learning.champions import ChampionStore
from overread.server.datastore import StudyStore
from overread.server.maps import MapStore
from overread.server.models import ServedModels
from overread.server.names import rater_name
from overread.server.settings import Settings
from overread.server.turns import small_json
from overread.state.audit import rows, verify
from overread.state.database import Database
from overread.state.labels import APPROVED, FLAGGED, WITHDRAWN, LabelRow, labels
from overread.state.servings import CONTROL, SUBMITTED, serve, servings
from support.servers import (
    marker_voxels,
    oblique_grid,
    publish_threshold,
    write_case,
)
from support.slicer import write_segments

GRID = oblique_grid((40, 30, 12))
ORGAN, TUMOUR = 1, 2
INFERENCE = {"result_extension": ".nrrd", "result_dtype": "uint8"}


def marker_classes() -> np.ndarray:
    """What the marker volume is, class by class."""
    voxels = marker_voxels()
    return np.select([voxels > 120, voxels > 60], [TUMOUR, ORGAN], 0).astype(np.uint8)


@pytest.fixture
def database(server) -> Database:
    return Database.open(server.app_dir / "state" / "overread.db")


@pytest.fixture
def rows_of(database) -> Callable[[str], list[LabelRow]]:
    def read(case: str) -> list[LabelRow]:
        with database.reading() as c:
            return labels(c, case_id=case)

    return read


@pytest.fixture
def submit(server, tmp_path) -> Callable[..., dict]:
    """Submit voxels as a client does; the answer's JSON."""

    def send(
        case: str,
        voxels: np.ndarray,
        client: str = "anna",
        names: tuple[str, ...] = ("organ", "tumour"),
        **params,
    ) -> dict:
        path = tmp_path / "label.nii.gz"
        write_nifti(path, voxels.astype(np.uint8), GRID)
        sent = {"label_info": [{"name": name, "idx": 9} for name in names], **params}
        answer = MONAILabelClient(server.url, str(tmp_path), client).save_label(case, str(path), params=sent)
        return answer if isinstance(answer, dict) else json.loads(answer)

    return send


def shown(server, case: str, tag: str, folder: Path) -> np.ndarray:
    """The label that viewers get."""
    answer = requests.get(f"{server.url}/datastore/label", params={"label": case, "tag": tag}, timeout=60)
    assert answer.ok, answer.text
    path = folder / "shown.nii.gz"
    path.write_bytes(answer.content)
    return read_labelmap(path)[0]


def kept(server, row: LabelRow) -> np.ndarray:
    """The label that training gets."""
    return read_labelmap(server.studies / "accepted" / row.file)[0]


def test_two_raters_and_a_change_of_mind_are_three_labels(server, case, submit, rows_of, tmp_path):
    first, second = marker_classes(), marker_classes()
    second[second == TUMOUR] = ORGAN
    assert submit(case, first)["accepted"]["revision"] == 1
    assert submit(case, second, "ben")["accepted"]["rater"] == "ben"
    answer = submit(case, first * 0)
    assert (answer["image"], answer["label"]) == (case, case)
    assert (answer["accepted"]["revision"], answer["accepted"]["partial"]) == (2, False)
    found = rows_of(case)
    assert [(row.rater, row.revision, row.tag) for row in found] == [
        ("anna", 1, "final"),
        ("ben", 1, "final"),
        ("anna", 2, "final"),
    ]
    np.testing.assert_array_equal(kept(server, found[0]), first)
    np.testing.assert_array_equal(kept(server, found[1]), second)
    assert not shown(server, case, "final", tmp_path).any()


def test_a_client_without_a_name_is_anonymous(server, case, submit, rows_of):
    submit(case, marker_classes(), "")
    assert [(row.rater, row.client_id) for row in rows_of(case)] == [("anonymous", "")]


def test_the_origin_of_a_label_is_kept(server, case, submit, rows_of, database, tmp_path):
    with database.writing() as c:
        serve(
            c,
            case_id=case,
            patient="p1",
            client_id="anna",
            recipe="phantom",
            champion="c0ffee",
            strategy="foreground_random",
            arm=CONTROL,
            reason="control: drawn at random",
            score=None,
            now=1000.0,
            lease_s=1800,
        )
    client = MONAILabelClient(server.url, str(tmp_path), "anna")
    _, told = client.infer("phantom", case, {**INFERENCE, "doubt": "off", "huge": "x" * 5000})
    MONAILabelClient(server.url, str(tmp_path), "ben").infer("phantom", case, dict(INFERENCE))
    corrected = marker_classes()
    corrected[corrected == TUMOUR] = ORGAN
    facts = submit(case, corrected)["accepted"]
    (row,) = rows_of(case)
    assert row.champion == told["champion"]
    assert (row.recipe, row.arm, row.reason) == ("phantom", CONTROL, "control: drawn at random")
    assert row.took_s is not None
    assert row.took_s > 1e9 - 1000
    assert row.details["dice"]["tumour"] == 0
    assert 0.9 < row.details["dice"]["organ"] < 1
    assert facts["voxels_changed"] == row.details["voxels_changed"] == int((marker_classes() == TUMOUR).sum())
    (turn,) = row.details["interactions"]
    assert (turn["kind"], turn["champion"]) == ("inference", told["champion"])
    assert turn["asked"] == {**INFERENCE, "doubt": "off"}
    assert row.protected
    assert "protected" not in facts
    with database.reading() as c:
        assert [s.outcome for s in servings(c) if s.case_id == case] == [SUBMITTED]
        assert verify(c) == []


def test_somebody_elses_proposal_is_not_what_was_corrected(server, case, submit, rows_of, tmp_path):
    MONAILabelClient(server.url, str(tmp_path), "ben").infer("phantom", case, dict(INFERENCE))
    submit(case, marker_classes())
    (row,) = rows_of(case)
    assert (row.champion, row.dice_to_proposal, row.details["interactions"]) == ("", None, [])


def test_what_is_not_labelled_is_nothing_to_viewers_and_unknown_to_training(
    server, case, submit, rows_of, tmp_path
):
    voxels = marker_classes()
    voxels[30:] = 3
    assert submit(case, voxels, names=("organ", "tumour", "not labelled"))["accepted"]["partial"]
    expected = marker_classes()
    expected[30:] = 0
    np.testing.assert_array_equal(shown(server, case, "final", tmp_path), expected)
    expected[30:] = IGNORE
    np.testing.assert_array_equal(kept(server, rows_of(case)[0]), expected)


def test_a_few_slices_or_a_box_can_be_labelled(server, case, submit, rows_of):
    submit(case, marker_classes(), slices={"axis": 2, "indices": [3, 4]})
    submit(case, marker_classes(), region=[[0, 20], [0, 30], [0, 12]])
    slices, box = (kept(server, row) for row in rows_of(case))
    np.testing.assert_array_equal(slices[..., 3:5], marker_classes()[..., 3:5])
    assert (np.delete(slices, [3, 4], axis=2) == IGNORE).all()
    np.testing.assert_array_equal(box[:20], marker_classes()[:20])
    assert (box[20:] == IGNORE).all()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"region": [[0, 99], [0, 30], [0, 12]]}, "from 0 to 99 along axis 0, where the image has 0 to 40"),
        ({"client_id": "a\nb"}, "holds a control character"),
        ({"client_id": "a" * 300}, "is longer than 200 bytes"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_kept(
    server, case, refused, rows_of, tmp_path, params, words
):
    path = tmp_path / "label.nii.gz"
    write_nifti(path, marker_classes(), GRID)
    sent = {
        "files": {"label": (path.name, path.read_bytes())},
        "data": {"params": json.dumps({"label_info": [{"name": "organ"}, {"name": "tumour"}], **params})},
    }
    assert words in refused(400, "PUT", "/datastore/label", params={"image": case}, **sent)
    assert rows_of(case) == []
    assert not (server.studies / "accepted" / case).exists()


def test_a_label_of_nothing_is_refused(server, case, refused, tmp_path):
    path = tmp_path / "label.nii.gz"
    write_nifti(path, np.full(GRID.shape, 1, np.uint8), GRID)
    sent = {
        "files": {"label": (path.name, path.read_bytes())},
        "data": {"params": json.dumps({"label_info": [{"name": "not labelled"}]})},
    }
    assert "nothing is labelled" in refused(400, "PUT", "/datastore/label", params={"image": case}, **sent)


def test_labels_that_came_with_the_images_are_nobodys(server, case, rows_of, tmp_path):
    path = tmp_path / "label.nii.gz"
    write_nifti(path, marker_classes(), GRID)
    query = {"image": case, "tag": "original"}
    files = {"label": (path.name, path.read_bytes())}
    answer = requests.put(f"{server.url}/datastore/label", params=query, files=files, timeout=60)
    assert answer.json()["accepted"] == {}
    assert rows_of(case) == []
    np.testing.assert_array_equal(shown(server, case, "original", tmp_path), marker_classes())


# -- the reviewer module


def review(server, case: str, tag: str, **meta: str) -> requests.Response:
    return requests.put(
        f"{server.url}/datastore/updatelabelinfo",
        params={"label": case, "tag": tag},
        data={"params": json.dumps({"segmentationMeta": meta, "label_info": []})},
        timeout=60,
    )


def test_a_reviewers_version_and_verdicts(server, case, submit, rows_of, database, tmp_path):
    submit(case, marker_classes())
    # The reviewer sends Slicer's own file: segments in layers of their own, the tumour over the organ.
    organ = (marker_classes() > 0).astype(np.uint8)
    tumour = (marker_classes() == TUMOUR).astype(np.uint8)
    path = write_segments(
        tmp_path / f"{case}.nrrd", [organ, tumour], [("organ", 0, 1), ("tumour", 1, 1)], GRID
    )
    query = {"image": case, "tag": "version_1"}
    files = {"label": (path.name, path.read_bytes())}
    answer = requests.put(f"{server.url}/datastore/label", params=query, files=files, timeout=60)
    assert answer.ok, answer.text
    _, version = rows_of(case)
    assert (version.tag, version.rater) == ("version_1", "anonymous")
    np.testing.assert_array_equal(kept(server, version), marker_classes())
    np.testing.assert_array_equal(shown(server, case, "version_1", tmp_path), marker_classes())

    assert review(server, case, "version_1", status="approved", approvedBy="Dr. B", comment="fine").ok
    assert review(server, case, "final", status="flagged", approvedBy="Dr. B").ok
    assert [row.status for row in rows_of(case)] == [FLAGGED, APPROVED]
    assert rows_of(case)[1].status_reason == "approved by Dr. B: fine"
    index = requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"][case]["labels"]
    assert index["version_1"]["info"]["segmentationMeta"]["status"] == "approved"
    accepted = AcceptedLabels(server.studies / "accepted", database)
    image = server.studies / f"{case}.nii.gz"
    (used,) = accepted.cases("phantom", lambda name: image if name == case else None)
    assert used.label.name == "anonymous-1.nii.gz"


def test_what_the_reviewer_module_asks_is_answered_where_nobody_logs_in(server, case, submit, tmp_path):
    submit(case, marker_classes())
    # Its `MonaiServerREST.py`, request by request; whatever is not 200 is a failure to it.
    assert requests.get(server.url, timeout=60).status_code == 200
    store = requests.get(f"{server.url}/datastore/?output=all", timeout=60)
    assert (store.status_code, case in store.json()["objects"]) == (200, True)
    image = requests.get(f"{server.url}/datastore/image?image={case}", timeout=60)
    assert (image.status_code, image.content) == (200, (server.studies / f"{case}.nii.gz").read_bytes())
    final = requests.get(f"{server.url}/datastore/label?label={case}&tag=final", timeout=60)
    assert final.status_code == 200

    path = write_segments(
        tmp_path / f"{case}.nrrd", [(marker_classes() > 0).astype(np.uint8)], [("organ", 0, 1)], GRID
    )
    verdict = {"status": "approved", "level": "", "approvedBy": "", "comment": "", "editTime": 0}
    form = {"params": json.dumps({"segmentationMeta": verdict, "label_info": []})}
    stored = requests.put(
        f"{server.url}/datastore/label?image={case}&tag=version_1",
        data=form,
        files={"label": (f"{case}.nrrd", path.read_bytes())},
        timeout=60,
    )
    assert stored.status_code == 200, stored.text
    judged = requests.put(
        f"{server.url}/datastore/updatelabelinfo?label={case}&tag=version_1",
        headers={"Content-Type": "application/x-www-form-urlencoded", "accept": "application/json"},
        data=form,
        timeout=60,
    )
    assert judged.status_code == 200, judged.text
    np.testing.assert_array_equal(shown(server, case, "version_1", tmp_path), marker_classes() > 0)
    gone = requests.delete(f"{server.url}/datastore/label?id={case}&tag=version_1", timeout=60)
    assert gone.status_code == 200
    store = requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()
    assert list(store["objects"][case]["labels"]) == ["final"]


def test_a_verdict_that_is_not_known_is_refused(server, case, submit, rows_of, refused):
    submit(case, marker_classes())
    answer = review(server, case, "final", status="perfect")
    assert (answer.status_code, answer.json()["detail"]) == (
        400,
        "no review status is called 'perfect'; there are approved, flagged, segmented, not segmented",
    )
    assert review(server, case, "final", level="hard", comment="no verdict yet").ok
    query = {"label": case, "tag": "final"}
    data = {"params": '{"segmentationMeta": "approved"}'}
    sentence = refused(400, "PUT", "/datastore/updatelabelinfo", params=query, data=data)
    assert "segmentationMeta is a JSON str" in sentence
    assert "has no label with tag 'version_9'" in review(server, case, "version_9", status="approved").text
    assert [row.status for row in rows_of(case)] == ["accepted"]


# -- what goes away


def test_a_deleted_label_is_withdrawn_and_its_file_stays(server, case, submit, rows_of, database):
    submit(case, marker_classes())
    query = {"id": case, "tag": "final"}
    assert requests.delete(f"{server.url}/datastore/label", params=query, timeout=60).ok
    (row,) = rows_of(case)
    assert row.status == WITHDRAWN
    assert (server.studies / "accepted" / row.file).is_file()
    assert not (server.studies / "labels" / "final" / f"{case}.nii.gz").exists()
    with database.reading() as c:
        (line,) = [line for line in rows(c) if line.action == "label withdrawn" and line.subject == case]
    assert (line.actor, line.details["because"]) == ("anonymous", "removed")


def test_another_volume_under_the_same_name_takes_no_labels_over(server, case, submit, rows_of, tmp_path):
    submit(case, marker_classes())

    def upload(voxels: np.ndarray) -> None:
        path = write_case(tmp_path, "again", voxels)
        files = {"file": (path.name, path.read_bytes())}
        answer = requests.put(
            f"{server.url}/datastore/image", params={"image": case}, files=files, timeout=60
        )
        assert answer.ok, answer.text

    upload(marker_voxels())
    assert [row.status for row in rows_of(case)] == ["accepted"]
    upload(marker_voxels() + 1)
    assert [row.status for row in rows_of(case)] == [WITHDRAWN]
    query = {"label": case, "tag": "final"}
    assert requests.get(f"{server.url}/datastore/label", params=query, timeout=60).status_code == 404


def test_accepted_labels_are_no_images(server, case, submit):
    submit(case, marker_classes())
    index = requests.get(f"{server.url}/datastore/?output=all", timeout=60).json()["objects"]
    assert set(index) <= {path.name.removesuffix(".nii.gz") for path in server.studies.glob("*.nii.gz")}


# -- names and turns


def test_who_is_signed_in_is_the_rater_whatever_the_client_says():
    assert rater_name("dr.b", "slicer-7") == "dr.b"
    assert rater_name("", " slicer-7 ") == "slicer-7"
    assert rater_name("", "") == "anonymous"
    with pytest.raises(BadInputError, match="holds a control character"):
        rater_name("a\x00", "")


def test_a_turn_keeps_small_json_only():
    params = {"doubt": "off", "clicks": [[1, 2, 3]], "huge": "x" * 5000, "nan": float("nan"), "file": Path()}
    assert small_json(params) == {"doubt": "off", "clicks": [[1, 2, 3]]}


# -- after a crash


def opened(app_dir: Path, studies: Path) -> tuple[StudyStore, AcceptedLabels]:
    """The studies folder as a server that starts sees it."""
    accepted = AcceptedLabels(studies / "accepted", Database.open(app_dir / "overread.db"))
    accepted.settle(2000.0)
    models = ServedModels(ChampionStore(app_dir / "model"), Settings())
    return StudyStore(str(studies), ["*.nii.gz"], models, MapStore(app_dir / "maps"), accepted), accepted


def test_the_next_start_shows_what_was_accepted_and_restores_what_was_lost(tmp_path):
    app_dir, studies = tmp_path / "app", tmp_path / "studies"
    studies.mkdir()
    publish_threshold(app_dir)
    label = tmp_path / "label.nii.gz"
    write_nifti(label, marker_classes(), GRID)
    cases = ("lost row", "lost view", "old view", "withdrawn")
    for case in cases:
        write_case(studies, case)
    store, accepted = opened(app_dir, studies)
    params = {"label_info": [{"name": "organ"}, {"name": "tumour"}], "client_id": "anna"}
    for case in cases:
        store.submit(case, label, "final", params)

    with accepted.database.writing() as c:
        c.exec_driver_sql("DELETE FROM labels WHERE case_id = 'lost row'")
    for case in ("lost row", "lost view"):
        (studies / "labels" / "final" / f"{case}.nii.gz").unlink()
    # Killed between keeping a label and showing it, and between withdrawing one and hiding it.
    newer = Submission(
        case_id="old view",
        patient="p",
        rater="ben",
        recipe="phantom",
        classes=("background", "organ", "tumour"),
    )
    accepted.add(np.full(GRID.shape, ORGAN, np.uint8), GRID, newer, 3e9)
    accepted.withdraw("withdrawn", "final", "anna", "removed", 1.0)

    index = opened(app_dir, studies)[0].json()["objects"]
    assert {case: set(index[case]["labels"]) for case in cases} == {
        "lost row": {"final"},
        "lost view": {"final"},
        "old view": {"final"},
        "withdrawn": set(),
    }
    for case in ("lost row", "lost view"):
        np.testing.assert_array_equal(
            read_labelmap(studies / "labels" / "final" / f"{case}.nii.gz")[0], marker_classes()
        )
        assert index[case]["labels"]["final"]["info"]["label_names"] == {"organ": 1, "tumour": 2}
    assert (read_labelmap(studies / "labels" / "final" / "old view.nii.gz")[0] == ORGAN).all()
    assert not (studies / "labels" / "final" / "withdrawn.nii.gz").exists()


def test_a_label_that_cannot_be_read_does_not_keep_the_server_from_starting(tmp_path):
    app_dir, studies = tmp_path / "app", tmp_path / "studies"
    studies.mkdir()
    publish_threshold(app_dir)
    write_case(studies, "case")
    label = tmp_path / "label.nii.gz"
    write_nifti(label, marker_classes(), GRID)
    store, accepted = opened(app_dir, studies)
    facts = store.submit("case", label, "final", {"label_info": [{"name": "organ"}, {"name": "tumour"}]})
    (accepted.folder / facts["file"]).write_bytes(b"junk")
    (studies / "labels" / "final" / "case.nii.gz").unlink()
    assert opened(app_dir, studies)[0].json()["objects"]["case"]["labels"] == {}


def test_a_store_without_accepted_labels_keeps_what_viewers_see(tmp_path):
    app_dir, studies = tmp_path / "app", tmp_path / "studies"
    studies.mkdir()
    publish_threshold(app_dir)
    write_case(studies, "case")
    label = tmp_path / "label.nii.gz"
    write_nifti(label, marker_classes(), GRID)
    models = ServedModels(ChampionStore(app_dir / "model"), Settings())
    store = StudyStore(str(studies), ["*.nii.gz"], models, MapStore(app_dir / "maps"))
    params = {"label_info": [{"name": "organ"}, {"name": "tumour"}]}
    assert store.save_label("case", str(label), "final", params) == "case"
    np.testing.assert_array_equal(
        read_labelmap(studies / "labels" / "final" / "case.nii.gz")[0], marker_classes()
    )
    store.update_label_info("case", "final", {"segmentationMeta": {"status": "approved"}})
    store.remove_label("case", "final")
    assert not (studies / "labels" / "final" / "case.nii.gz").exists()

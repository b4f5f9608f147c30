"""A server with users: clients log in their own way, each role may what it may, the audit log tells who did what."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests
from monailabel.client import MONAILabelClient

from overread.access import Role, UsersFile
from overread.access.users import default_users
from overread.imaging.volumes import read_labelmap, write_nifti
from overread.state.audit import AuditRow, rows, verify
from overread.state.database import Database, default_path
from support.certificates import write_certificate
from support.servers import (
    app_copy,
    marker_voxels,
    oblique_grid,
    publish_threshold,
    running_server,
    write_case,
)

pytestmark = pytest.mark.slow

PASSWORDS = {"anna": "reads all day long", "Bo Ek": "judges the others", "chief": "runs the whole place"}
LOG_IN = "log in first: the token is missing, wrong or no longer good"
ROLES = {"anna": Role.READER, "Bo Ek": Role.REVIEWER, "chief": Role.ADMIN}


@dataclass(frozen=True)
class Ward:
    """A running server with users and its folders."""

    url: str
    app_dir: Path
    studies: Path
    users: UsersFile

    def token(self, name: str) -> str:
        """By a login as QuPath makes it: no `grant_type`, the name as somebody types it."""
        form = {"username": name, "password": PASSWORDS[name]}
        answer = requests.post(f"{self.url}/auth/token", data=form, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    def ask(self, token: str, method: str, path: str, **arguments: object) -> requests.Response:
        """A request with a token; `""` for none."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=60, **arguments)

    def audit(self) -> list[AuditRow]:
        """The whole log, which must be intact."""
        database = Database.open(default_path(self.app_dir))
        try:
            with database.reading() as c:
                assert verify(c) == []
                return list(rows(c))
        finally:
            database.close()

    def log(self) -> str:
        """All that the server printed and logged."""
        files = [*self.studies.parent.glob("server-*.log"), *(self.app_dir / "logs").glob("*.log")]
        return "\n".join(path.read_text(errors="replace") for path in files)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """Reachable from everywhere, by https: users of each role, the threshold champion `phantom`, and cases."""
    base = tmp_path_factory.mktemp("ward")
    app_dir, studies = app_copy(base / "app"), base / "studies"
    studies.mkdir()
    publish_threshold(app_dir)
    for case in ("first", "second", "third"):
        write_case(studies, case)
    users = UsersFile(default_users(app_dir))
    for name, role in ROLES.items():
        users.add(name, role, PASSWORDS[name], time.time())
    certificate, key = write_certificate(base)
    options = ["--host", "0.0.0.0", "--ssl_certfile", str(certificate), "--ssl_keyfile", str(key)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        # No test waits for the case that another one asked for.
        with running_server(app_dir, studies, ["lease_minutes", "0.01"], options=options) as url:
            yield Ward(url, app_dir, studies, users)


@pytest.fixture(scope="module")
def tokens(ward: Ward) -> dict[str, str]:
    """A login of each user."""
    return {name: ward.token(name) for name in PASSWORDS}


def label_of(folder: Path) -> Path:
    path = folder / "label.nii.gz"
    write_nifti(path, (marker_voxels() > 60).astype(np.uint8), oblique_grid((40, 30, 12)))
    return path


def submit(ward: Ward, token: str, case: str, folder: Path, **params: object) -> requests.Response:
    path = label_of(folder)
    return ward.ask(
        token,
        "PUT",
        "/datastore/label",
        params={"image": case},
        files={"label": (path.name, path.read_bytes())},
        data={"params": json.dumps({"label_info": [{"name": "organ"}], **params})},
    )


# -- each client's own login


def test_slicer_logs_in_reads_downloads_and_submits_under_the_users_name(ward, tmp_path):
    client = MONAILabelClient(ward.url, str(tmp_path), "somebody else's computer")
    assert client.auth_enabled() is True
    assert client.auth_valid_token() is False
    client.update_auth(client.auth_token("Anna", PASSWORDS["anna"]))
    assert client.auth_valid_token() is True
    assert client.info()["labels"] == ["doubt: high", "doubt: moderate", "organ", "tumour"]
    sample = client.next_sample("first", {})
    # Slicer downloads the image as any file from the web: with no token.
    image = requests.get(f"{ward.url}/datastore/image", params={"image": sample["id"]}, timeout=60)
    assert image.status_code == 200
    other = next(case for case in ("first", "second", "third") if case != sample["id"])
    assert requests.get(f"{ward.url}/datastore/image", params={"image": other}, timeout=60).status_code == 401
    file, params = client.infer("phantom", sample["id"], {})
    assert read_labelmap(Path(file))[0].max() == 4
    answer = client.save_label(
        sample["id"], str(label_of(tmp_path)), params={"label_info": [{"name": "organ"}]}
    )
    assert answer["accepted"]["rater"] == "anna"
    # What was proposed to her was found again under her name, not under her computer's.
    assert answer["accepted"]["champion"] == params["champion"]
    index = client.datastore()["objects"][sample["id"]]["labels"]["final"]["info"]
    assert index["client_id"] == "anna"
    mine = [row for row in ward.audit() if row.subject == sample["id"]]
    assert {(row.actor, row.action) for row in mine} >= {
        ("anna", "case served"),
        ("anna", "image read"),
        ("anna", "label accepted"),
    }


def test_qupath_asks_before_each_request_whether_its_token_is_good(ward):
    assert requests.get(f"{ward.url}/auth/", timeout=60).json()["enabled"] is True
    form = {"password": PASSWORDS["Bo Ek"], "username": "bo ek"}
    token = requests.post(f"{ward.url}/auth/token", data=form, timeout=60).json()
    header = {"Authorization": f"{token['token_type']} {token['access_token']}"}
    for _ in range(3):
        valid = requests.get(f"{ward.url}/auth/token/valid", headers=header, timeout=60)
        assert valid.status_code == 200
        assert valid.json()["username"] == "Bo Ek"
        assert valid.json()["roles"] == ["reviewer"]
    # JSON that nothing declares to be JSON, as Java's client sends it.
    answer = requests.post(f"{ward.url}/activelearning/first", data=b"{}", headers=header, timeout=60)
    assert answer.status_code == 200


def test_a_browser_is_sent_to_the_login_page_and_back_and_out(ward):
    browser = requests.Session()
    browser.headers["Accept"] = "text/html,application/xhtml+xml"
    page = browser.get(f"{ward.url}/ohif/viewer?StudyInstanceUIDs=1.2", timeout=60)
    assert page.status_code == 200
    assert page.url == f"{ward.url}/login?next=%2Fohif%2Fviewer%3FStudyInstanceUIDs%3D1.2"
    assert '<input type="hidden" name="next" value="/ohif/viewer?StudyInstanceUIDs=1.2">' in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    form = {"username": "anna", "password": "wrong and long", "next": "/info/"}
    refused = browser.post(f"{ward.url}/login", data=form, timeout=60)
    assert refused.status_code == 401
    assert "Name or password is wrong." in refused.text
    form["password"] = PASSWORDS["anna"]
    answer = browser.post(f"{ward.url}/login", data=form, timeout=60, allow_redirects=False)
    assert answer.headers["Location"] == "/info/"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "Secure" in cookie
    assert "SameSite=lax" in cookie
    assert browser.get(f"{ward.url}/info/", timeout=60).json()["name"] == "Overread - Radiology"
    assert "OHIF" in browser.get(f"{ward.url}/ohif/", timeout=60).text
    # Another site's page cannot use the cookie, even if a browser sends it along.
    strange = browser.post(
        f"{ward.url}/activelearning/first", headers={"Origin": "https://evil.example"}, timeout=60
    )
    assert strange.status_code == 403
    assert (
        "Access-Control-Allow-Origin"
        not in browser.get(
            f"{ward.url}/info/", headers={"Origin": "https://evil.example"}, timeout=60
        ).headers
    )
    kept = dict(browser.cookies)
    browser.post(f"{ward.url}/logout", timeout=60)
    assert not browser.cookies
    # The cookie that somebody kept is worthless too.
    again = requests.get(f"{ward.url}/info/", cookies=kept, timeout=60)
    assert again.status_code == 401


def test_an_api_token_lets_a_program_in_until_it_is_revoked(ward):
    secret = ward.users.add_token("chief", "metrics", time.time())
    assert ward.ask(secret, "GET", "/overread/state").status_code == 200
    ward.users.revoke_token("chief", "metrics")
    refused = ward.ask(secret, "GET", "/overread/state")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert secret not in ward.log()


def test_a_revoked_user_and_a_changed_password_end_what_was_logged_in(ward):
    ward.users.add("temp", Role.READER, "here for a month", time.time())
    form = {"username": "temp", "password": "here for a month"}
    token = requests.post(f"{ward.url}/auth/token", data=form, timeout=60).json()["access_token"]
    assert ward.ask(token, "GET", "/info/").status_code == 200
    ward.users.add("temp", Role.READER, "another password", time.time(), again=True)
    assert ward.ask(token, "GET", "/info/").status_code == 401
    ward.users.revoke("temp", time.time())
    form["password"] = "another password"
    assert requests.post(f"{ward.url}/auth/token", data=form, timeout=60).status_code == 401


# -- roles


def test_without_a_login_nothing_is_told_and_nothing_is_changed(ward, tmp_path):
    for method, path in [
        ("GET", "/info/"),
        ("GET", "/datastore/?output=all"),
        ("GET", "/datastore/image?image=third"),
        ("HEAD", "/datastore/image?image=third"),
        ("GET", "/openapi.json"),
        ("GET", "/logs/"),
        ("POST", "/infer/phantom?image=third"),
        ("PUT", "/datastore/label?image=third"),
        ("DELETE", "/datastore/image?id=third"),
        ("POST", "/train/phantom"),
        ("GET", "/nothing/of/this/name"),
    ]:
        assert ward.ask("", method, path).status_code == 401, (method, path)
    assert (ward.studies / "third.nii.gz").is_file()


def test_the_reviewer_module_which_cannot_log_in_is_told_to(ward, tmp_path):
    file = {"label": ("third.nrrd", label_of(tmp_path).read_bytes())}
    form = {"params": json.dumps({"segmentationMeta": {"status": "approved"}})}
    for method, path, sent in [
        ("GET", "/", {}),
        ("GET", "/datastore/?output=all", {}),
        ("GET", "/datastore/image?image=third", {}),
        ("GET", "/datastore/label?label=third&tag=final", {}),
        ("PUT", "/datastore/updatelabelinfo?label=third&tag=final", {"data": form}),
        ("PUT", "/datastore/label?image=third&tag=version_1", {"data": form, "files": file}),
        ("DELETE", "/datastore/label?id=third&tag=version_1", {}),
    ]:
        answer = ward.ask("", method, path, **sent)
        assert (answer.status_code, answer.json()["detail"]) == (401, LOG_IN), path


def test_a_reader_reads_a_reviewer_judges_an_admin_runs_the_place(ward, tokens, tmp_path):
    reader, reviewer, admin = (tokens[name] for name in PASSWORDS)
    assert submit(ward, reader, "second", tmp_path, client_id="Bo Ek").json()["accepted"]["rater"] == "anna"
    label = {"label": "second", "tag": "final"}
    verdict = {"segmentationMeta": {"status": "approved", "approvedBy": "somebody", "comment": "good"}}
    form = {"params": json.dumps(verdict)}
    refused = ward.ask(reader, "PUT", "/datastore/updatelabelinfo", params=label, data=form)
    assert refused.status_code == 403
    assert refused.json()["detail"] == "anna is reader; this takes a reviewer"
    assert ward.ask(reviewer, "PUT", "/datastore/updatelabelinfo", params=label, data=form).status_code == 200
    stored = ward.ask(reader, "GET", "/datastore/label/info", params=label).json()
    assert stored["segmentationMeta"]["approvedBy"] == "Bo Ek"

    gone = {"id": "second", "tag": "final"}
    assert ward.ask(reader, "DELETE", "/datastore/label", params=gone).status_code == 403
    assert ward.ask(reviewer, "DELETE", "/datastore/label", params=gone).status_code == 200
    for token in (reader, reviewer):
        for method, path in [
            ("POST", "/train/phantom"),
            ("DELETE", "/train/"),
            ("DELETE", "/datastore/image?id=second"),
            ("GET", "/logs/"),
            ("GET", "/datastore/dataset"),
            ("POST", "/nothing/of/this/name"),
        ]:
            assert ward.ask(token, method, path).status_code == 403, (method, path)
    assert ward.ask(admin, "POST", "/train/phantom").status_code == 400
    assert "Login is on" in ward.ask(admin, "GET", "/logs/").text
    assert ward.ask(admin, "POST", "/nothing/of/this/name").status_code == 404

    seen = {(row.actor, row.action, row.subject) for row in ward.audit()}
    assert seen >= {
        ("anna", "label accepted", "second"),
        ("anna", "request refused", "/datastore/updatelabelinfo"),
        ("Bo Ek", "label reviewed", "second"),
        ("Bo Ek", "label withdrawn", "second"),
        ("anna", "request refused", "/train/phantom"),
        ("chief", "logs read", "/logs/"),
    }


def test_a_reader_adds_images_and_replaces_none(ward, tokens, tmp_path):
    path = write_case(tmp_path, "new")

    def send(token: str) -> requests.Response:
        files = {"file": (path.name, path.read_bytes())}
        return ward.ask(token, "PUT", "/datastore/image", params={"image": "new"}, files=files)

    assert send(tokens["anna"]).status_code == 200
    assert send(tokens["anna"]).status_code == 200, "the same image once more"
    write_case(tmp_path, "new", marker_voxels() + 1)
    refused = send(tokens["anna"])
    assert refused.status_code == 403
    assert refused.json()["detail"] == "anna may add images, but another image is called 'new' already"
    assert send(tokens["Bo Ek"]).status_code == 200
    removed = ward.ask(tokens["chief"], "DELETE", "/datastore/image", params={"id": "new"})
    assert removed.status_code == 200
    about = [(row.actor, row.action) for row in ward.audit() if row.subject == "new"]
    assert about.count(("anna", "image added")) == 2
    assert ("chief", "image removed") in about


# -- what a stranger gets to see


def test_without_users_a_server_that_others_reach_does_not_start(tmp_path):
    app_dir, studies = app_copy(tmp_path / "app"), tmp_path / "studies"
    studies.mkdir()
    with (
        pytest.raises(
            RuntimeError, match=r"other machines reach 0\.0\.0\.0, and nobody would have to log in: add users"
        ),
        running_server(app_dir, studies, options=["-i", "0.0.0.0"]),
    ):
        pass


def test_guessing_passwords_ends_soon_and_locks_nobody_else_out(ward):
    def attempt(name: str, password: str) -> requests.Response:
        form = {"username": name, "password": password}
        return requests.post(f"{ward.url}/auth/token", data=form, timeout=60)

    answers = [attempt("nobody", f"guess number {n}") for n in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 300
    assert (
        answers[0].json()
        == attempt("anna", "not her password").json()
        == {"detail": "Name or password is wrong."}
    )
    assert attempt("anna", PASSWORDS["anna"]).status_code == 200


def test_headers_tell_browsers_to_be_careful_on_every_answer(ward, tokens):
    answers = [
        ward.ask("", "GET", "/info/"),
        ward.ask(tokens["anna"], "GET", "/info/"),
        ward.ask(tokens["anna"], "GET", "/datastore/image", params={"image": "nobody"}),
    ]
    assert [answer.status_code for answer in answers] == [401, 200, 404]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_no_secret_is_in_logs_audit_or_file_of_users(ward, tokens):
    told = ward.log() + json.dumps([row.details for row in ward.audit()]) + ward.users.path.read_text()
    for secret in [*PASSWORDS.values(), *tokens.values()]:
        assert secret not in told
    assert ward.users.path.stat().st_mode & 0o077 == 0

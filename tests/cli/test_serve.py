"""`overread serve` makes the call of MONAI Label that a user would type, also where paths hold spaces."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from overread.access import Role, UsersFile
from overread.access.users import default_users
from overread.cli import app
from overread.cli.console import app_folder, project_root
from overread.cli.serve import checked_certificate, checked_studies, is_port_in_use, server_command
from support.certificates import write_certificate

runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200"})


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def busy_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_the_call_is_monai_labels_own(tmp_path: Path):
    spaced = tmp_path / "my studies"
    command = server_command(
        tmp_path / "my app", spaced, "127.0.0.1", 8000, ["models=liver,spleen", "measure=variance"]
    )
    assert command == [
        *(sys.executable, "-m", "monailabel.main", "start_server"),
        *(
            "--app",
            str(tmp_path / "my app"),
            "--studies",
            str(spaced),
            "--host",
            "127.0.0.1",
            "--port",
            "8000",
        ),
        *("--conf", "models", "liver,spleen", "--conf", "measure", "variance"),
    ]


def test_monai_label_accepts_the_call(tmp_path: Path):
    """A dry run loads MONAI Label's own parser and settings, and no app."""
    folder = tmp_path / "an app"
    folder.mkdir()
    (folder / "main.py").write_text("")
    command = server_command(folder, tmp_path, "127.0.0.1", 8000, ["measure=variance"])
    result = subprocess.run([*command, "--dryrun"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.search(r"measure.*variance", result.stdout + result.stderr)


def test_studies_are_a_folder_or_the_address_of_a_pacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checked_studies("https://pacs.example/dicom-web") == "https://pacs.example/dicom-web"
    assert checked_studies("~") == tmp_path.resolve()
    with pytest.raises(typer.BadParameter, match=r"--studies .*missing: the folder does not exist"):
        checked_studies(str(tmp_path / "missing"))


@pytest.mark.parametrize("setting", ["measure", "=variance"])
def test_a_setting_without_key_and_equals_sign_is_refused(tmp_path: Path, setting: str):
    with pytest.raises(typer.BadParameter, match="should be KEY=VALUE"):
        server_command(tmp_path, tmp_path, "127.0.0.1", 8000, [setting])


def test_a_certificate_makes_it_https(tmp_path: Path):
    certificate, key = write_certificate(tmp_path)
    assert checked_certificate(None, None) is None
    tls = checked_certificate(certificate, key)
    command = server_command(tmp_path, tmp_path, "0.0.0.0", 8000, [], tls)
    assert command[-4:] == ["--ssl_certfile", str(certificate), "--ssl_keyfile", str(key)]


def test_a_certificate_that_does_not_fit_its_key_is_refused(tmp_path: Path):
    certificate, key = write_certificate(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, other_key = write_certificate(other)
    with pytest.raises(typer.BadParameter, match="belong together"):
        checked_certificate(certificate, None)
    with pytest.raises(typer.BadParameter, match="are no certificate and its key"):
        checked_certificate(certificate, other_key)
    with pytest.raises(typer.BadParameter, match="are no certificate and its key"):
        checked_certificate(key, key)
    _, locked = write_certificate(other, b"secret")
    with pytest.raises(typer.BadParameter, match="without a password"):
        checked_certificate(other / "server.pem", locked)


def test_other_machines_are_let_in_by_users_or_by_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "main.py").write_text("")
    arguments = ["serve", "--studies", str(tmp_path), "--app", str(tmp_path), "--host", "0.0.0.0"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert "other machines reach 0.0.0.0, and nobody would have to log in" in result.stderr
    # Where it would start, it becomes the server.
    started: list[list[str]] = []
    monkeypatch.setattr("overread.cli.serve.os.execv", lambda _, command: started.append(command))
    port = ["--port", str(free_port())]
    assert runner.invoke(app, [*arguments, *port, "--allow-anonymous"]).exit_code == 0
    assert started[0][-3:] == ["--conf", "allow_anonymous", "yes"]
    UsersFile(default_users(tmp_path)).add("anna", Role.READER, None, 1.0)
    assert runner.invoke(app, [*arguments, *port]).exit_code == 0
    contradiction = runner.invoke(app, [*arguments, *port, "--allow-anonymous"])
    assert contradiction.exit_code == 1
    assert "there are users, so that everybody has to log in" in contradiction.stderr
    assert len(started) == 2


def test_a_port_in_use_is_refused_with_a_remedy(tmp_path: Path, busy_port: int):
    result = runner.invoke(app, ["serve", "--studies", str(tmp_path), "--port", str(busy_port)])
    assert result.exit_code == 2
    sentence = " ".join(result.stderr.replace("│", " ").split())
    assert f"port {busy_port} on 127.0.0.1 is in use" in sentence
    assert f"--port {busy_port + 1}" in sentence


def test_a_demo_shows_its_own_app_whatever_the_other_commands_mean(tmp_path: Path, busy_port: int):
    elsewhere = {"OVERREAD_APP": str(tmp_path / "pathology")}
    refused = runner.invoke(app, ["serve", "--studies", str(tmp_path)], env=elsewhere)
    assert "holds no main.py" in refused.stderr
    # The app was found where the port is what stands in the way.
    result = runner.invoke(app, ["demo", "--port", str(busy_port)], env=elsewhere)
    assert f"port {busy_port} on 127.0.0.1 is in use" in " ".join(result.stderr.split())


def test_a_port_is_free_again_once_its_server_is_gone(busy_port: int):
    assert is_port_in_use("127.0.0.1", busy_port)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    assert not is_port_in_use("127.0.0.1", port)


def test_studies_that_are_not_there_are_refused(tmp_path: Path):
    result = runner.invoke(app, ["serve", "--studies", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_an_app_may_be_named_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert app_folder(Path("pathology")) == project_root() / "apps" / "pathology"
    own = tmp_path / "pathology"
    own.mkdir()
    (own / "main.py").write_text("")
    assert app_folder(Path("pathology")) == own


def test_an_app_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        typer.BadParameter, match=r"cardiology holds no main\.py: it is not a MONAI Label app"
    ):
        app_folder(Path("cardiology"))

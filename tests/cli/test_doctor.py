"""The doctor finds what is really wrong, says the remedy, and its exit code tells a script."""

import json
import re
import socket
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from typer.testing import CliRunner

from overread.cli import app, checks
from support.certificates import write_certificate
from support.servers import app_copy, publish_threshold, running_server

PROJECT = Path(__file__).parents[2]
runner = CliRunner(env={"TERM": "dumb", "COLUMNS": "200"})


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "main.py").touch()
    return folder


def findings(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = str(probe.getsockname()[1])
    result = runner.invoke(app, ["doctor", "--port", free_port, *arguments, "--json"])
    report = json.loads(result.stdout)
    assert report["ok"] == (result.exit_code == 0)
    return result.exit_code, {finding["topic"]: finding for finding in report["findings"]}


def test_every_finding_that_is_not_ok_has_a_remedy(app_dir: Path, tmp_path: Path):
    _, found = findings("--app", str(app_dir), "--studies", str(tmp_path / "none"))
    assert {"Python", "GPU", "memory", "port", "app", "studies", "models"} <= found.keys()
    assert all(finding["remedy"] for finding in found.values() if finding["verdict"] != "ok")


def test_this_environment_is_sound(app_dir: Path, tmp_path: Path):
    code, found = findings("--app", str(app_dir), "--studies", str(tmp_path))
    assert code == 0, found
    assert found["Python"]["verdict"] == found["versions"]["verdict"] == found["studies"]["verdict"] == "ok"


def test_a_port_in_use_fails_and_names_the_process(app_dir: Path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        code, found = findings("--app", str(app_dir), "--port", str(port))
    assert code == 1
    assert found["port"]["verdict"] == "fail"
    assert re.search(r"is in use by process \d+", found["port"]["message"])
    assert f"--port {port + 1}" in found["port"]["remedy"]


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_port_where_our_own_server_answers_is_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
):
    served, studies = app_copy(tmp_path / "served"), tmp_path / "studies"
    publish_threshold(served)
    studies.mkdir()
    certificate, key = write_certificate(tmp_path)
    # For who waits until the server is up; the doctor takes any certificate.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    options = ["--ssl_certfile", str(certificate), "--ssl_keyfile", str(key)] if secure else []
    with running_server(served, studies, ["scoring", "no"], options=options) as url:
        _, found = findings("--app", str(served), "--port", url.rpartition(":")[2])
        assert found["port"]["verdict"] == "ok"
        assert "is where Overread is served now" in found["port"]["message"]
        # Damaged, it is our server still; nobody is told to stop it.
        (served / "model" / "phantom" / "champion.json").write_text("{")
        _, found = findings("--app", str(served), "--port", url.rpartition(":")[2])
        assert (found["port"]["verdict"], found["model phantom"]["verdict"]) == ("warn", "fail")


def test_studies_that_are_a_file_fail(app_dir: Path, tmp_path: Path):
    file = tmp_path / "studies"
    file.touch()
    code, found = findings("--app", str(app_dir), "--studies", str(file))
    assert code == 1
    assert "is a file, not a folder" in found["studies"]["message"]


def test_studies_that_cannot_be_written_to_fail(app_dir: Path):
    code, found = findings("--app", str(app_dir), "--studies", "/proc/self")
    assert code == 1
    assert "/proc/self cannot be written to" in found["studies"]["message"]


def test_studies_that_are_missing_fail_with_the_command_that_makes_them(app_dir: Path, tmp_path: Path):
    _, found = findings("--app", str(app_dir), "--studies", str(tmp_path / "none"))
    assert found["studies"]["remedy"].startswith(f"mkdir -p '{tmp_path / 'none'}'")


def test_an_app_folder_without_main_fails(tmp_path: Path):
    code, found = findings("--app", str(tmp_path))
    assert code == 1
    assert "holds no main.py" in found["app"]["message"]


def test_a_damaged_champion_fails_by_name(app_dir: Path):
    folder = app_dir / "model" / "liver"
    folder.mkdir(parents=True)
    (folder / "champion.json").write_text("{")
    code, found = findings("--app", str(app_dir))
    assert code == 1
    assert "champion.json is damaged" in found["model liver"]["message"]


def test_no_champion_is_a_warning_only(app_dir: Path):
    code, found = findings("--app", str(app_dir))
    assert (code, found["models"]["verdict"]) == (0, "warn")
    assert "make demo" in found["models"]["remedy"]


@pytest.mark.parametrize(("version", "verdict"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 12), "fail")])
def test_only_python_3_11_fits(version: tuple[int, int], verdict: str):
    assert checks.check_python(version).verdict == verdict


def installed(folder: Path, name: str, version: str) -> None:
    """Metadata of a distribution, as pip leaves it behind."""
    information = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_version_that_does_not_fit_fails_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    installed(tmp_path, "pydicom", "3.0.1")
    monkeypatch.syspath_prepend(tmp_path)
    assert metadata.version("pydicom") == "3.0.1"
    found = {finding.topic: finding for finding in checks.check_versions()}
    assert found["pydicom"].verdict == "fail"
    assert found["pydicom"].message.startswith("3.0.1 does not fit <3")
    assert found["pydicom"].remedy == 'pip install "pydicom<3"'


def test_a_package_that_is_missing_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(checks.VERSIONS, "no-such-package-here", (">=1", "reasons"))
    found = {finding.topic: finding for finding in checks.check_versions()}
    assert found["no-such-package-here"].message == "is not installed: reasons"


def test_the_versions_looked_at_are_those_of_the_project():
    text = (PROJECT / "pyproject.toml").read_text()
    block = text.partition("\ndependencies = [")[2].partition("\n]")[0]
    wanted = {
        r.name: r.specifier for r in map(Requirement, re.findall(r'^\s+"([^"]+)",', block, re.MULTILINE))
    }
    for name, (specifier, _) in checks.VERSIONS.items():
        assert wanted[name] == SpecifierSet(specifier), name


def test_a_monailabel_package_without_its_command_fails(tmp_path: Path):
    missing = checks.check_monailabel_command(tmp_path)
    assert missing.verdict == "fail"
    assert "pip install --force-reinstall --no-deps monailabel==0.8.5" in missing.remedy
    (tmp_path / "monailabel").touch()
    assert checks.check_monailabel_command(tmp_path).verdict == "ok"


def test_the_report_for_people_ends_with_a_count(app_dir: Path, tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    result = runner.invoke(app, ["doctor", "--app", str(app_dir), "--studies", str(file)])
    assert result.exit_code == 1
    assert re.search(r"fail\s+studies: .* is a file, not a folder\n\s+→ name a folder", result.stdout)
    assert re.search(r"\d+ of \d+ checks failed\.", result.stdout)

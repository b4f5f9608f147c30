"""What a stranger installs is pinned, complete, and fetched from wherever their own settings say."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
PIN = re.compile(r"[a-z0-9][a-z0-9.-]*==[0-9][A-Za-z0-9.]*")
# Where packages come from is the installing person's choice; only commands and pages meant to be read are fine.
REGISTRY = re.compile(
    r"index-url\s*=\s*\S*://|pypi\.org/simple|files\.pythonhosted|download\.pytorch|://\S*/simple\b", re.I
)
TOOLS = ("bash", "dirname", "id", "env")


def pins() -> dict[str, str]:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def requirements() -> dict[str, list[Requirement]]:
    """Requirements of pyproject.toml by the array they stand in."""
    text = (PROJECT / "pyproject.toml").read_text()
    found = {}
    for array in ("requires", "dependencies", "nnunet", "dev"):
        block = re.search(rf"^{array} = \[(.*?)\n?\]$", text, re.MULTILINE | re.DOTALL)
        assert block, array
        found[array] = [Requirement(line) for line in re.findall(r'"([^"]+)"', re.sub(r"#.*", "", block[1]))]
    return found


def test_constraints_are_nothing_but_names_and_versions():
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 100
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    assert len({canonicalize_name(line.partition("==")[0]) for line in lines}) == len(lines)


@pytest.mark.parametrize("array", ["requires", "dependencies", "nnunet", "dev"])
def test_every_requirement_is_pinned_to_a_version_that_it_allows(array: str):
    pinned = pins()
    wanted = [requirement for requirement in requirements()[array] if requirement.name != "overread"]
    assert wanted
    for requirement in wanted:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement} does not allow {version}"


def project_files() -> list[Path]:
    if not (PROJECT / ".git").exists() or not shutil.which("git"):
        pytest.skip("the project's files are listed by git, and this is no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return [PROJECT / name for name in listed.stdout.split("\0") if name]


def test_no_file_names_the_host_of_a_package_registry():
    culprits = []
    for file in project_files():
        if file == Path(__file__).resolve() or file.suffix in (".png", ".gz") or not file.is_file():
            continue
        culprits += [
            f"{file}: {line}"
            for line in file.read_text(errors="ignore").splitlines()
            if REGISTRY.search(line)
        ]
    assert culprits == []


@pytest.mark.parametrize("script", [".ci/run", ".ci/install"])
def test_scripts_are_executable_bash_that_stops_at_the_first_error(script: str):
    file = PROJECT / script
    assert os.access(file, os.X_OK)
    assert "set -euo pipefail" in file.read_text()
    subprocess.run(["bash", "-n", str(file)], check=True)


def test_without_a_python_that_fits_the_installation_says_which_one_and_why(tmp_path: Path):
    """A machine whose only Python calls itself 3.11 and does not run."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci" / "install", tmp_path / ".ci" / "install")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    (tools / "python3.11").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3.11").chmod(0o755)
    result = subprocess.run(
        [tmp_path / ".ci" / "install"], env={"PATH": str(tools)}, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "needs Python 3.11, and python3.11 is not on the PATH" in result.stderr
    assert "3.12 and newer do not fit: monailabel 0.8.5 needs numpy 1.x" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_licence_is_the_one_that_is_declared():
    licence = (PROJECT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert 'license = "Apache-2.0"' in (PROJECT / "pyproject.toml").read_text()
    assert "not a medical device" in (PROJECT / "README.md").read_text()

"""The browser of the end-to-end tests: where it cannot be had, that is said, and nothing fails."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from infrastructure.templates import ROOT

TOOLS = ("sh", "sed", "grep", "rm", "mkdir", "true", "python3", "firstword")


@pytest.fixture
def path_without_apt(tmp_path: Path) -> str:
    """A PATH on which there is what the script calls, but for apt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    return str(folder)


def unpack(tmp_path: Path, path: str) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make") or "make"
    command = [make, "-f", "infra/build.mk", "chromium", f"TOOLS={tmp_path / 'tools'}", "SHELL=/bin/sh"]
    # What a make that runs the tests tells its children is none of this one's business.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | {"PATH": path}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_machine_without_apt_is_told_so_in_one_sentence(tmp_path: Path, path_without_apt: str) -> None:
    made = unpack(tmp_path, path_without_apt)
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == "Chromium could not be unpacked: pages will not be tried in a browser"
    assert "apt has no package" in made.stderr
    assert not (tmp_path / "tools" / "chromium").exists()


def test_a_browser_that_runs_is_kept(tmp_path: Path, path_without_apt: str) -> None:
    browser = tmp_path / "tools" / "chromium" / "chromium"
    browser.parent.mkdir(parents=True)
    browser.write_text("#!/bin/sh\nexit 0\n")
    browser.chmod(0o755)
    made = unpack(tmp_path, path_without_apt)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    assert browser.exists()

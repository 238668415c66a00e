"""What users install: wheel and source archive keep the contract in an environment of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wheel_and_source_archive_keep_the_contract(tmp_path: Path) -> None:
    made = tmp_path / "made"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, ROOT, cwd=tmp_path)
    (wheel,), (archive,) = made.glob("*.whl"), made.glob("*.tar.gz")
    home = tmp_path / "home"
    run(sys.executable, "-m", "venv", home, cwd=tmp_path)
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", wheel, "pytest", "pytest-asyncio", cwd=tmp_path)

    suite = tmp_path / "suite"
    for folder in ("contract", "integration"):
        shutil.copytree(ROOT / "tests" / folder, suite / "tests" / folder)
    shutil.copy(ROOT / "tests" / "__init__.py", suite / "tests")
    contract = (python, "-m", "pytest", "-q", "--import-mode=importlib", "tests/contract")
    options = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")
    assert " passed" in run(*contract, *options, "-k", "embedded", cwd=suite)

    run(python, "-m", "pip", "uninstall", "-q", "-y", "bokilog", cwd=tmp_path)
    run(python, "-m", "pip", "install", "-q", archive, cwd=tmp_path)
    assert " passed" in run(*contract, *options, "-k", "embedded and conditions", cwd=suite)
    command = home / "bin" / "bokilog"
    assert "follow" in run(command, "--help", cwd=tmp_path)

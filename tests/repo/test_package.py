"""What is shipped: every module of bokilog once, under its full name, and nothing beside it."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKED = ("client", "functions", "sequencer", "storage_nodes")


@pytest.mark.parametrize("name", LINKED)
def test_the_linked_folders_are_relative_links(name: str) -> None:
    assert os.readlink(ROOT / "bokilog" / name) == f"../{name}"
    assert (ROOT / name / "__init__.py").is_file()


def test_the_command_and_the_pytest_plugin_are_where_the_package_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["bokilog"].partition(":")
    assert callable(getattr(import_module(module), function))
    import_module(project["entry-points"]["pytest11"]["bokilog"])


def files_of_the_package() -> set[str]:
    found = set()
    for folder, _, names in os.walk(ROOT / "bokilog", followlinks=True):
        place = Path(folder).relative_to(ROOT)
        found |= {str(place / name) for name in names if not name.endswith(".pyc")}
    return found


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_wheel_made_from_the_source_archive_holds_the_package_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as members:
        packed = [member.name.partition("/")[2] for member in members if not member.isdir()]
        assert not [member.name for member in members if member.issym() or member.islnk()]
    assert {name for name in packed if name.startswith("bokilog/")} == files_of_the_package()
    assert not [name for name in packed if name.partition("/")[0] in LINKED]

    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(files_of_the_package())
    assert "bokilog/py.typed" in names

    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); import bokilog.storage_nodes as it"
    command = [sys.executable, "-I", "-S", "-c", f"{code}; print(it.__file__)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout.strip() == f"{wheel}/bokilog/storage_nodes/__init__.py"

"""What importing bokilog costs and touches: little, and nobody else's names."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BARE = ("client", "functions", "sequencer", "storage_nodes")


def run(code: str, *, cwd: Path, flags: tuple[str, ...] = ()) -> str:
    """What `code` prints in a fresh interpreter that stands in `cwd`, with no path but its own."""
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_linter_refuses_every_bare_name() -> None:
    code = "".join(f"import {name}\nfrom {name}.core import x\n" for name in BARE)
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251"]
    done = subprocess.run(
        [*command, "--output-format", "concise", "--stdin-filename", "x.py", "-"],
        cwd=ROOT,
        input=code,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert done.stdout.count("TID251") == 2 * len(BARE), done.stdout + done.stderr


def test_no_file_imports_a_bare_name() -> None:
    bare = re.compile(rf"^\s*(?:from|import)\s+(?:{'|'.join(BARE)})\b", re.MULTILINE)
    files = [
        file
        for folder in ("bokilog", "scripts", "tests", *BARE)  # rglob does not follow our links
        for file in (ROOT / folder).rglob("*.py")
    ]
    assert [str(file) for file in files if bare.search(file.read_text())] == []


def test_a_users_own_modules_of_those_names_are_his_own(tmp_path: Path) -> None:
    for name in BARE:
        (tmp_path / f"{name}.py").write_text("WHOSE = 'mine'\n")
    code = (
        "import bokilog, bokilog.client, bokilog.functions\n"
        f"print({{__import__(name).WHOSE for name in {BARE}}}, bokilog.client.__name__)"
    )
    assert run(code, cwd=tmp_path) == "{'mine'} bokilog.client"


def test_outside_of_the_checkout_the_bare_names_are_free(tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec; print([n for n in {BARE} if find_spec(n)])"
    assert run(code, cwd=tmp_path) == "[]"


def test_import_bokilog_is_lazy(tmp_path: Path) -> None:
    code = "import sys; old = set(sys.modules); import bokilog; print(*(set(sys.modules) - old))"
    loaded = run(code, cwd=tmp_path, flags=("-I",)).split()
    assert [name for name in loaded if name.startswith("bokilog")] == ["bokilog"]
    assert not {"asyncio", "msgpack", "rocksdict", "typing"} & set(loaded)
    assert len(loaded) <= 5, loaded  # itself, and importlib where nobody imported it yet

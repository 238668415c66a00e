"""The user's module may have any name, and what is wrong with it is told in its own words."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bokilog.call_errors import AppFailed
from bokilog.functions.runtime.loading import load_app, user_files

APP = "import bokilog\napp = bokilog.App('mine')\n"


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    """As they were before: these tests import, and replace, modules."""
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = path
    importlib.invalidate_caches()


@pytest.mark.parametrize("name", ["client", "functions", "queue", "calendar", "typed_app"])
def test_a_module_of_any_name_is_the_users_own(name: str, tmp_path: Path) -> None:
    importlib.import_module("calendar")
    (tmp_path / f"{name}.py").write_text(APP)
    app = load_app(f"{name}:app", str(tmp_path))
    assert app.name == "mine"
    assert sys.modules[name].__file__ == str(tmp_path / f"{name}.py")
    assert user_files(str(tmp_path)) == [str(tmp_path / f"{name}.py")]


def test_an_app_is_found_in_packages_and_by_file(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "prices.py").write_text("import taxes\n" + APP)
    (tmp_path / "taxes.py").write_text("")
    (package / "alone.py").write_text("import beside\n" + APP.replace("app =", "other ="))
    (package / "beside.py").write_text("")
    assert load_app("shop.prices:app", str(tmp_path)).name == "mine"
    assert load_app("shop/alone.py", str(tmp_path)).name == "mine"
    assert str(package / "beside.py") in user_files(str(tmp_path))


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("mine:other", "module mine has no app 'other' (it has app)"),
        ("mine:text", "mine.text is str, not a bokilog.App (it has app)"),
        ("nothing:app", "No module named 'nothing'"),
        ("nothing.py:app", "there is no file"),
        ("mine.deeper:app", "No module named 'mine.deeper'"),
    ],
)
def test_what_is_not_there_is_said(named: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(APP + "text = 'x'\n")
    with pytest.raises(AppFailed) as caught:
        load_app(named, str(tmp_path))
    assert problem in caught.value.reason
    assert caught.value.app == named


def test_the_traceback_of_an_import_shows_the_users_lines_only(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import deeper\n")
    (tmp_path / "deeper.py").write_text("def fail():\n    return 1 / 0\nfail()\n")
    with pytest.raises(AppFailed) as caught:
        load_app("mine:app", str(tmp_path))
    lines = [line for line in caught.value.reason.splitlines() if line.startswith("  File")]
    assert [line.rpartition("/")[2].partition('"')[0] for line in lines] == [
        "mine.py",
        "deeper.py",
        "deeper.py",
    ]
    assert user_files(str(tmp_path), caught.value) == [
        str(tmp_path / "deeper.py"),
        str(tmp_path / "mine.py"),
    ]

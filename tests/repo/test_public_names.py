"""The top level says one thing to programs, to type checkers and to readers."""

import ast
import inspect
from pathlib import Path

import pytest

import bokilog
from bokilog import errors

SOURCE = Path(bokilog.__file__).read_text()


def declared() -> dict[str, str]:
    """Name to module, as the block for type checkers in bokilog/__init__.py has it."""
    blocks = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.If)]
    imports = [node for node in blocks[0].body if isinstance(node, ast.ImportFrom)]
    return {str(name.asname): str(node.module) for node in imports for name in node.names}


def test_type_checkers_see_the_names_that_programs_get() -> None:
    assert declared() == bokilog._HOME


def test_every_error_is_public() -> None:
    family = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    raised = {name for name in family if issubclass(getattr(errors, name), errors.BokilogError)}
    assert raised == {name for name, home in bokilog._HOME.items() if home == "bokilog.errors"}


@pytest.mark.parametrize("name", sorted(bokilog._HOME))
def test_every_public_name_is_where_the_table_says(name: str) -> None:
    assert name in dir(bokilog)
    assert getattr(bokilog, name) is not None


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'bokilog' has no attribute 'Nothing'"):
        _ = bokilog.Nothing


def test_a_lost_link_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(module: str) -> object:
        raise ModuleNotFoundError(f"No module named {module!r}", name="bokilog.client")

    monkeypatch.setattr(bokilog, "import_module", lost)
    monkeypatch.delitem(vars(bokilog), "connect", raising=False)
    with pytest.raises(ImportError, match="symbolic links"):
        _ = bokilog.connect

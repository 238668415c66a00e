"""`bokilog verify`: what its exit codes mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from bokilog.cli.main import main
from bokilog.shapes.verification import Verification


def test_what_may_not_be_read_cannot_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: Verification) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "lock"))

    monkeypatch.setattr(Verification, "run", refused)
    assert main(["verify", str(tmp_path)]) == 2, "1 would say that damage was found"
    assert f"Permission denied: '{tmp_path / 'lock'}'" in capsys.readouterr().err

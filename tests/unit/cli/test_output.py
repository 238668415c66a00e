"""What the commands print is read again by programs, whatever the locale says."""

import io
import json
import sys

import pytest

from bokilog.cli.output import as_json

NAMED = {"name": "Ørsted – 北"}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "koi8-r"])
def test_json_can_be_read_in_the_encoding_of_the_output(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert json.loads(as_json(NAMED).encode(encoding)) == NAMED


def test_json_is_not_escaped_where_it_need_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf8"))
    assert "北" in as_json(NAMED)

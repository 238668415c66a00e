"""The command line: its table of commands, its exit codes, its one line of an error."""

import importlib.util
import io
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bokilog.cli import main as cli_main
from bokilog.cli.main import COMMANDS, cli, main
from bokilog.errors import InvalidTag, NodeUnreachable


def there(module: str) -> bool:
    return importlib.util.find_spec(f"bokilog.cli.{module}") is not None


@pytest.mark.parametrize("name", [name for name, (module, _) in COMMANDS.items() if there(module)])
def test_the_table_says_of_a_command_what_its_own_help_says(name: str) -> None:
    module, line = COMMANDS[name]
    command = getattr(import_module(f"bokilog.cli.{module}"), name.replace("-", "_"))
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.get_short_help_str(200) == line


def test_a_module_that_is_not_there_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "fly", ("nowhere", "Fly."))
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert "append" in result.output
    assert "Fly." not in result.output
    assert CliRunner().invoke(cli, ["fly"]).exit_code == 2


def test_help_imports_no_command() -> None:
    program = (
        "import sys; from bokilog.cli.main import main; main(['--help']);"
        "print([m for m in sys.modules if m in ('asyncio', 'rich', 'msgpack', 'subprocess')])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command that raises what is put into the list."""
    errors: list[BaseException] = []

    class Failing(click.Command):
        def invoke(self, ctx: click.Context) -> None:
            raise errors[0]

    monkeypatch.setattr(
        cli_main.LazyGroup, "get_command", lambda self, ctx, name: Failing("books", params=[])
    )
    return errors


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidTag("", "is empty"), 2, "error: InvalidTag: tag '' is empty"),
        (NodeUnreachable("x", "no"), 1, "error: NodeUnreachable: cannot reach x: no"),
        (
            InvalidTag("a\x1b[2J\nb", "is \x9b31m"),
            2,
            "error: InvalidTag: tag 'a\\x1b[2J\\nb' is \\x9b31m",
        ),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: Permission denied: /x"),
        (FileNotFoundError(2, "No such file"), 1, "error: No such file"),
        (KeyboardInterrupt(), 130, ""),
        (click.UsageError("no such thing"), 2, "Error: no such thing"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    failing: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    failing.append(error)
    assert main(["books"]) == code
    assert capsys.readouterr().err.strip() == line


def test_a_folder_that_is_gone_is_named(
    failing: list[BaseException],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    failing.append(FileNotFoundError(2, "No such file"))
    assert main(["books"]) == 1
    assert capsys.readouterr().err == "error: No such file: the current folder is gone\n"


def test_an_output_that_nobody_reads_any_more_is_no_error(tmp_path: Path) -> None:
    program = (
        "import sys, click\nfrom bokilog.cli import main as it\n"
        "class Endless(click.Command):\n"
        "    def invoke(self, ctx):\n"
        "        while True: click.echo('x' * 1000)\n"
        "it.LazyGroup.get_command = lambda self, ctx, name: Endless('scan')\n"
        "sys.exit(it.main(['scan']))\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 141


def test_an_interrupted_question_ends_its_line(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(click.Abort())
    assert main(["books"]) == 130
    assert capsys.readouterr().err == "\n"
    failing[0] = KeyboardInterrupt()  # for which click has ended the line
    assert main(["books"]) == 130
    assert capsys.readouterr().err == "\n"


def test_closed_streams_are_no_error(
    monkeypatch: pytest.MonkeyPatch, failing: list[BaseException]
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)  # as Python has it for `>&-`
    failing.append(InvalidTag("", "is empty"))
    code = main(["books"])
    sys.stdout.close()
    sys.stderr.close()
    assert code == 2


def test_no_character_ends_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, io.BytesIO] = {}
    for name in ("ascii", "latin-1"):
        there[name] = io.BytesIO()
        stream = io.TextIOWrapper(there[name], encoding=name)
        monkeypatch.setattr(sys, "stdout", stream)
        main(["--version"])
        print("\u00fc\u65e5\udcff", file=stream, flush=True)
    assert there["ascii"].getvalue().endswith("\u00fc\u65e5\\udcff\n".encode())
    assert there["latin-1"].getvalue().endswith(b"\xfc\\u65e5\\udcff\n")


@pytest.mark.parametrize(("said", "color"), [("1", False), ("", None)])
def test_no_color_is_heard(monkeypatch: pytest.MonkeyPatch, said: str, color: bool | None) -> None:
    heard: list[bool | None] = []

    class Hearing(click.Command):
        def invoke(self, ctx: click.Context) -> None:
            heard.append(ctx.color)

    monkeypatch.setattr(
        cli_main.LazyGroup, "get_command", lambda self, ctx, name: Hearing("books", params=[])
    )
    monkeypatch.setenv("NO_COLOR", said)
    assert main(["books"]) == 0
    assert heard == [color]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bokilog 0.")

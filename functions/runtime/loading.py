"""The user's app, imported by name: from their folder, whatever their modules are called.

Decides which object `module:app` means, and which files a change of which would matter. The folder
goes first on the path only after everything of ours is imported: a user's `client.py` or
`queue.py` is theirs, and ours is not lost by it. Does not know: processes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from bokilog.call_errors import AppFailed
from bokilog.functions.runtime.app import App


def load_app(named: str, folder: str) -> App:
    """The app that `module:app` names, or `module` with only one app in it.

    A module may be said as a file, `path/to/module.py`: then it is imported as Python would run it,
    by its bare name, with its own folder before the other one.

    Raises:
        AppFailed: there is none, or its module cannot be imported; with the traceback.
    """
    name, _, attribute = named.partition(":")
    _put_first(folder)
    if name.endswith(".py"):
        file = Path(folder, name)
        if not file.exists():
            raise AppFailed(named, f"there is no file {file}")
        folder, name = str(file.parent), file.stem
        _put_first(folder)
    module = _imported(named, name, folder)
    if attribute:
        found = getattr(module, attribute, None)
        if not isinstance(found, App):
            if found is None:
                problem = f"module {name} has no app {attribute!r}"
            else:
                problem = f"{name}.{attribute} is {type(found).__name__}, not a bokilog.App"
            raise AppFailed(named, f"{problem}{_hint(module)}")
        return found
    apps = [each for each in vars(module).values() if isinstance(each, App)]
    if len(apps) != 1:
        raise AppFailed(
            named, f"module {name} has {len(apps)} apps: say {name}:NAME{_hint(module)}"
        )
    return apps[0]


def _hint(module: ModuleType) -> str:
    names = [name for name, each in vars(module).items() if isinstance(each, App)]
    return f" (it has {', '.join(names)})" if names else ""


def _imported(named: str, name: str, folder: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        _make_room(name, folder)
        return importlib.import_module(name)
    except BaseException as error:  # whatever importing a user's module raises, `exit()` included
        raise AppFailed(named, trace_of(error)) from error


def _put_first(folder: str) -> None:
    if folder not in sys.path[:1]:
        sys.path.insert(0, folder)


def _make_room(name: str, folder: str) -> None:
    """A module of that name may be imported already, the standard library's perhaps: the user's
    own comes first, as it would have if it had been imported before."""
    top = name.partition(".")[0]
    loaded = sys.modules.get(top)
    own = [Path(folder, f"{top}.py"), Path(folder, top, "__init__.py")]
    if loaded is None or not any(each.exists() for each in own):
        return
    file = getattr(loaded, "__file__", None)
    if file is None or Path(file).resolve() not in [each.resolve() for each in own]:
        del sys.modules[top]


def trace_of(error: BaseException) -> str:
    """The traceback of what went wrong in the user's module, without our part of it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and _is_machinery(trace.tb_frame):
        trace = trace.tb_next
    if trace is not None and _is_machinery(trace.tb_frame):
        trace = None
    return "".join(traceback.format_exception(type(error), error, trace))


def _is_machinery(frame: object) -> bool:
    code = getattr(frame, "f_code", None)
    file: str = getattr(code, "co_filename", "")
    return file == __file__ or file.startswith("<frozen importlib") or file == importlib.__file__


def user_files(folder: str, failure: BaseException | None = None) -> list[object]:
    """The files of all modules that came from the folder: a change of one means a reload.

    A module whose import failed is not among the modules: those of the failure's traceback are.
    """
    root = Path(folder).resolve()
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    while failure is not None:
        trace = failure.__traceback__
        while trace is not None:
            files.append(trace.tb_frame.f_code.co_filename)
            trace = trace.tb_next
        files.append(getattr(failure, "filename", None))  # of a SyntaxError
        failure = failure.__cause__
    found: set[object] = set()
    for file in files:
        if isinstance(file, str) and file.endswith(".py"):
            path = Path(file).resolve()
            if path.is_relative_to(root) and "site-packages" not in path.parts:
                found.add(str(path))
    return sorted(found, key=str)

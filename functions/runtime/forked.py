"""The child of a fork that a function made itself, when it comes back out of the function.

Decides how such a child ends. The call is its parent's, and so are the loop, the links and the
other threads, of which the child has copies that lead nowhere: it can neither answer nor wait.
"""

from __future__ import annotations

import os


def end_if_forked(parent: int, function: str, error: BaseException | None = None) -> None:
    """Return in the process `parent`; end any other, with what a program would exit with.

    Args:
        parent: the process from before the function's own code ran.
        function: whose code that was.
        error: how it ended, if not by a value.
    """
    if os.getpid() == parent:
        return
    how = "came back from it" if error is None else f"raised {type(error).__name__}"
    code: object = 1
    if isinstance(error, SystemExit):
        code = error.code or 0
    if not isinstance(error, SystemExit) or not isinstance(code, int):
        line = f"a child of os.fork in function {function!r} {how}: end it with os._exit\n"
        os.write(2, line.encode(errors="backslashreplace"))
    os._exit(code & 0xFF if isinstance(code, int) else 1)

"""Who is told what a host does: whoever watches it, else the log of its process.

Decides what becomes of what calls write, and that no trouble is told in two places: a person who
watches need not find it in the log as well. What went well is in the log only as far as an operator
needs it. Does not know why anything happens.
"""

from __future__ import annotations

import logging
from typing import Protocol

from bokilog.functions.runtime.call_outputs import CallOutputs
from bokilog.functions.runtime.effects import (
    Address,
    AppLoaded,
    AppNotLoaded,
    CallBegan,
    CallOver,
    WorkerEnded,
)
from bokilog.functions.runtime.messages import Output
from bokilog.functions.runtime.open_calls import error_name

logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """Whoever shows what a host does; called on its loop, must not wait."""

    def loaded(self, loaded: AppLoaded) -> None: ...

    def not_loaded(self, failed: AppNotLoaded) -> None: ...

    def began(self, began: CallBegan) -> None: ...

    def over(self, over: CallOver) -> None: ...

    def wrote(self, call_id: str, stream: int, text: str) -> None: ...

    def worker_ended(self, ended: WorkerEnded) -> None: ...

    def warned(self, problem: str) -> None: ...

    def said(self, news: str) -> None: ...

    def stopping(self, calls_count: int) -> None: ...


class Shown:
    """What is shown of one host.

    Args:
        module: `module:app`, as people call the app while it has no name.
        outputs: keeps what calls write.
        watcher: None: nobody watches.
    """

    __slots__ = ("_module", "_outputs", "_watcher")

    def __init__(self, module: str, *, outputs: CallOutputs, watcher: Watcher | None) -> None:
        self._module = module
        self._outputs = outputs
        self._watcher = watcher

    @property
    def is_watched(self) -> bool:
        """Somebody sees all of it."""
        return self._watcher is not None

    # --- calls ------------------------------------------------------------------------------------

    def began(self, began: CallBegan) -> None:
        """A worker has a call."""
        self._outputs.began(began.call_id, began.function)
        if self._watcher is not None:
            self._watcher.began(began)

    def over(self, over: CallOver) -> None:
        """A call was answered."""
        outcome = "ok" if not over.error else error_name(over.error)
        self._outputs.over(over.call_id, over.function, outcome)
        if self._watcher is not None:
            self._watcher.over(over)

    def wrote(self, source: Address, call_id: str, output: Output) -> None:
        """A call printed something, or a process did so outside of calls (`call_id` is empty)."""
        if call_id:
            self._outputs.wrote(call_id, output.stream, output.written)
        else:
            logger.info("%s %s: %s", *source, output.written.rstrip("\n"))
        if self._watcher is not None:
            self._watcher.wrote(call_id, output.stream, output.written)

    # --- the app and its workers ------------------------------------------------------------------

    def loaded(self, app: str, loaded: AppLoaded) -> None:
        """A version of the app serves."""
        names = ", ".join(str(row[0]) for row in loaded.functions)
        took_ms = sum(part[1] for part in loaded.parts if isinstance(part[1], int)) // 1_000
        logger.info("%s version %d after %d ms: %s", app, loaded.version, took_ms, names)
        if self._watcher is not None:
            self._watcher.loaded(loaded)

    def not_loaded(self, failed: AppNotLoaded, *, is_raised: bool) -> None:
        """A version of the app does not, of which its caller is told by an exception, or not."""
        if self._watcher is not None:
            self._watcher.not_loaded(failed)
        elif not is_raised:
            kept = "the version before goes on" if failed.serving else "there is none to serve"
            logger.error("%s cannot be loaded (%s):\n%s", self._module, kept, failed.trace)

    def worker_ended(self, ended: WorkerEnded) -> None:
        """A worker is gone that nobody had told to end."""
        if self._watcher is not None:
            self._watcher.worker_ended(ended)
        else:
            logger.warning("worker %d of %s: %s", *ended)

    def warned(self, problem: str) -> None:
        """Something may not be as it was meant."""
        if self._watcher is not None:
            self._watcher.warned(problem)
        else:
            logger.warning("%s", problem)

    def said(self, news: str) -> None:
        """What was told of is well again."""
        if self._watcher is not None:
            self._watcher.said(news)
        else:
            logger.info("%s", news)

    def stopping(self, calls_count: int) -> None:
        """The host was told to end, and so many calls are not over."""
        if self._watcher is not None:
            self._watcher.stopping(calls_count)

"""An app: the functions that belong together, as its module declares them.

Decides names, which function is which, what runs once before any call (`@app.init`), and what
carries calls made here: the call that the code runs in, else the app's connection. Does not know
how calls run or where; `connect` and `local` are found when they are asked for.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Concatenate,
    Final,
    Literal,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from bokilog.call_errors import InvalidArguments
from bokilog.client.admin import ClientLog
from bokilog.errors import InvalidSettings, NotReady
from bokilog.functions.runtime.context import Context, current
from bokilog.functions.runtime.function import PICKLED, AnyFunction, Body, Function
from bokilog.functions.runtime.messages import FunctionRows
from bokilog.functions.runtime.options import CatchUp, FunctionOptions, Overlap
from bokilog.functions.runtime.outgoing import Caller
from bokilog.functions.runtime.process_caller import ProcessCaller

if TYPE_CHECKING:
    from bokilog.functions.runtime.local import LocalApp
    from bokilog.functions.runtime.outside import AppConnection

P = ParamSpec("P")
R = TypeVar("R")

Init = Callable[[], object]
_SCHEDULES_HOME: Final = "bokilog.functions.calls.schedules"
"""Found by name: calls stand upon this package."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class OptionWords(TypedDict, total=False):
    """What may be said at `@app.function(...)`; `FunctionOptions` says what each means."""

    name: str
    timeout_s: float
    retries: int
    retry_delay_s: float
    max_concurrency: int
    queue_limit: int
    min_workers: int
    max_workers: int
    idle_s: float
    memory_bytes: int
    fresh: bool
    schedule: str
    time_zone: str
    overlap: Overlap
    catch_up: CatchUp
    catch_up_window_s: float


class App:
    """The functions of one application.

        app = bokilog.App("shop")

        @app.function(timeout_s=30)
        async def price(item: str) -> float: ...

    Args:
        name: up to 64 letters, digits, dots, dashes and underscores; its LogBooks are
            `functions/NAME...`.
        start: how workers start: "fork" from a warm template, or "spawn", a fresh interpreter each,
            for code that does not survive a fork.
    """

    def __init__(self, name: str, *, start: Literal["fork", "spawn"] = "fork") -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problem = "is not 1 to 64 letters, digits, dots, dashes and underscores"
            raise InvalidSettings("app", repr(name), problem)
        if start not in ("fork", "spawn"):
            raise InvalidSettings("start", repr(start), "is neither fork nor spawn")
        self.name = name
        self.start = start
        self.functions: dict[str, AnyFunction] = {}
        """By name."""
        self.inits: list[Init] = []
        """What runs once, before any call."""
        self.worker_inits: list[Init] = []
        """What runs once in each worker, after its fork."""
        self.connection: ProcessCaller | None = None
        """What carries calls from outside of calls."""
        self._declare(_run_pickled, FunctionOptions(max_concurrency=1), name=PICKLED)

    def __repr__(self) -> str:
        return f"<App {self.name!r} with {len(self.functions) - 1} functions>"

    def __reduce__(self) -> tuple[Callable[[str], App], tuple[str]]:
        # A function that is sent as it is refers to its app: where it arrives, that is another one.
        return _app_named, (self.name,)

    # Context first: then it is no part of what callers pass, also for type checkers.
    @overload
    def function(
        self, body: Callable[Concatenate[Context, P], AsyncIterator[R]], /
    ) -> Function[P, AsyncIterator[R], R]: ...
    @overload
    def function(
        self, body: Callable[Concatenate[Context, P], Coroutine[object, object, R]], /
    ) -> Function[P, Coroutine[object, object, R], R]: ...
    @overload
    def function(
        self, body: Callable[Concatenate[Context, P], Iterator[R]], /
    ) -> Function[P, Iterator[R], R]: ...
    @overload
    def function(self, body: Callable[Concatenate[Context, P], R], /) -> Function[P, R, R]: ...
    @overload
    def function(
        self, body: Callable[P, AsyncIterator[R]], /
    ) -> Function[P, AsyncIterator[R], R]: ...
    @overload
    def function(
        self, body: Callable[P, Coroutine[object, object, R]], /
    ) -> Function[P, Coroutine[object, object, R], R]: ...
    @overload
    def function(self, body: Callable[P, Iterator[R]], /) -> Function[P, Iterator[R], R]: ...
    @overload
    def function(self, body: Callable[P, R], /) -> Function[P, R, R]: ...
    @overload
    def function(self, /, **options: Unpack[OptionWords]) -> Declaration: ...
    def function(self, body: object = None, /, **options: Unpack[OptionWords]) -> object:
        """Make a function one of the app's: `@app.function` or `@app.function(timeout_s=30)`.

        Args:
            body: sync or async, or a generator of either kind; its annotations say how arguments
                and results travel.
            options: see `FunctionOptions`; `name`: instead of the function's own.

        Raises:
            InvalidSettings: an option is not known or out of its range, or the name is taken.
        """
        declaration = Declaration(self, options)
        return declaration if body is None else declaration.declare(body)

    def init(self, hook: Callable[[], R]) -> Callable[[], R]:
        """Run `hook` (sync or async) once before any call: in the template, before workers fork.

        What it leaves in memory every worker has; it must not leave threads, and connections are
        not inherited.
        """
        if inspect.signature(hook).parameters:
            problem = "takes arguments: what runs at the start has none"
            raise InvalidSettings("init", getattr(hook, "__name__", repr(hook)), problem)
        self.inits.append(hook)
        return hook

    def run_here(self) -> None:
        """This process runs its calls: functions that are sent along and refer to an app of this
        name refer to this one."""
        _here[self.name] = self

    def worker_init(self, hook: Callable[[], R]) -> Callable[[], R]:
        """Run `hook` (sync or async) once in each worker, after its fork and before its calls.

        The place for what cannot be shared by a fork: connections, pools, threads, exporters of
        traces. What it raises ends the worker.
        """
        if inspect.signature(hook).parameters:
            problem = "takes arguments: what runs at the start has none"
            raise InvalidSettings("worker_init", getattr(hook, "__name__", repr(hook)), problem)
        self.worker_inits.append(hook)
        return hook

    async def run_worker_inits(self) -> None:
        """Run what each worker runs once."""
        for hook in self.worker_inits:
            outcome = hook()
            if inspect.isawaitable(outcome):
                await outcome

    async def run_inits(self) -> None:
        """Run the hooks, in the order in which they were declared."""
        for hook in self.inits:
            outcome = hook()
            if inspect.isawaitable(outcome):
                await outcome

    @property
    def rows(self) -> FunctionRows:
        """What can be called, as hosts tell one another; looks at every signature."""
        return [function.row for function in self.functions.values()]

    # --- calls from here ---

    def caller(self) -> Caller:
        """What carries calls made here and now.

        Raises:
            NotReady: this is no call, and the app is not connected.
        """
        here = current.get()
        if here is not None and here.place.app == self.name:
            return here  # of another app's call, only this app's own connection helps
        if self.connection is None:
            hint = f"app {self.name!r} is not connected here: `async with app.connect(url)`"
            raise NotReady(f"{hint}, or `async with app.local()` in a test")
        return self.connection

    def knows(self, function: str) -> bool:
        """Whether hosts have the function, as far as is known here."""
        if self.connection is not None:
            return self.connection.knows(function)
        return function in self.functions

    def connect(
        self,
        url: str | None = None,
        *,
        host: str | None = None,
        connect_timeout_s: float = 10.0,
    ) -> AppConnection:
        """Have calls made in this program run by the app's function nodes.

            async with app.connect("bokilog://127.0.0.1:7300") as connection: ...

        Args:
            url: of the log, as in `bokilog.connect`; hosts are found in it. With `host` alone
                there is no log: durable calls are refused, and large values travel in messages.
            host: one host, `bokilog+unix:///PATH` or `bokilog://HOST:PORT`, instead of any.
            connect_timeout_s: how long to try for a first answer.

        Raises, when awaited or entered:
            NodeUnreachable: no host answered within `connect_timeout_s`.
        """
        from bokilog.functions.runtime.outside import AppConnection

        return AppConnection(self, url=url, host=host, connect_timeout_s=connect_timeout_s)

    def local(self, log: ClientLog | None = None) -> LocalApp:
        """Have calls made in this program run in it, for tests: `async with app.local(): ...`.

        Args:
            log: what its calls see; None: one in memory.
        """
        from bokilog.functions.runtime.local import LocalApp

        return LocalApp(self, log=log)

    @overload
    async def submit(
        self,
        body: Callable[Concatenate[Context, P], Coroutine[object, object, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def submit(
        self, body: Callable[P, Coroutine[object, object, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def submit(self, body: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def submit(self, body: object, /, *args: object, **kwargs: object) -> object:
        """Run any function on a function node: a lambda, one of a notebook, one of a library.

        It is sent along by cloudpickle, with the values it refers to.

        Raises:
            InvalidSettings: `body` cannot be called.
        """
        if not callable(body):
            raise InvalidSettings("function", repr(body), "is no function")
        pickled = self.functions[PICKLED]
        remote = cast("Body", pickled.remote)
        return await cast("Awaitable[object]", remote(body, *args, **kwargs))

    def _declare(
        self, body: Callable[P, object], options: FunctionOptions, *, name: str
    ) -> AnyFunction:
        if name in self.functions:
            problem = f"is a function of app {self.name!r} already"
            raise InvalidSettings("function", repr(name), problem)
        function: Function[P, object, object]
        function = Function(self, body, name=name, options=options)
        if options.schedule:
            _check_schedule(function)
        self.functions[name] = cast("AnyFunction", function)
        return self.functions[name]


def _check_schedule(function: Function[P, object, object]) -> None:
    """Found where it is declared: nobody is there when it should have been due."""
    options = function.options
    import_module(_SCHEDULES_HOME).parse(options.schedule, options.time_zone)
    try:
        function.values.encode_arguments((), {})
    except InvalidArguments as error:
        problem = f"calls {function.name} without arguments: {error.argument!r} {error.problem}"
        raise InvalidSettings("schedule", repr(options.schedule), problem) from error


class Declaration:
    """`@app.function(...)` with options, before it meets its function."""

    def __init__(self, app: App, options: OptionWords) -> None:
        self._app = app
        said = dict(options)
        self._name = said.pop("name", None)
        self._options = FunctionOptions.from_plain(said)

    @overload
    def __call__(
        self, body: Callable[Concatenate[Context, P], AsyncIterator[R]], /
    ) -> Function[P, AsyncIterator[R], R]: ...
    @overload
    def __call__(
        self, body: Callable[Concatenate[Context, P], Coroutine[object, object, R]], /
    ) -> Function[P, Coroutine[object, object, R], R]: ...
    @overload
    def __call__(
        self, body: Callable[Concatenate[Context, P], Iterator[R]], /
    ) -> Function[P, Iterator[R], R]: ...
    @overload
    def __call__(self, body: Callable[Concatenate[Context, P], R], /) -> Function[P, R, R]: ...
    @overload
    def __call__(
        self, body: Callable[P, AsyncIterator[R]], /
    ) -> Function[P, AsyncIterator[R], R]: ...
    @overload
    def __call__(
        self, body: Callable[P, Coroutine[object, object, R]], /
    ) -> Function[P, Coroutine[object, object, R], R]: ...
    @overload
    def __call__(self, body: Callable[P, Iterator[R]], /) -> Function[P, Iterator[R], R]: ...
    @overload
    def __call__(self, body: Callable[P, R], /) -> Function[P, R, R]: ...
    def __call__(self, body: object, /) -> object:
        """Declare the function."""
        return self.declare(body)

    def declare(self, body: object) -> AnyFunction:
        """The same, for those who know no types."""
        if not inspect.isfunction(body):
            raise InvalidSettings("function", repr(body), "is no function")
        name = self._name if self._name is not None else body.__name__
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problem = "is no name of a function: letters, digits, dots, dashes, underscores"
            raise InvalidSettings("name", repr(name), problem)
        return self._app._declare(body, self._options, name=name)


_here: dict[str, App] = {}
"""The apps that this process runs calls of, by name."""


def _app_named(name: str) -> App:
    return _here.get(name) or App(name)


async def _run_pickled(body: Body, /, *args: object, **kwargs: object) -> object:
    """Runs what came along: an async function here, another one in a thread."""
    here = current.get()
    positional, named = list(args), dict(kwargs)
    if here is not None:
        home = _app_named(here.place.app)
        name = getattr(body, "__name__", PICKLED)
        options = home.functions[PICKLED].options
        function: AnyFunction = Function(home, body, name=name, options=options)
        function.signature.with_context(here, positional, named)
    if inspect.iscoroutinefunction(body):
        return await cast("Awaitable[object]", body(*positional, **named))
    return await asyncio.to_thread(body, *positional, **named)

"""A function of an app: called here as ever, or run by the app's function nodes.

Decides which ways of calling there are and what each means: `f(...)` is the plain local call;
`remote`, `map`, `stream` and `spawn` go to a host, by what carries calls where they are made. Also
which options a call has, and whether the function is sent along with it.

Invariant: what `with_options` gives is the same function; only its calls differ. Does not know:
what goes along with a call and when one is started again (`outgoing.py`), how the user's code is
looked at (`signature.py`), how calls run, how durable calls are recorded (`durable.py`).
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import Final, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import cloudpickle

from bokilog.call_errors import UnknownFunction
from bokilog.errors import InvalidSettings, NotSupported
from bokilog.functions.runtime import durable
from bokilog.functions.runtime.caller import OpenCall, error_of
from bokilog.functions.runtime.context import Context, LoopBridge, current
from bokilog.functions.runtime.durable import SpawnedCall
from bokilog.functions.runtime.messages import Done, Encoding
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.outgoing import Caller, Outgoing, Packed
from bokilog.functions.runtime.signature import Signature, signature_of
from bokilog.functions.runtime.streaming import MapResults, Stream, Window
from bokilog.functions.runtime.values import Values
from bokilog.record import Buffer

P = ParamSpec("P")
L = TypeVar("L")
"""What a plain local call gives."""
R = TypeVar("R")
"""What it comes to: the result, or what it yields."""

CONCURRENCY_ASYNC: Final = 100
"""Calls at once per worker of an async function that says nothing else."""
PICKLED: Final = "$pickled"
"""The function that every app has: it runs another one, which came along in its arguments."""


class Home(Protocol):
    """What a function needs of its app."""

    @property
    def name(self) -> str:
        """Of the app."""
        ...

    def caller(self) -> Caller:
        """What carries calls made here and now; raises `NotReady` where nothing does."""
        ...

    def knows(self, function: str) -> bool:
        """Whether hosts have a function of that name, as far as is known here."""
        ...


class Body(Protocol):
    """The user's code, where its parameters are a matter of run time."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How calls through one `with_options` differ from the function's own options."""

    key: str | None = None
    timeout_s: float | None = None
    retries: int | None = None


_AS_DECLARED: Final = CallOptions()


class Function(Generic[P, L, R]):
    """A function that was given to `@app.function`.

    Args:
        home: its app.
        body: what the user wrote.
        name: what it is called by.
        options: how it is run.
        call_options: what its calls through this object have instead.
    """

    __name__: str

    def __init__(
        self,
        home: Home,
        body: Callable[P, L],
        *,
        name: str,
        options: FunctionOptions,
        call_options: CallOptions = _AS_DECLARED,
    ) -> None:
        self.home = home
        self.body = body
        self.name = name
        self.options = options
        self.call_options = call_options
        self.yields_async = inspect.isasyncgenfunction(body)
        self.yields = self.yields_async or inspect.isgeneratorfunction(body)
        """It is a stream."""
        self.is_async = inspect.iscoroutinefunction(body)
        self._signature: Signature | None = None
        self._outgoing = Outgoing(
            home.name,
            name,
            timeout_s=call_options.timeout_s or options.timeout_s,
            retries=call_options.retries or 0,  # those of its options are the hosts' business
            retry_delay_s=options.retry_delay_s,
        )
        update_wrapper(self, body)

    def __repr__(self) -> str:
        return f"<function {self.name!r} of app {self.home.name!r}>"

    def __reduce__(self) -> tuple[object, ...]:
        # Functions that are sent along may use this one: it finds its app where it arrives.
        said = (self.home, self.body, self.name, self.options, self.call_options)
        return _function_of, said

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> L:
        """The plain local call: runs the user's code here and now."""
        if self.signature.context_name is not None:
            given = any(isinstance(each, Context) for each in (*args, *kwargs.values()))
            here = current.get()
            if not given and here is not None:
                positional, named = self.signature.with_context(here, list(args), dict(kwargs))
                return cast("L", cast("Body", self.body)(*positional, **named))
        return self.body(*args, **kwargs)

    # --- what hosts and workers need ---

    @property
    def signature(self) -> Signature:
        """As callers see it; found out at first use, when all names are there."""
        found = self._signature
        if found is None:
            found = self._signature = signature_of(self.name, self.body, yields=self.yields)
        return found

    @property
    def values(self) -> Values:
        """How its arguments and result travel."""
        found = self._signature  # every call comes here: no more steps than it takes
        return (found if found is not None else self.signature).values

    @property
    def concurrency(self) -> int:
        """Calls at once per worker."""
        is_async = self.is_async or self.yields_async
        return self.options.max_concurrency or (CONCURRENCY_ASYNC if is_async else 1)

    @property
    def help_line(self) -> str:
        """What the first line of its docstring says."""
        return (inspect.getdoc(self.body) or "").partition("\n")[0]

    @property
    def row(self) -> list[object]:
        """[name, options, signature, help line], as hosts tell one another."""
        plain = self.options.to_plain()
        plain["max_concurrency"] = self.concurrency  # only here it is known what the default is
        return [self.name, plain, self.values.signature, self.help_line]

    # --- calls ---

    async def remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it on a function node and wait for its result.

        Raises:
            InvalidArguments: they do not fit; nothing was sent.
            CallTimeout, CallTooDeep, WorkerLost, Overloaded: it could not be run to its end.
            FunctionFailed: it raised something that cannot be sent; else the exception itself is
                raised, with the remote traceback as a note.

        If cancelled, the call and the calls that it made are cancelled, but may be over already.
        """
        if self.yields:
            raise NotSupported(f"{self.name}.remote", f"it yields: use {self.name}.stream(...)")
        if self.call_options.key is not None:
            return await (await self.spawn(*args, **kwargs)).result()
        caller = self.home.caller()
        done = await self._outgoing.run(caller, self._packed(args, kwargs))
        return await self._result(caller, done)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """`remote` for sync functions: it blocks this thread, never an event loop.

        Raises:
            WrongLoop: this thread runs an event loop: there, `await f.remote(...)`.
        """
        here = current.get()
        if here is None:
            raise NotSupported(f"{self.name}.call", "it is for functions that run in threads")
        return LoopBridge(here.place.loop).call(self.remote(*args, **kwargs))

    async def spawn(self, *args: P.args, **kwargs: P.kwargs) -> SpawnedCall[R]:
        """Have it run even if everything here dies: once this returns, the call is in the log.

        With a key (`with_options(key=...)`) the same call again gives the first one.

        Raises:
            InvalidArguments: they do not fit; nothing was recorded.
            NotSupported: there is no log here.

        If cancelled, the call may have been recorded.
        """
        caller = self.home.caller()
        depth = self._outgoing.depth_within(caller)
        name, encoding, payload = self._packed(args, kwargs)
        log = await caller.connected_log()
        if log is None:
            problem = "durable calls are records, and no log is connected here"
            raise NotSupported(f"{self.name}.spawn", problem)
        if caller.place.before_spawn is not None:
            await caller.place.before_spawn()
        retries = self.call_options.retries
        call = await durable.recorder()(
            log,
            self.home.name,
            name,
            encoding=encoding,
            payload=payload,
            key=self.call_options.key,
            timeout_s=self._outgoing.timeout_s,
            retries=self.options.retries if retries is None else retries,
            retry_delay_s=self.options.retry_delay_s,
            session=caller.session_for(log),
            decode=self.values.decode_result,
            trace=caller.trace,
            stream=self.yields,
            depth=depth,
        )
        return cast("SpawnedCall[R]", call)

    def map(
        self, *iterables: Iterable[object], ordered: bool = True, progress: bool = False
    ) -> MapResults[R]:
        """Call it for each item (of several iterables: for each tuple), as `async for` asks.

        Args:
            iterables: as of the built-in `map`; not read further ahead than calls are under way.
            ordered: results in the order of the items, else as they come.
            progress: show a bar on stderr.

        The first error is raised where its result would stand, and ends the others.
        """
        if not iterables:
            raise InvalidSettings("iterables", "()", "is empty: map needs something to call with")
        caller = self.home.caller()

        def start(slices: Sequence[Sequence[object]]) -> Coroutine[object, None, list[OpenCall]]:
            calls = (self._packed(arguments, {}) for arguments in slices)
            return self._outgoing.start_many(caller, calls)

        def result(done: Done) -> Coroutine[object, None, R]:
            return self._result(caller, done)

        total = min(
            (len(each) for each in iterables if isinstance(each, typing.Sized)), default=None
        )
        return MapResults(
            zip(*iterables, strict=False),
            start=start,
            result=result,
            calls=caller.calls,
            window=self._window(),
            ordered=ordered,
            shown=self.name if progress else None,
            total=total,
        )

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Stream[R]:
        """Run it on a function node and take what it yields: `async for item in f.stream(...)`.

        No more than a window of items is under way, so a slow reader slows the function. Leaving
        the loop early (`aclose`, or `async with`) cancels the call.

        Raises:
            InvalidSettings: it is no generator, so that nothing would ever come.
        """
        if not self.yields:
            problem = "is no generator: `remote` gives what it returns"
            raise InvalidSettings("function", repr(self.name), problem)
        caller = self.home.caller()
        packed = self._packed(args, kwargs)

        def start() -> Coroutine[object, None, OpenCall]:
            return self._outgoing.start_stream(caller, packed)

        async def item(encoding: int, payload: Buffer) -> R:
            return await self._decoded(caller, encoding, payload)

        async def end(done: Done) -> None:
            caller.merge(done.token)
            if done.error:
                raise error_of(done)

        return Stream(start=start, item=item, end=end, calls=caller.calls)

    def with_options(
        self, *, key: str | None = None, timeout_s: float | None = None, retries: int | None = None
    ) -> Function[P, L, R]:
        """The same function, its calls with other options.

        Args:
            key: the same key again gives the result of its first call: it is recorded, as by
                `spawn`.
            timeout_s: instead of the function's own.
            retries: how often a call is started again when its worker or its host is lost.
        """
        said = {"timeout_s": timeout_s, "retries": retries}
        # Checked as the function's own are, and refused by the same words.
        replace(self.options, **{name: each for name, each in said.items() if each is not None})  # type: ignore[arg-type]
        changed = CallOptions(key=key, timeout_s=timeout_s, retries=retries)
        other: Function[P, L, R]
        other = _function_of(self.home, self.body, self.name, self.options, changed)
        other._signature = self.signature
        return other

    # --- what all ways have in common ---

    def _window(self) -> Window:
        at_once = self.concurrency * self.options.max_workers
        room = self.options.queue_limit // 2
        first = max(self.concurrency, min(2 * at_once, room))
        return Window(first, at_once + room, timeout_s=self._outgoing.timeout_s)

    def _packed(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Packed:
        """One call; hosts that do not know the function get it along."""
        encoding, payload = self.values.encode_arguments(args, kwargs)
        if self.home.knows(self.name):
            return self.name, encoding, payload
        if self.body.__module__ in sys.modules and not _is_made_here(self.body):
            hint = f": no host of app {self.home.name!r} has it (an older version of the app?)"
            raise UnknownFunction(self.name, hint)
        pickled: bytes = cloudpickle.dumps(([self.body, *args], dict(kwargs)))
        return PICKLED, Encoding.PICKLE, pickled

    async def _result(self, caller: Caller, done: Done) -> R:
        caller.merge(done.token)
        if done.error:
            raise error_of(done)
        return await self._decoded(caller, done.encoding, done.payload)

    async def _decoded(self, caller: Caller, encoding: int, payload: Buffer) -> R:
        if encoding == Encoding.REFERENCE:
            encoding, payload = await self._outgoing.fetched(caller, payload)
        return cast("R", self.values.decode_result(encoding, payload))


def _function_of(
    home: Home, body: Callable[P, L], name: str, options: FunctionOptions, changed: CallOptions
) -> Function[P, L, R]:
    return Function(home, body, name=name, options=options, call_options=changed)


AnyFunction: TypeAlias = Function[[], object, object]
"""One whose types are a matter of run time."""


def _is_made_here(body: Callable[P, L]) -> bool:
    """Whether it was written into a program or a notebook: no other process can import it."""
    return body.__module__ == "__main__" or "<locals>" in body.__qualname__

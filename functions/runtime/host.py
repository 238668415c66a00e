"""The shell of a host: links, templates, workers' processes, reloads, and calls from this process.

Decides nothing that the scheduler decides (`scheduler.py`). It carries out its effects, tells it
what happens, keeps what calls wrote, and gives the gateway and durable calls, which live in the
same process, a way to run calls (`runner.py`).

Invariants: this process never imports the user's code; whatever was started here is gone after
`aclose`, workers included; all that one batch says to a link leaves in one write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Coroutine
from typing import Final, Protocol, assert_never

from bokilog.client.admin import ClientLog
from bokilog.client.connect import connect
from bokilog.effects import SetTimer
from bokilog.errors import BY_CODE, InvalidSettings
from bokilog.functions.runtime.call_outputs import CallOutputs
from bokilog.functions.runtime.connections import Connections
from bokilog.functions.runtime.effects import (
    Address,
    AppLoaded,
    AppNotLoaded,
    CallBegan,
    CallOver,
    Disconnect,
    Effect,
    EndTemplate,
    Event,
    KillWorker,
    MemoryUsed,
    PeerLeaves,
    Received,
    Reload,
    RetireAll,
    Send,
    SendAway,
    StartTemplate,
    Stopping,
    TemplateEnded,
    WorkerEnded,
    WorkerSilent,
)
from bokilog.functions.runtime.membership import HostRecord, Membership, reachable
from bokilog.functions.runtime.messages import (
    CallMessage,
    Cancel,
    Credit,
    Done,
    FunctionRows,
    Item,
    Output,
    Outputs,
    OutputsRequest,
    Pulse,
    Start,
    WorkerReady,
)
from bokilog.functions.runtime.process_settings import HostSettings
from bokilog.functions.runtime.processes import (
    Templates,
    anonymous_bytes,
    kill,
    template_command,
)
from bokilog.functions.runtime.pulses import ASK_S, Pulses
from bokilog.functions.runtime.scheduler import Scheduler, SchedulerStats
from bokilog.functions.runtime.watch import Stamp, Watch
from bokilog.io.clock import SystemClock
from bokilog.io.driver import Driver

LOCAL: Final[Address] = ("local", 0)
END_WORKERS_S: Final = 2.0
"""Workers that were told to end, and whose links are gone, may take so long."""
LEAVE_S: Final = 2.0
CONNECT_S: Final = 20.0
_POLL_S: Final = 0.01
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


class LocalCall:
    """A call that was started in this process; a `RunningCall`."""

    __slots__ = ("_done", "_number", "_on_item", "_tell")

    def __init__(
        self,
        number: int,
        *,
        tell: Callable[[CallMessage], None],
        on_item: Callable[[Item], None] | None,
    ) -> None:
        self._number = number
        self._tell = tell
        self._on_item = on_item
        self._done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()

    @property
    def done(self) -> asyncio.Future[Done]:
        """What came of it."""
        return self._done

    def credit(self, count: int) -> None:
        """So many more items may come."""
        self._tell(Credit(self._number, count))

    def cancel(self, reason: str) -> None:
        """It is not wanted any more."""
        self._tell(Cancel(self._number, reason))

    def on_message(self, message: Done | Item) -> None:
        """Its answer, or an item of its stream."""
        if isinstance(message, Item):
            if self._on_item is not None:
                self._on_item(message)
        elif not self._done.done():
            self._done.set_result(message)


class Host:
    """One host; a `CallRunner`. Made inside a running loop.

    Args:
        settings: of the process.
        watcher: is shown what happens.
    """

    def __init__(self, settings: HostSettings, *, watcher: Watcher | None = None) -> None:
        self.settings = settings
        self.app = ""
        """Its name, once it is loaded."""
        self.log: ClientLog | None = None
        """The log of its function node, once it is connected."""
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self.outputs = CallOutputs(
            calls_max=settings.outputs_max, bytes_max=settings.output_bytes_max
        )
        self._core = Scheduler(
            settings.node_id,
            settings.app,
            settings=settings.scheduler,
            seed=random.getrandbits(64),
        )
        self._connections = Connections(
            settings.node_id,
            deliver=self._deliver,
            aside=self._on_aside,
            peers_changed=self._peers_changed,
        )
        self._templates = Templates(self._template_command, ended=self._template_ended)
        self._driver: Driver[Event, Effect] = Driver(
            self._core,
            perform=self._perform,
            end_of_batch=self._connections.flush,
            clock=SystemClock(),
            on_bug=self._on_bug,
        )
        self._watch = Watch(_stamp)
        self._pulses = Pulses(settings.worker_silent_s)
        self._local: dict[int, LocalCall] = {}
        self._local_numbers = 0
        self._addresses: list[str] = []
        self._membership: Membership | None = None
        self._present: dict[str, HostRecord] = {}
        """Other hosts, as they say themselves."""
        self._differing: set[tuple[str, ...]] = set()
        """Functions of other versions of the app, or of other apps of its name, that were met."""
        self._first_memory: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._failed = ""
        self._settled: asyncio.Event = asyncio.Event()
        """The first version of the app was loaded, or could not be."""
        self.joined: asyncio.Event = asyncio.Event()
        """The app is loaded, and other hosts are told that this one has it."""
        self.peers_changed: Callable[[], None] = lambda: None
        """Called when another host has begun or ceased to answer."""
        self.functions_changed: Callable[[], None] = lambda: None
        """Called when the app was loaded anew."""
        self.ended: asyncio.Event = asyncio.Event()
        """It cannot go on: `bug` says why."""
        self.bug: BaseException | None = None

    # --- a CallRunner -----------------------------------------------------------------------------

    def start(self, start: Start, *, on_item: Callable[[Item], None] | None = None) -> LocalCall:
        """Run a call here or on another node; `start.call` is not looked at."""
        self._local_numbers += 1
        number = self._local_numbers
        call = self._local[number] = LocalCall(number, tell=self._tell, on_item=on_item)
        self._tell(Start(number, *start[1:]))  # `_replace` takes four times as long
        return call

    def functions(self) -> FunctionRows:
        """What can be called now."""
        return self._core.functions()

    def stats(self) -> SchedulerStats:
        """For metrics and people."""
        return self._core.stats()

    def worker_pids(self) -> list[int]:
        """Of live workers."""
        return self._core.pids()

    def template_pids(self) -> list[int]:
        """Of live templates."""
        return self._templates.pids

    def peers(self) -> dict[str, bool]:
        """Other hosts of the app, and whether they answer."""
        return self._connections.peers

    def _tell(self, message: CallMessage) -> None:
        self._driver.deliver(Received(LOCAL, message))

    # --- its life ---------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Listen, load the app, and join its other hosts.

        Raises:
            InvalidSettings: the app cannot be loaded, and nobody watches for its mending.
        """
        for address in self.settings.addresses:
            self._addresses.append(await self._connections.listen(address))
        for effect in self._core.begin():
            self._perform(effect)
        self._tasks.append(asyncio.create_task(self._watch_memory(), name="memory"))
        self._tasks.append(asyncio.create_task(self._watch_pulses(), name="pulses"))
        if self.settings.watch:
            self._tasks.append(asyncio.create_task(self._watch_files(), name="files"))
        connecting = asyncio.create_task(self._connect())
        try:
            await self._settled.wait()
            if self.bug is not None:
                raise self.bug
            if self._failed and not self.settings.watch:
                # Whoever watches was shown the traceback; else this is where it is said.
                shown = "" if self._watcher is not None else f":\n{self._failed}"
                raise InvalidSettings("app", self.settings.app, f"cannot be loaded{shown}")
            self.log = await connecting
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait([connecting])
        if self.app:
            await self._join()

    async def _connect(self) -> ClientLog:
        return await connect(self.settings.log_url, connect_timeout_s=CONNECT_S)

    async def _join(self) -> None:
        assert self.log is not None
        record = HostRecord(
            self.settings.node_id,
            list(self.settings.advertised or self._addresses),
            self._names(),
            True,
        )
        self._membership = Membership(
            self.log,
            self.app,
            record,
            changed=self._hosts_changed,
            named_alike=self._named_alike,
        )
        await self._membership.join()
        self.joined.set()

    def _names(self) -> list[str]:
        return [str(row[0]) for row in self._core.functions()]

    def refuse_calls(self) -> None:
        """New calls are refused from now on; what runs goes on."""
        self._deliver(Stopping())

    async def drain(self) -> None:
        """New calls go to other hosts; those under way get `drain_calls_s`."""
        self.refuse_calls()
        await self._leave()
        deadline_s = self._loop.time() + self.settings.drain_calls_s
        await self._none_left(lambda: self._core.calls_count, deadline_s)
        self._connections.take_no_callers()
        self._deliver(SendAway())
        await self._none_left(lambda: self._core.callers_count, self._loop.time() + LEAVE_S)
        # Calls that were on their way meanwhile have come, and gone to other hosts.
        await self._none_left(lambda: self._core.calls_count, deadline_s)
        await self._connections.close_callers()

    async def _none_left(self, those: Callable[[], object], deadline_s: float) -> None:
        while those() and self._loop.time() < deadline_s and self.bug is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)  # the core has no event to await

    async def aclose(self) -> None:
        """End everything that was started here."""
        self._deliver(RetireAll())
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._leave()
        await asyncio.sleep(0)
        pids = self._core.pids()
        self._connections.flush()
        await self._end_workers(pids)
        self._driver.stop()
        await self._connections.aclose()
        await self._templates.aclose()
        for call in self._local.values():
            call.done.cancel()
        if self.log is not None:
            await self.log.aclose()

    async def _leave(self) -> None:
        membership, self._membership = self._membership, None
        if membership is not None:
            await membership.leave(timeout_s=LEAVE_S)

    async def _end_workers(self, pids: list[int]) -> None:
        """They leave by themselves; the template, their parent, still lives, so that a number is
        still theirs while it tells of no exit."""
        await self._none_left(self._core.pids, self._loop.time() + END_WORKERS_S)
        left = set(pids if self.bug is not None else self._core.pids())
        for pid in left:
            kill(pid)

    # --- effects ----------------------------------------------------------------------------------

    def _deliver(self, event: Event) -> None:
        self._driver.deliver(event)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(to=to, message=message):
                if to == LOCAL:
                    self._answer_local(message)
                else:
                    self._connections.send(to, message)
            case CallBegan():
                self.outputs.began(effect.call_id, effect.function)
                if self._watcher is not None:
                    self._watcher.began(effect)
            case CallOver():
                self._call_over(effect)
            case StartTemplate(template=number):
                self._templates.start(number)
            case EndTemplate(template=number):
                self._templates.end(number)
            case KillWorker():
                logger.warning("worker %d is ended: %s", effect.worker, effect.reason)
                self._connections.disconnect(("worker", effect.worker))
                kill(effect.pid)
            case Disconnect(peer=peer, reason=reason):
                logger.warning("%s %s is sent away: %s", *peer, reason)
                self._connections.disconnect(peer)
            case AppLoaded():
                self._loaded(effect)
            case AppNotLoaded():
                self._not_loaded(effect)
            case WorkerEnded():
                self._first_memory.pop(effect.worker, None)
                if self._watcher is not None:
                    self._watcher.worker_ended(effect)
                else:
                    logger.warning("worker %d of %s: %s", *effect)
            case SetTimer():
                raise AssertionError("the driver keeps the timers")
            case _:
                assert_never(effect)

    def _answer_local(self, message: CallMessage) -> None:
        assert isinstance(message, (Done, Item))
        done = isinstance(message, Done)
        call = self._local.pop(message.call, None) if done else self._local.get(message.call)
        if call is not None:
            # Slices keep the whole read alive that they came with.
            call.on_message(message._replace(payload=bytes(message.payload)))

    def _call_over(self, over: CallOver) -> None:
        code = over.error[0] if over.error else None
        known = BY_CODE.get(code) if isinstance(code, int) else None
        outcome = "ok" if not over.error else known.__name__ if known is not None else "unknown"
        self.outputs.over(over.call_id, over.function, outcome)
        if self._watcher is not None:
            self._watcher.over(over)

    def _loaded(self, loaded: AppLoaded) -> None:
        self.app = self._connections.app = self._core.app
        names = self._names()
        took_ms = sum(part[1] for part in loaded.parts if isinstance(part[1], int)) // 1_000
        shown = ", ".join(names)
        logger.info("%s version %d after %d ms: %s", self.app, loaded.version, took_ms, shown)
        self._failed = ""
        self._watch.watch(loaded.files)
        self._settled.set()
        self.functions_changed()
        if self._membership is not None:
            self._spawn(self._membership.serve(names), "host-functions")
        elif self.log is not None:
            self._spawn(self._join(), "join")
        if self._watcher is not None:
            self._watcher.loaded(loaded)

    def _not_loaded(self, failed: AppNotLoaded) -> None:
        self._failed = failed.trace
        if failed.files:
            self._watch.watch(failed.files)
        raised = not (self._settled.is_set() or self.settings.watch)  # by `begin`
        self._settled.set()
        if self._watcher is not None:
            self._watcher.not_loaded(failed)
        if self._watcher is not None or raised:
            return  # who is told it need not find it in the log as well
        kept = "the version before goes on" if failed.serving else "there is none to serve"
        logger.error("%s cannot be loaded (%s):\n%s", self.settings.app, kept, failed.trace)

    def _template_command(self, number: int) -> list[str]:
        return template_command(
            app=self.settings.app,
            app_dir=self.settings.app_dir.absolute(),
            connect=self.settings.addresses[0],
            host=self.settings.node_id,
            log_url=self.settings.log_url,
            number=number,
        )

    def _template_ended(self, number: int, why: str) -> None:
        logger.info("template %d: %s", number, why)
        self._deliver(TemplateEnded(number, why))

    def _on_bug(self, error: BaseException) -> None:
        self.bug = error
        self._settled.set()
        self.ended.set()

    # --- what the core need not know --------------------------------------------------------------

    def _on_aside(
        self, source: Address, message: Output | OutputsRequest | Pulse | WorkerReady
    ) -> None:
        if isinstance(message, Pulse):
            self._pulses.answered(message.worker)
            return
        if isinstance(message, WorkerReady):
            had_bytes = anonymous_bytes(message.pid)
            if had_bytes is not None:
                self._first_memory[message.worker] = had_bytes
            return
        if isinstance(message, OutputsRequest):
            asked = message.call_id
            pieces = self.outputs.of(asked) if asked else self.outputs.recent()
            self._connections.send(source, Outputs(asked, pieces))
            return
        call_id = self._core.call_id(message.call) if message.call else ""
        if call_id:
            self.outputs.wrote(call_id, message.stream, message.written)
        else:
            logger.info("%s %s: %s", *source, message.written.rstrip("\n"))
        if self._watcher is not None:
            self._watcher.wrote(call_id, message.stream, message.written)

    def _hosts_changed(self, present: dict[str, HostRecord]) -> None:
        self._present = present
        self._hang_up()
        for name, record in present.items():
            address = reachable(record)
            if address:
                self._connections.dial(name, address)
            self._compare(record)

    def _peers_changed(self) -> None:
        self._hang_up()
        self.peers_changed()

    def _hang_up(self) -> None:
        """Hosts that have ended, or were silent for long, are dialled no more. One that answers may
        still run calls of this one, but gets no new ones: it hangs up itself."""
        for name, answers in self._connections.peers.items():
            if name in self._present:
                continue
            if answers:
                self._deliver(PeerLeaves(name))
                continue
            peer = self._connections.hang_up(name)
            if peer is not None:
                self._spawn(peer.aclose(), "hang-up")

    def _compare(self, record: HostRecord) -> None:
        """Of two apps of one name, each host has its own functions: that is better told."""
        own, theirs = self._names(), record.functions
        if set(own) == set(theirs) or tuple(theirs) in self._differing:
            return
        self._differing.add(tuple(theirs))
        lacks = ", ".join(sorted(set(own) - set(theirs))) or "nothing"
        more = ", ".join(sorted(set(theirs) - set(own))) or "nothing"
        what = f"host {record.name} has another version of {self.app!r}, or another app of its name"
        self._warn(f"{what}: it lacks {lacks}, and has {more} besides")

    def _named_alike(self, record: HostRecord) -> None:
        where = ", ".join(record.addresses)
        self._warn(f"another host at {where} is called {record.name!r} too: give each its own name")

    def _warn(self, problem: str) -> None:
        if self._watcher is not None:
            self._watcher.warned(problem)
        else:
            logger.warning("%s", problem)

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(self.settings.memory_poll_s)
            for number, pid in self._core.watched():
                now_bytes = anonymous_bytes(pid)
                if now_bytes is None:
                    continue
                used_bytes = now_bytes - self._first_memory.setdefault(number, now_bytes)
                if used_bytes > 0:
                    self._deliver(MemoryUsed(number, used_bytes))

    async def _watch_pulses(self) -> None:
        while True:
            await asyncio.sleep(min(ASK_S, self.settings.worker_silent_s))
            ask, silent = self._pulses.look(self._core.shared(), self._loop.time())
            for number in ask:
                self._connections.send(("worker", number), Pulse(number))
            self._connections.flush()
            for number in silent:
                logger.warning("worker %d stands still: new calls go to others", number)
                self._deliver(WorkerSilent(number))

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(self.settings.watch_s)
            changed = self._watch.look()
            if changed:
                logger.info("%s has changed: loading the app again", changed)
                self._deliver(Reload(changed))

    def _spawn(self, work: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.append(task)

        def over(task: asyncio.Task[None]) -> None:
            if task in self._tasks:
                self._tasks.remove(task)
            if not task.cancelled() and task.exception() is not None:
                logger.warning("%s: %s", name, task.exception())

        task.add_done_callback(over)


def _stamp(file: str) -> Stamp:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size

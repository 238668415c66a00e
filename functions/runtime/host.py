"""The shell of a host: links, templates, workers' processes, reloads, and calls from this process.

Decides nothing that the scheduler decides (`scheduler.py`). It carries out its effects and tells it
what happens. The gateway and durable calls, which live in the same process, run calls by
`local_calls.py`; other hosts are met in `neighbours.py`, workers' processes are looked at in
`worker_watch.py`; who sees what a host does is decided in `shown.py`.

Invariants: this process never imports the user's code; whatever was started here is gone after
`aclose`, workers included; all that one batch says to a link leaves in one write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Coroutine
from typing import Final, assert_never

from bokilog.client.admin import ClientLog
from bokilog.client.connect import connect
from bokilog.effects import SetTimer
from bokilog.errors import InvalidSettings
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
    Received,
    Reload,
    RetireAll,
    Send,
    SendAway,
    StartTemplate,
    Stopping,
    TemplateEnded,
    TemplateLost,
    WorkerEnded,
)
from bokilog.functions.runtime.local_calls import LOCAL, LocalCalls
from bokilog.functions.runtime.log_watch import LogWatch
from bokilog.functions.runtime.messages import (
    CallMessage,
    Output,
    Outputs,
    OutputsRequest,
    Pulse,
    WorkerReady,
)
from bokilog.functions.runtime.neighbours import Neighbours
from bokilog.functions.runtime.process_settings import HostSettings
from bokilog.functions.runtime.processes import Templates, kill, template_command
from bokilog.functions.runtime.scheduler import Scheduler, SchedulerStats
from bokilog.functions.runtime.shown import Shown, Watcher
from bokilog.functions.runtime.watch import Stamp, Watch
from bokilog.functions.runtime.worker_watch import WorkerWatch
from bokilog.io.clock import SystemClock
from bokilog.io.driver import Driver

END_WORKERS_S: Final = 2.0
"""Workers that were told to end, and whose links are gone, may take so long."""
LEAVE_S: Final = 2.0
CONNECT_S: Final = 20.0
_POLL_S: Final = 0.01
logger = logging.getLogger(__name__)


class Host:
    """One host. Made inside a running loop.

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
        self._loop = asyncio.get_running_loop()
        self.outputs = CallOutputs(
            calls_max=settings.outputs_max, bytes_max=settings.output_bytes_max
        )
        self._shown = Shown(settings.app, outputs=self.outputs, watcher=watcher)
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
        self._log_watch = LogWatch(
            later=self._loop.call_later,
            now_s=self._loop.time,
            warn=self._shown.warned,
            back=self._shown.said,
        )
        self._neighbours = Neighbours(
            settings.node_id,
            links=self._connections,
            functions=self._names,
            leaves=self._deliver,
            warn=self._shown.warned,
            spawn=self._spawn,
        )
        self._worker_watch = WorkerWatch(
            settings,
            workers=self._core,
            connections=self._connections,
            deliver=self._deliver,
        )
        self.calls = LocalCalls(tell=self._tell, functions=self._core.functions)
        """Runs calls of this process."""
        self._addresses: list[str] = []
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

    # --- how it stands ----------------------------------------------------------------------------

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
        self._tasks.append(asyncio.create_task(self._worker_watch.memory(), name="memory"))
        self._tasks.append(asyncio.create_task(self._worker_watch.pulses(), name="pulses"))
        if self.settings.watch:
            self._tasks.append(asyncio.create_task(self._watch_files(), name="files"))
        connecting = asyncio.create_task(self._connect())
        try:
            await self._settled.wait()
            if self.bug is not None:
                raise self.bug
            if self._failed and not self.settings.watch:
                # Whoever watches was shown the traceback; else this is where it is said.
                shown = "" if self._shown.is_watched else f":\n{self._failed}"
                raise InvalidSettings("app", self.settings.app, f"cannot be loaded{shown}")
            self.log = await connecting
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait([connecting])
            if self.log is None:
                self._log_watch.close()
        if self.app:
            await self._join()

    async def _connect(self) -> ClientLog:
        self._log_watch.waits(self.settings.log_url, CONNECT_S)
        log = await connect(self.settings.log_url, connect_timeout_s=CONNECT_S)
        log.client.link_changed = self._log_watch.changed
        self._log_watch.changed("")
        return log

    async def _join(self) -> None:
        assert self.log is not None
        addresses = list(self.settings.advertised or self._addresses)
        await self._neighbours.join(self.log, self.app, addresses)
        self.joined.set()

    def _names(self) -> list[str]:
        return [str(row[0]) for row in self._core.functions()]

    def say_that_it_stops(self) -> None:
        """Whoever watches sees what is waited for."""
        self._shown.stopping(self._core.calls_count)

    def refuse_calls(self) -> None:
        """New calls are refused from now on; what runs goes on."""
        self._deliver(Stopping())

    async def drain(self) -> None:
        """New calls go to other hosts; those under way get `drain_calls_s`."""
        self.refuse_calls()
        await self._neighbours.leave(timeout_s=LEAVE_S)
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

    async def aclose(self, *, at_once: bool = False) -> None:
        """End everything that was started here.

        Args:
            at_once: workers get no time to end by themselves, other hosts find out when they dial.
        """
        self._deliver(RetireAll())
        self._log_watch.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._neighbours.leave(timeout_s=0.0 if at_once else LEAVE_S)
        await asyncio.sleep(0)
        pids = self._core.pids()
        self._connections.flush()
        await self._end_workers(pids, within_s=0.0 if at_once else END_WORKERS_S)
        self._driver.stop()
        await self._connections.aclose()
        await self._templates.aclose()
        self.calls.cancel_all()
        if self.log is not None:
            await self.log.aclose()

    async def _end_workers(self, pids: list[int], *, within_s: float) -> None:
        """They leave by themselves; the template, their parent, still lives, so that a number is
        still theirs while it tells of no exit."""
        await self._none_left(self._core.pids, self._loop.time() + within_s)
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
                    self.calls.answer(message)
                else:
                    self._connections.send(to, message)
            case CallBegan():
                self._shown.began(effect)
            case CallOver():
                self._shown.over(effect)
            case StartTemplate(template=number):
                self._templates.start(number)
            case EndTemplate(template=number):
                self._templates.end(number)
            case KillWorker():
                if effect.was_told:
                    self._shown.warned(f"worker {effect.worker} is ended: {effect.reason}")
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
                self._worker_watch.ended(effect.worker)
                self._shown.worker_ended(effect)
            case TemplateLost(reason=why):
                self._shown.warned(
                    f"the template of the app is gone: {why}; the app is loaded again"
                )
            case SetTimer():
                raise AssertionError("the driver keeps the timers")
            case _:
                assert_never(effect)

    def _loaded(self, loaded: AppLoaded) -> None:
        self.app = self._connections.app = self._core.app
        self._failed = ""
        self._watch.watch(loaded.files)
        self._settled.set()
        self.functions_changed()
        if self._neighbours.joined:
            self._neighbours.serve(self._names())
        elif self.log is not None:
            self._spawn(self._join(), "join")
        self._shown.loaded(self.app, loaded)

    def _not_loaded(self, failed: AppNotLoaded) -> None:
        self._failed = failed.trace
        if failed.files:
            self._watch.watch(failed.files)
        is_raised = not (self._settled.is_set() or self.settings.watch)  # by `begin`
        self._settled.set()
        self._shown.not_loaded(failed, is_raised=is_raised)

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
            self._worker_watch.answered(message.worker)
            return
        if isinstance(message, WorkerReady):
            self._worker_watch.ready(message)
            return
        if isinstance(message, OutputsRequest):
            asked = message.call_id
            pieces = self.outputs.of(asked) if asked else self.outputs.recent()
            self._connections.send(source, Outputs(asked, pieces))
            return
        call_id = self._core.call_id(message.call) if message.call else ""
        self._shown.wrote(source, call_id, message)

    def _peers_changed(self) -> None:
        self._neighbours.hang_up()
        self.peers_changed()

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

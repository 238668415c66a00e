"""The versions of a host's app, and the template of each: which is being loaded, which serves.

Decides when a template is started, when another one takes its place, and when it is ended; what a
template's end or failure means for the next start (back-off), and what people are told of it.

Invariants: one version serves at most, and one is being loaded; the one before serves until that
is ready, and if it never is. A template is ended once it serves no more and its workers are gone.
Once the host stops there are no more.

Does not know workers but by how many a template has, pools, calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bokilog.functions.runtime.agenda import Agenda, Key
from bokilog.functions.runtime.effects import (
    AppLoaded,
    AppNotLoaded,
    Effect,
    EndTemplate,
    StartTemplate,
    TemplateLost,
)
from bokilog.functions.runtime.messages import FunctionRows, TemplateFailed, TemplateReady
from bokilog.functions.runtime.settings import SchedulerSettings

LOADS_MAX: Final = 3
"""Templates in a row that end without a word before that counts as a failure to load the app."""


class _Template:
    __slots__ = ("number", "ready", "workers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready = False
        self.workers = 0
        """That were asked of it and are not known to be gone."""


class Versions:
    """All templates of one host.

    Args:
        app: what templates import, as `module:app`.
        agenda: shared with whoever decides about calls and workers; the key "template" is this
            class's.
        out: takes the effects.
        numbers: of templates and workers.
    """

    __slots__ = (
        "_agenda",
        "_current",
        "_failures",
        "_loading",
        "_numbers",
        "_older",
        "_out",
        "_settings",
        "_templates",
        "app",
        "failed",
        "functions",
        "stopping",
        "version",
    )

    def __init__(
        self,
        app: str,
        *,
        settings: SchedulerSettings,
        agenda: Agenda[Key],
        out: list[Effect],
        numbers: Iterator[int],
    ) -> None:
        self.app = app
        """Its name, once it is loaded; before, where it is imported from."""
        self.version = 0
        self.functions: FunctionRows = []
        self.failed = ""
        """Why there is no app, if its last version could not be loaded."""
        self.stopping = False
        """No more templates; workers are forked as long as calls are left that need them."""
        self._settings = settings
        self._agenda = agenda
        self._out = out
        self._numbers = numbers
        self._templates: dict[int, _Template] = {}
        self._current: _Template | None = None
        """Whose app serves."""
        self._older: _Template | None = None
        """Whose app served before it."""
        self._loading: _Template | None = None
        self._failures = 0

    @property
    def loaded(self) -> bool:
        """Some version of the app serves."""
        return self._current is not None

    # --- loading ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the app."""
        self._loading = template = _Template(next(self._numbers))
        self._templates[template.number] = template
        self._out.append(StartTemplate(template.number))

    def due(self) -> None:
        """The time to try again has come."""
        if self._loading is None:
            self.start()

    def reload(self) -> None:
        """The version that is being loaded, if any, is old before it serves."""
        if self.stopping:
            return
        if self._loading is not None:
            self._out.append(EndTemplate(self._loading.number))
            del self._templates[self._loading.number]
        self._failures = 0
        self._agenda.drop(("template", 0))
        self.start()

    def doubt(self, number: int) -> None:
        """A template that has not said that it forks stands still: another one takes its place, as
        at a reload, since workers that it has may be well."""
        current = self._current
        if current is not None and self._loading is None and number == current.number:
            self.reload()

    def serve(self, ready: TemplateReady) -> bool:
        """A version of the app can be forked; whether it is the one that serves now."""
        template = self._templates.get(ready.template)
        if template is None or template is not self._loading:
            return False
        template.ready = True
        self._loading, self._older, self._current = None, self._current, template
        self.failed, self._failures = "", 0
        self.app = ready.app
        self.version += 1
        self.functions = ready.functions
        return True

    def tell_loaded(self, ready: TemplateReady) -> None:
        """It has the calls now: the version before ends with its workers, and people are told."""
        older = self._older
        if older is not None and older.number in self._templates and not older.workers:
            self._end(older)
        files = tuple(str(each) for each in ready.files)
        self._out.append(AppLoaded(self.version, self.functions, ready.parts, files))

    def load_failed(self, failed: TemplateFailed, now_s: float) -> None:
        """The app cannot be loaded; the version before goes on."""
        template = self._templates.get(failed.template)
        if template is None or template is not self._loading:
            return
        self._loading = None
        del self._templates[template.number]
        serving = self._current is not None
        if not serving:
            self.failed = failed.trace
        if self._current is not None and not self._current.ready:
            # The one that serves has no template any more either, so nobody can fork.
            self._try_again(now_s)
        files = tuple(str(each) for each in failed.files)
        self._out.append(EndTemplate(template.number))
        self._out.append(AppNotLoaded(failed.trace, files, serving))

    def ended(self, number: int, why: str, now_s: float) -> bool:
        """A template ended of itself: its workers go on, but nobody is there to fork more. Whether
        it was one of those that live."""
        template = self._templates.pop(number, None)
        if template is None or self.stopping:
            return False
        template.ready = False
        if template is self._loading:
            self._loading = None
            if self._current is None:
                self.failed = f"its template ended: {why}"
        elif template is not self._current:
            return True
        else:
            self._out.append(TemplateLost(why))
        self._try_again(now_s)
        if self._failures == LOADS_MAX and (self._current is None or not self._current.ready):
            trace = f"its template ended {LOADS_MAX} times before the app was loaded: {why}\n"
            self._out.append(AppNotLoaded(trace, (), self._current is not None))
        return True

    def _try_again(self, now_s: float) -> None:
        self._failures += 1
        self._agenda.set(("template", 0), now_s + self._settings.back_off_s(self._failures))

    # --- workers ----------------------------------------------------------------------------------

    @property
    def forking(self) -> int | None:
        """The template that forks workers; None: there is none that can."""
        template = self._current
        return template.number if template is not None and template.ready else None

    def forks(self, count: int) -> None:
        """So many workers are asked of it."""
        assert self._current is not None
        self._current.workers += count

    def lives(self, number: int) -> bool:
        """Whether a template is there to tell of its workers' ends."""
        return number in self._templates

    def lost_worker(self, number: int) -> None:
        """One of a template's workers is gone."""
        template = self._templates.get(number)
        if template is None:
            return
        template.workers -= 1
        if template is not self._current and template.ready and not template.workers:
            self._end(template)

    def _end(self, template: _Template) -> None:
        del self._templates[template.number]
        self._out.append(EndTemplate(template.number))

    def check(self) -> None:
        """Asserts the invariants; while the host stops, what ends is not looked at any more."""
        assert all(template.workers >= 0 for template in self._templates.values())
        assert self._loading is None or self._loading is not self._current
        if self._loading is not None and not self.stopping:
            assert self.lives(self._loading.number)
            assert not self._loading.ready
        if self._current is not None and self._current.ready and not self.stopping:
            assert self.lives(self._current.number)

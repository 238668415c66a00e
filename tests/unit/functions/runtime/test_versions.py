"""Versions of the app and their templates: which is loaded, which serves, when they end."""

from __future__ import annotations

from itertools import count

from bokilog.functions.runtime.agenda import Agenda, Key
from bokilog.functions.runtime.effects import (
    AppLoaded,
    AppNotLoaded,
    Effect,
    EndTemplate,
    StartTemplate,
    TemplateLost,
)
from bokilog.functions.runtime.messages import TemplateFailed, TemplateReady
from bokilog.functions.runtime.settings import SchedulerSettings
from bokilog.functions.runtime.versions import LOADS_MAX, Versions

AGAIN: Key = ("template", 0)
ROWS: list[list[object]] = [["f", {}, "(x)", ""]]


class Rig:
    """A host that begins: template 1 is being loaded."""

    def __init__(self) -> None:
        self.out: list[Effect] = []
        self.agenda: Agenda[Key] = Agenda()
        self.versions = Versions(
            "m:app",
            settings=SchedulerSettings(back_off_s_min=1.0, back_off_s_max=4.0),
            agenda=self.agenda,
            out=self.out,
            numbers=count(1),
        )
        self.versions.start()
        assert self.said() == [StartTemplate(1)]

    def said(self) -> list[Effect]:
        self.versions.check()
        said = list(self.out)
        self.out.clear()
        return said

    def ready(self, template: int) -> list[Effect]:
        ready = TemplateReady(template, 1, "app", ROWS, [], ["m.py"])
        if self.versions.serve(ready):
            self.versions.tell_loaded(ready)
        return self.said()

    def fails(self, template: int) -> list[Effect]:
        self.versions.load_failed(TemplateFailed(template, "trace", ["m.py"]), 10.0)
        return self.said()

    def ends(self, template: int) -> list[Effect]:
        self.versions.ended(template, "killed", 10.0)
        return self.said()

    def forks(self, count: int) -> None:
        self.versions.forks(count)
        self.versions.check()


def loaded(version: int) -> AppLoaded:
    return AppLoaded(version, ROWS, [], ("m.py",))


def test_a_version_that_is_ready_serves_and_can_be_forked() -> None:
    rig = Rig()
    assert (rig.versions.loaded, rig.versions.forking) == (False, None)
    assert rig.ready(1) == [loaded(1)]
    assert (rig.versions.loaded, rig.versions.forking) == (True, 1)
    assert (rig.versions.app, rig.versions.functions) == ("app", ROWS)
    assert rig.ready(1) == []  # only what is being loaded can become ready


def test_the_version_before_ends_once_its_workers_are_gone() -> None:
    rig = Rig()
    rig.ready(1)
    rig.forks(2)
    rig.versions.reload()
    assert rig.said() == [StartTemplate(2)]
    assert rig.ready(2) == [loaded(2)]
    rig.versions.lost_worker(1)
    assert rig.said() == []
    rig.versions.lost_worker(1)
    assert rig.said() == [EndTemplate(1)]
    assert not rig.versions.lives(1)


def test_a_version_before_without_workers_ends_at_once() -> None:
    rig = Rig()
    rig.ready(1)
    rig.versions.reload()
    rig.said()
    assert rig.ready(2) == [EndTemplate(1), loaded(2)]
    assert not rig.versions.lives(1)


def test_a_reload_takes_the_place_of_one_that_is_under_way() -> None:
    rig = Rig()
    rig.versions.reload()
    assert rig.said() == [EndTemplate(1), StartTemplate(2)]
    assert rig.ready(1) == []


def test_a_version_that_cannot_be_loaded_leaves_the_one_before_serving() -> None:
    rig = Rig()
    rig.ready(1)
    rig.versions.reload()
    rig.said()
    assert rig.fails(2) == [EndTemplate(2), AppNotLoaded("trace", ("m.py",), True)]
    assert (rig.versions.failed, rig.versions.forking) == ("", 1)
    assert AGAIN not in rig.agenda


def test_an_app_that_was_never_loaded_says_why() -> None:
    rig = Rig()
    assert rig.fails(1) == [EndTemplate(1), AppNotLoaded("trace", ("m.py",), False)]
    assert rig.versions.failed == "trace"


def test_a_template_that_ends_of_itself_is_started_again_after_a_while() -> None:
    rig = Rig()
    rig.ready(1)
    assert rig.ends(1) == [TemplateLost("killed")]
    assert rig.versions.forking is None
    assert rig.agenda.take(11.0) == [AGAIN]
    rig.versions.due()
    assert rig.said() == [StartTemplate(2)]
    rig.versions.due()
    assert rig.said() == []  # one is under way


def test_templates_that_end_again_and_again_count_as_a_failure_to_load() -> None:
    rig = Rig()
    for number in range(1, LOADS_MAX):
        assert rig.ends(number) == []
        rig.versions.due()
        rig.said()
    (told,) = rig.ends(LOADS_MAX)
    assert isinstance(told, AppNotLoaded)
    assert "ended 3 times" in told.trace
    assert rig.agenda.take(13.9) == []
    assert rig.agenda.take(14.0) == [AGAIN]


def test_the_end_of_a_template_that_serves_no_more_means_nothing() -> None:
    rig = Rig()
    rig.ready(1)
    rig.forks(1)
    rig.versions.reload()
    rig.ready(2)
    assert rig.versions.ended(1, "killed", 10.0)
    assert rig.said() == []
    assert AGAIN not in rig.agenda
    assert not rig.versions.ended(1, "killed", 10.0)


def test_a_template_that_stands_still_is_replaced_once() -> None:
    rig = Rig()
    rig.ready(1)
    rig.versions.doubt(1)
    assert rig.said() == [StartTemplate(2)]
    rig.versions.doubt(1)  # the next one is under way
    assert rig.said() == []
    rig.ready(2)
    rig.versions.doubt(1)  # it serves no more
    assert rig.said() == []


def test_a_host_that_stops_starts_no_more_templates() -> None:
    rig = Rig()
    rig.ready(1)
    rig.versions.stopping = True
    rig.versions.reload()
    assert not rig.versions.ended(1, "killed", 10.0)
    assert rig.said() == []
    assert AGAIN not in rig.agenda

"""What `bokilog bench functions` measures: starts of workers, calls, HTTP, fan-out, durable calls.

Decides what is held against what, in one run, turn by turn: a forked worker against a fresh
interpreter, a call against round trips of a socket, HTTP against a bare server, `map` against a
pool of processes. The app is `sample_app.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bokilog.bench import machine
from bokilog.bench.figures import Result, compare, figure
from bokilog.bench.orders import Order, Outcome
from bokilog.bench.rounds import QUICK, Plan
from bokilog.bench.suites import Setting, limit
from bokilog.bench.workers import Worker
from bokilog.io.free_ports import free_ports
from bokilog.limits import MIB
from bokilog.shapes.local_cluster import LocalCluster

NEW_MS_MAX: Final = 5.0
FORK_BAR: Final = 25.0
FORK_MANY: Final = 100
FORK_SOME: Final = 10
FORK_MANY_BAR: Final = 10.0
CALL_BAR: Final = 4.0
HTTP_RATE_BAR: Final = 0.2
HTTP_OUTSTANDING: Final = 64
HTTP_P50_BAR: Final = 5.0
MAP_COUNT: Final = 100
MAP_BAR: Final = 1.5
SPAWN_OUTSTANDING: Final = 64
SPAWN_RATE_MIN: Final = 5_000.0
READ_COUNT: Final = 500
READ_US_MAX: Final = 5.0
MEMORY_MIB_MAX: Final = 6.0
MEMORY_WORKERS: Final = 8

ANSWER_TIMEOUT_S: Final = 300.0
"""A hundred interpreters at once take their time."""

TURNS_COUNT: Final = 4
"""Those that are compared take so many short turns in a round, one after the other: the speed of a
shared machine changes within a second, and should change for all of them."""

Measure = Callable[[], Outcome]


def functions(setting: Setting) -> list[Result]:
    """All of it."""
    many = FORK_MANY if setting.plan is not QUICK else FORK_SOME
    with (
        LocalCluster(
            setting.directory / "cluster",
            function_nodes=1,
            port=free_ports(2),
            app="bokilog.bench.sample_app:app",
            app_dir=setting.directory,
            http_port=free_ports(),
        ) as running,
        Worker("bokilog.bench.function_worker", name="caller") as caller,
        Worker("bokilog.bench.bare_http", name="aiohttp") as bare,
        machine.references(setting.directory) as known,
    ):
        url = running.url
        caller.ask(Order(do="connect", place=url))
        bare_port = bare.ask(Order(do="start")).place
        http_port = str(running.layout.settings.http_port)
        setting.tell("the template of the forks starts")
        template = caller.ask(Order(do="template"))
        turn_s = setting.plan.seconds / TURNS_COUNT

        def ask(
            do: str,
            *,
            place: str = "",
            outstanding: int = 1,
            count: int = 0,
            seconds: float = turn_s,
            book: str = "bench",
        ) -> Measure:
            order = Order(
                do=do,
                place=place,
                outstanding=outstanding,
                count=count,
                seconds=seconds,
                book=book,
            )
            return lambda: caller.ask(order, timeout_s=ANSWER_TIMEOUT_S)

        books = (f"bench-{number}" for number in range(1 << 20))
        groups: list[dict[str, Measure]] = [
            {"begin": ask("begin", seconds=setting.plan.seconds)},
            {"fork": ask("fork", count=1), "fresh": ask("fresh", count=1)},
            {"fork-many": ask("fork", count=many)},
            {"fresh-many": ask("fresh", count=many)},
            {
                "relay": ask("relay"),
                "unix": lambda: known[machine.UNIX].run(turn_s),
                "read": lambda: ask("read", count=READ_COUNT, book=next(books))(),
            },
            {"http-1": ask("http", place=http_port), "bare-1": ask("http", place=bare_port)},
            {
                "http": ask("http", place=http_port, outstanding=HTTP_OUTSTANDING),
                "bare": ask("http", place=bare_port, outstanding=HTTP_OUTSTANDING),
            },
            {"map": ask("map", count=MAP_COUNT), "pool": ask("pool", count=MAP_COUNT)},
            {"memory": ask("memory", count=MEMORY_WORKERS)},
            {"spawn": ask("spawn", outstanding=SPAWN_OUTSTANDING, seconds=setting.plan.seconds)},
        ]
        found = _in_turns(groups, setting.plan, setting.tell)
    return _results(found, template, many=many)


def _in_turns(
    groups: list[dict[str, Measure]], plan: Plan, tell: Callable[[str], None]
) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {name: [] for group in groups for name in group}
    for number in range(plan.rounds_count):
        for group in groups:
            tell(f"round {number + 1} of {plan.rounds_count}: {', '.join(group)}")
            for _ in range(TURNS_COUNT if len(group) > 1 else 1):
                for name, measure in group.items():
                    found[name].append(measure())
    return found


def _results(found: dict[str, list[Outcome]], template: Outcome, *, many: int) -> list[Result]:
    def ms(name: str) -> list[float]:
        return [each.p50_us / 1e3 for each in found[name]]

    def us(name: str) -> list[float]:
        return [each.p50_us for each in found[name]]

    def rate(name: str) -> list[float]:
        return [each.rate for each in found[name]]

    reads = found["read"]
    own_mib = [each.values["private_bytes"] / MIB for each in found["memory"]]
    two_hops_us = [2 * each for each in us("unix")]
    return [
        # Asked for now and then; right after one another they are forks.
        limit("worker.new", ms("begin"), "ms", NEW_MS_MAX),
        figure("worker.fork", ms("fork"), "ms"),
        compare(
            "worker.fresh",
            ms("fresh"),
            "ms",
            against="worker.fork",
            others=ms("fork"),
            bar=FORK_BAR,
        ),
        compare(
            f"worker.fresh.{many}x",
            ms("fresh-many"),
            "ms",
            against=f"worker.fork.{many}x",
            others=ms("fork-many"),
            bar=FORK_MANY_BAR,
        ),
        figure(f"worker.fork.{many}x", ms("fork-many"), "ms"),
        *_parts("template", [template]),
        *_parts("worker.new", found["begin"]),
        *_parts("worker.fork", found["fork"]),
        compare(
            "call.function-to-function.p50",
            us("relay"),
            "us",
            against="machine.unix-round-trip of two hops",
            others=two_hops_us,
            bar=CALL_BAR,
            relation="at most",
        ),
        compare(
            f"call.http.{HTTP_OUTSTANDING}x",
            rate("http"),
            "calls/s",
            against=f"aiohttp.{HTTP_OUTSTANDING}x",
            others=rate("bare"),
            bar=HTTP_RATE_BAR,
        ),
        compare(
            "call.http.1x.p50",
            us("http-1"),
            "us",
            against="aiohttp.1x.p50",
            others=us("bare-1"),
            bar=HTTP_P50_BAR,
            relation="at most",
        ),
        compare(
            f"map.{MAP_COUNT}x1ms",
            ms("map"),
            "ms",
            against="ProcessPoolExecutor.map",
            others=ms("pool"),
            bar=MAP_BAR,
            relation="at most",
        ),
        compare(
            f"spawn.{SPAWN_OUTSTANDING}x",
            rate("spawn"),
            "calls/s",
            against=f"{SPAWN_RATE_MIN:,.0f}/s",
            others=[SPAWN_RATE_MIN],
            bar=1.0,
        ),
        limit("read.shared.1024B.p50", [each.p50_us for each in reads], "us", READ_US_MAX),
        figure(
            f"read.shared.1024B.messages-of-{READ_COUNT}-reads",
            [each.values["messages_count"] for each in reads],
            "messages",
        ),
        limit("worker.idle.private", own_mib, "MiB", MEMORY_MIB_MAX),
    ]


def _parts(name: str, outcomes: Sequence[Outcome]) -> list[Result]:
    """The parts of a cold start, so that everybody sees where the time goes."""
    parts = dict.fromkeys(part for each in outcomes for part in each.values)
    return [
        figure(
            f"{name}.{part.removesuffix('_ms').replace(' ', '-')}",
            [each.values.get(part, float("nan")) for each in outcomes],
            "ms",
        )
        for part in parts
    ]

"""The fixture `bokilog_log`, in small projects of their own: whatever runs their coroutines."""

from __future__ import annotations

import subprocess
import sys

import pytest

# By its module, whether or not this environment has the entry point; nothing else is loaded but
# what a test asks for.
PLUGIN = ("-p", "no:bokilog", "-p", "bokilog.pytest_plugin", "-p", "no:hypothesispytest")
LOOPS = ("-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function")
QUIET = ("-W", "error", "-W", "ignore:Module already imported so cannot be rewritten")
STRICT = (*PLUGIN, *QUIET, *LOOPS)
WITHOUT_ASYNCIO = (*PLUGIN, *QUIET, "-p", "no:asyncio")


def passes(pytester: pytest.Pytester, source: str, *arguments: str, count: int = 1) -> None:
    pytester.makepyfile(source)
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=count)


def test_a_coroutine_uses_the_log_as_it_is(pytester: pytest.Pytester) -> None:
    source = """
        import pytest

        @pytest.mark.asyncio
        async def test_appends(bokilog_log):
            seqnum = await bokilog_log.book("a").append(b"x", tags="t")
            assert (await bokilog_log.book("a").read_next(tag="t")).seqnum == seqnum
    """
    passes(pytester, source, *STRICT)


def test_every_test_has_a_log_of_its_own(pytester: pytest.Pytester) -> None:
    source = """
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.parametrize("turn", [1, 2])
        async def test_appends(bokilog_log, turn):
            assert await bokilog_log.books() == []
            await bokilog_log.book("a").append(b"x")
    """
    passes(pytester, source, *STRICT, count=2)


def test_fixtures_name_logbooks_and_sessions_before_there_is_a_loop(
    pytester: pytest.Pytester,
) -> None:
    source = """
        import pytest, pytest_asyncio

        @pytest.fixture
        def session(bokilog_log):
            return bokilog_log.session()

        @pytest.fixture
        def orders(bokilog_log, session):
            return bokilog_log.book("orders", type=str, session=session)

        @pytest_asyncio.fixture
        async def first(orders):
            return await orders.append("coat")

        @pytest.mark.asyncio
        async def test_reads(orders, first, session):
            assert (await orders.read(first)).value == "coat"
            assert session.token != ""
    """
    passes(pytester, source, *STRICT)


def test_it_closes_inside_its_loop_whichever_ends_first(pytester: pytest.Pytester) -> None:
    source = """
        import asyncio, pytest, bokilog
        kept = []

        @pytest.mark.asyncio
        async def test_of_a_loop_that_ends_with_the_test(bokilog_log):
            kept.append(bokilog_log.book("a"))

        @pytest.mark.asyncio(loop_scope="module")
        async def test_of_a_loop_that_goes_on(bokilog_log):
            kept.append(bokilog_log.book("a"))

        @pytest.mark.asyncio(loop_scope="module")
        async def test_both_are_closed():
            for book in kept:
                with pytest.raises(bokilog.Closed):
                    await book.append(b"x")
            assert len(kept) == 2
    """
    passes(pytester, source, *STRICT, count=3)


def test_it_needs_no_plugin_but_itself(pytester: pytest.Pytester) -> None:
    source = """
        import asyncio

        async def work(log):
            book = log.book("a")
            left = asyncio.ensure_future(book.append(b"x"))  # which the loop's end cancels
            return await book.append(b"y"), left

        def test_runs(bokilog_log):
            seqnum, left = asyncio.run(work(bokilog_log))
            assert seqnum > 0 and left.done()

        def test_is_a_context_manager_like_any_log(bokilog_log):
            async def work():
                async with bokilog_log as log:
                    return await log.books()

            assert asyncio.run(work()) == []

        def test_a_loop_that_is_only_closed(bokilog_log):
            loop = asyncio.new_event_loop()

            async def work():
                return await bokilog_log.book("a").append(b"y")

            assert loop.run_until_complete(work())
            loop.close()

        def test_uses_none(bokilog_log):
            pass
    """
    passes(pytester, source, *WITHOUT_ASYNCIO, count=4)


def test_without_a_loop_the_error_says_what_to_do(pytester: pytest.Pytester) -> None:
    source = """
        import pytest

        def test_has_no_loop(bokilog_log):
            with pytest.raises(RuntimeError, match="use it in a coroutine"):
                bokilog_log.books()
            with pytest.raises(RuntimeError, match="use it in a coroutine"):
                bokilog_log.book("a").append(b"x")
    """
    passes(pytester, source, *WITHOUT_ASYNCIO)


def test_it_is_listed_with_its_help(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--fixtures", *WITHOUT_ASYNCIO)
    result.stdout.fnmatch_lines(["bokilog_log*", "*A log in memory for this test alone*"])


def test_importing_the_plugin_imports_nothing_else() -> None:
    code = (
        "import sys, pytest; old = set(sys.modules); import bokilog.pytest_plugin; "
        "print(*sorted(set(sys.modules) - old))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=15, check=True
    )
    assert done.stdout.split() == ["bokilog", "bokilog.pytest_plugin"]

"""Runs: how they open, nest, end, and what is left behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from pathlib import Path

import httpx2
import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.conftest import ask
from tests.program import run_program
from tests.provider import Provider


def statuses(store: Path) -> list[tuple[str, str, str | None]]:
    return [(row.name, row.status, row.error) for row in SpanStore(store).traces()]


def test_a_trace_says_what_it_is(client: openai.OpenAI, store: Path) -> None:
    trace = escapement.init("agent", tags=["production"], metadata={"user": 7})
    assert (trace.mode, trace.status, trace.steps) == ("record", "running", 0)
    assert escapement.current() is trace
    ask(client)
    with pytest.raises(openai.BadRequestError):
        ask(client, model="error-400")
    assert escapement.stop() is trace
    assert escapement.current() is None
    assert (trace.name, trace.tags, trace.metadata) == ("agent", ("production",), {"user": 7})
    assert (trace.status, trace.steps, trace.calls, trace.hits, trace.misses) == ("completed", 2, 2, 0, 0)
    row = SpanStore(store).load(trace.trace_id)
    assert (row.name, row.tags, row.metadata, row.mode, row.parent) == (
        "agent",
        ("production",),
        {"user": 7},
        "record",
        None,
    )
    assert (row.status, row.complete, [step.step for step in row.steps]) == ("completed", True, [1, 2])
    assert trace.tokens == trace.input_tokens + trace.output_tokens > 0
    assert trace.cost is not None
    assert trace.summary().startswith(f"{trace.trace_id} agent · record completed · 2 steps · ")


def test_an_unknown_models_cost_is_unknown(client: openai.OpenAI) -> None:
    with escapement.init() as trace:
        ask(client, model="a-model-nobody-knows")
    assert trace.cost is None
    assert "cost unknown" in trace.summary()


def test_ids_are_tr_and_twelve_hex_digits(store: Path) -> None:
    ids = set()
    for _ in range(5):
        with escapement.init() as trace:
            ids.add(trace.trace_id)
    assert len(ids) == 5
    assert all(len(trace_id) == 15 and trace_id.startswith("tr_") and int(trace_id[3:], 16) for trace_id in ids)


def test_stop_without_init_is_a_no_op() -> None:
    assert escapement.stop() is None
    assert escapement.current() is None


def test_init_twice_is_refused_and_loses_nothing(client: openai.OpenAI, store: Path) -> None:
    first = escapement.init("first")
    ask(client)
    with pytest.raises(escapement.ConfigError, match=rf"{first.trace_id} is being recorded here already.*stop\(\)"):
        escapement.init("second")
    with pytest.raises(escapement.ConfigError, match="here already"):
        escapement.replay(first.trace_id)
    ask(client)
    escapement.stop()
    assert [(row.name, len(row.steps)) for row in SpanStore(store).traces()] == [("first", 2)]


def test_fork_outside_a_replay_is_refused() -> None:
    with pytest.raises(escapement.ConfigError, match="none is running here"):
        escapement.fork()
    with escapement.init(), pytest.raises(escapement.ConfigError, match="none is running here"):
        escapement.fork()


def test_a_with_block_that_raises_fails_its_trace(client: openai.OpenAI, store: Path) -> None:
    with pytest.raises(ZeroDivisionError), escapement.init("boom") as trace:
        ask(client)
        _ = 1 / 0
    assert trace.status == "failed"
    assert statuses(store) == [("boom", "failed", "ZeroDivisionError: division by zero")]


def test_runs_nest(client: openai.OpenAI, store: Path) -> None:
    with escapement.init("outer") as outer:
        ask(client)
        with escapement.init("inner") as inner:
            assert escapement.current() is inner
            ask(client)
            ask(client)
        assert escapement.current() is outer
        ask(client)
    assert {row.name: len(row.steps) for row in SpanStore(store).traces()} == {"outer": 2, "inner": 2}


def test_the_process_run_reaches_threads_and_pools(client: openai.OpenAI) -> None:
    trace = escapement.init()
    thread = threading.Thread(target=ask, args=(client, "thread"))
    thread.start()
    thread.join()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda number: ask(client, f"pool {number}"), range(3)))

    async def task() -> str:
        return await asyncio.to_thread(ask, client, "to_thread")

    asyncio.run(task())
    escapement.stop()
    assert trace.steps == 5


def test_a_thread_that_outlives_its_run_is_left_alone(client: openai.OpenAI, provider: Provider) -> None:
    go, done = threading.Event(), threading.Event()

    def late() -> None:
        go.wait(10)
        ask(client)
        done.set()

    with escapement.init() as trace:
        thread = threading.Thread(target=late)
        thread.start()
    go.set()
    assert done.wait(10)
    thread.join()
    assert (trace.steps, provider.count) == (0, 1)


def test_disabled_is_a_no_op(client: openai.OpenAI, provider: Provider, store: Path) -> None:
    before = httpx2.Client.send
    with escapement.init("off", enabled=False) as trace:
        assert httpx2.Client.send is before
        ask(client)
    assert (trace.trace_id, trace.mode, trace.status, trace.steps, trace.cost) == ("", "disabled", "disabled", 0, 0.0)
    assert provider.count == 1
    assert not store.exists()
    with pytest.warns(escapement.EscapementWarning, match="nothing is replayed"):
        escapement.replay("tr_000000000000", enabled=False)


def test_a_pool_and_a_subclassed_thread_keep_working_as_they_are() -> None:
    class Worker(threading.Thread):
        def run(self) -> None:
            self.result = 42

    with escapement.init():
        worker = Worker()
        worker.start()
        worker.join()
        assert worker.result == 42
        assert "run" not in vars(worker)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(divmod, 7, 2).result() == (3, 1)
            with pytest.raises(ZeroDivisionError):
                pool.submit(divmod, 7, 0).result()


# -- programs that end ------------------------------------------------------------------------------------------------


def test_a_program_that_ends_without_stop(provider: Provider, store: Path) -> None:
    done = run_program("escapement.init('quiet'); ask('one'); ask('two')", provider)
    assert done.returncode == 0, done.stderr
    assert [(*entry, 2) for entry in statuses(store)] == [("quiet", "completed", None, 2)]


def test_a_program_that_ends_with_an_exception(provider: Provider, store: Path) -> None:
    done = run_program("escapement.init('loud'); ask('one'); raise RuntimeError('over and out')", provider)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: over and out")
    assert statuses(store) == [("loud", "failed", "RuntimeError: over and out")]


def test_a_program_that_is_killed(provider: Provider, store: Path) -> None:
    done = run_program("escapement.init('dead'); ask('one'); os.kill(os.getpid(), 9)", provider)
    assert done.returncode == -9
    assert statuses(store) == [("dead", "interrupted", None)]


def test_a_forked_child_writes_to_the_same_trace(provider: Provider, store: Path) -> None:
    done = run_program(
        """
        import multiprocessing
        escapement.init('family')
        ask('parent')
        child = multiprocessing.get_context('fork').Process(target=ask, args=('child',))
        child.start(); child.join()
        ask('parent again')
        """,
        provider,
    )
    assert done.returncode == 0, done.stderr
    (row,) = SpanStore(store).traces()
    asked = [row.request_body(step) for step in row.steps]
    assert (row.status, sorted(b"child" in body for body in asked)) == ("completed", [False, False, True])


def test_the_excepthook_is_put_back() -> None:
    before = sys.excepthook
    with escapement.init():
        assert sys.excepthook is not before
    assert sys.excepthook is before

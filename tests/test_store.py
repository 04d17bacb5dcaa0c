"""The span store: what is sealed reads as it did, whoever seals it, and SQL sees tables and journals as one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

import escapement
from escapement.engine import session as sessions
from escapement.store import columns, journal, layout, sealing, summaries, tables, upkeep
from escapement.store.traces import SpanStore
from escapement.words.config import resolve
from tests import golden
from tests.conftest import ask
from tests.program import arguments, run_program
from tests.provider import Provider


def seal(store: Path, grace: float = 0) -> sealing.Sealed:
    place = layout.create(store)
    with sealing.upkeep(place):
        return sealing.seal(place, grace=grace)


def whole(store: Path) -> list[Any]:
    """Everything that a store says of its traces, bodies included."""
    reader = SpanStore(store)
    said = []
    for trace_id in sorted(reader.trace_ids()):
        row = reader.load(trace_id)
        steps = [
            (step.step, step.lane, step.fingerprint, step.name, step.start, step.end, step.span_id,
             step.parent_span_id, step.attributes, row.request_body(step), step.response(), step.source)
            for step in row.steps
        ]  # fmt: skip
        said.append(
            (row.trace_id, row.name, row.tags, row.metadata, row.mode, row.parent, row.created, row.status, row.ended,
             row.error, row.lost, row.damaged, row.otel_trace_id, row.span_id, row.origin, row.imported,
             [{key: value for key, value in span.items() if value is not None} for span in row.spans], steps)
        )  # fmt: skip
    return said


def tables_of(store: Path) -> dict[str, list[Any]]:
    """Every view, whole. (Threads add up floats in any order.)"""
    reader = SpanStore(store)
    return {
        view: sorted(
            repr([round(value, 9) if isinstance(value, float) else value for value in row])
            for row in reader.sql(f"SELECT * FROM {view}").rows
        )
        for view in ("traces", "spans", "llm_calls", "messages", "tool_calls")
    }


@pytest.fixture
def variety(client: openai.OpenAI, claude: anthropic.Anthropic, store: Path) -> list[str]:
    """Ids of: a run of all kinds of calls, a failed one, a fork, a long conversation."""
    from opentelemetry import trace as otel

    with escapement.init("all kinds", tags=["x", "y"], metadata={"n": 1}) as first:
        ask(client, "Grüße 🕰")
        for _ in client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "stream"}], stream=True
        ):
            pass
        claude.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
        with pytest.raises(openai.BadRequestError):
            ask(client, "bad", model="error-400")
        with otel.get_tracer("other").start_as_current_span("a span of others", attributes={"n": 1, "s": "1"}):
            client.embeddings.create(model="text-embedding-3-small", input="text")
    with pytest.raises(ValueError), escapement.init("failed") as second:
        ask(client)
        raise ValueError("it happens")
    with escapement.replay(first.trace_id) as third:
        ask(client, "Grüße 🕰")
        escapement.fork()
        ask(client, "else")
    with escapement.init("long") as fourth:
        messages: list[Any] = [{"role": "system", "content": "Be brief. " * 300}]
        for number in range(12):
            messages.append({"role": "user", "content": f"question {number}"})
            answer = client.chat.completions.create(model="gpt-4o", messages=messages)
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
    return [first.trace_id, second.trace_id, third.trace_id, fourth.trace_id]


def test_what_is_sealed_reads_as_it_did(variety: list[str], store: Path) -> None:
    before, seen = whole(store), tables_of(store)
    assert len(before) == 4
    assert seal(store).journals == 4
    assert list((store / "journal").iterdir()) == []
    assert whole(store) == before
    assert tables_of(store) == seen
    assert seal(store) == sealing.Sealed()  # nothing is left to do
    place = layout.create(store)
    with sealing.upkeep(place):
        upkeep.compact(place)
    assert whole(store) == before
    assert tables_of(store) == seen


def test_some_sealed_and_some_not(variety: list[str], client: openai.OpenAI, store: Path) -> None:
    seal(store)
    with escapement.replay(variety[0]) as fork:  # its parent is in the tables, itself in a journal
        ask(client, "Grüße 🕰")
        escapement.fork()
        ask(client, "third")
    before, seen = whole(store), tables_of(store)
    assert [row[0] for row in before] == sorted([*variety, fork.trace_id])
    seal(store)
    assert (whole(store), tables_of(store)) == (before, seen)
    with escapement.replay(fork.trace_id, strict_replay=True) as again:
        ask(client, "Grüße 🕰")
        ask(client, "third")
    assert again.hits == 2


def test_a_sealed_trace_is_replayed(client: openai.OpenAI, store: Path) -> None:
    with escapement.init() as trace:
        answers = [ask(client, f"number {number}") for number in range(3)]
    seal(store)
    with escapement.replay("@last", strict_replay=True):
        assert [ask(client, f"number {number}") for number in range(3)] == answers
    assert trace.trace_id == SpanStore(store).resolve("@last")


def test_sealing_twice_at_once_takes_everything_in_once(client: openai.OpenAI, store: Path) -> None:
    for number in range(4):
        with escapement.init(f"run {number}"):
            ask(client, f"number {number}")
    before = whole(store)
    program = (
        "import sys\nfrom escapement.store import layout, sealing\nplace = layout.create(sys.argv[1])\n"
        "print(sealing.seal(place, grace=0).journals)"  # without the lock: Delta's conflict check has to do
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(store)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(4)
    ]
    counts = [process.communicate()[0].strip() or b"0" for process in running]
    assert sum(map(int, counts)) >= 4
    assert whole(store) == before


def test_what_was_taken_in_is_known_for_many_journals_as_for_one(client: openai.OpenAI, store: Path) -> None:
    """Asked for many at once, the log is read once; where a commit of it is only in a checkpoint, each is looked up."""
    place = layout.Layout.of(store)
    spans = tables.Table(place, "spans")
    names: list[str] = []
    for number in range(3):
        for _ in range(8):
            with escapement.init("many", storage_dir=store, sealing="manual"):
                ask(client, f"question {number}")
        waiting = [path.stem for _, path in sealing.journals(place) if path.stem not in names]
        with sealing.upkeep(place):
            assert sealing.seal(place).journals == 8
        asked = [*names, *waiting, *(f"{name}-not" for name in waiting)]
        names += waiting
        spans.refresh()
        assert spans.holding(asked) == set(names) == {name for name in asked if spans.holds(name)}
    table = DeltaTable(spans.uri)
    table.create_checkpoint()
    os.unlink(Path(spans.uri) / "_delta_log" / f"{1:020}.json")
    fresh = tables.Table(place, "spans")
    fresh.refresh()
    assert fresh.holding([*names, "other"]) == set(names)


def test_a_running_trace_is_not_sealed(client: openai.OpenAI, store: Path) -> None:
    with escapement.init() as trace:
        ask(client)
        assert seal(store).journals == 0
        assert SpanStore(store).load(trace.trace_id).status == "running"
        assert [row.status for row in summaries.page(SpanStore(store))] == ["running"]
        place = layout.create(store)
        with sealing.upkeep(place), pytest.raises(escapement.StoreError, match="still being recorded"):
            upkeep.delete(place, [trace.trace_id])
    assert seal(store).journals == 1


def test_without_locks_only_what_has_ended_is_sealed(
    client: openai.OpenAI, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems know none: nobody can tell then whether a writer lives."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with escapement.init() as trace:
        ask(client, "one")
        assert seal(store).journals == 0
        ask(client, "two")
    assert seal(store).journals == 1
    row = SpanStore(store).load(trace.trace_id)
    assert (row.status, len(row.steps), row.complete) == ("completed", 2, True)


def test_a_journal_is_locked_before_anybody_sees_it(client: openai.OpenAI, store: Path) -> None:
    """A reader that looks in between must not take the lock that says whether the writer lives."""
    stop = threading.Event()
    seen: set[bool] = set()

    def look() -> None:
        while not stop.is_set():
            for path in (store / "journal").glob("tr_*"):
                seen.add(journal.has_writer(path))

    place = layout.create(store)
    reader = threading.Thread(target=look)
    reader.start()
    try:
        written = [journal.Journal(place, f"tr_{number:012x}") for number in range(300)]
    finally:
        stop.set()
        reader.join()
    assert all(journal.has_writer(one.path) for one in written)
    assert seen <= {True}
    for one in written:
        one.close()


def test_the_journal_of_a_killed_process_is_sealed_as_interrupted(provider: Provider, store: Path) -> None:
    process = subprocess.Popen(
        arguments("escapement.init('x'); ask('one'); print('up', flush=True); time.sleep(60)", provider),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    before = whole(store)
    assert seal(store).journals == 1
    assert whole(store) == before
    (row,) = summaries.page(SpanStore(store))
    assert (row.status, row.steps) == ("interrupted", 1)


def test_forked_processes_share_a_trace(provider: Provider, store: Path) -> None:
    program = """
        with escapement.init("parent"):
            ask("before")
            child = os.fork()
            ask("in the child" if not child else "in the parent")
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
    """
    done = run_program(program, provider)
    assert done.returncode == 0, done.stderr
    before, seen = whole(store), tables_of(store)
    assert [len(row[-1]) for row in before] == [3]
    assert seal(store).journals == 2
    assert whole(store) == before
    assert tables_of(store) == seen


def test_a_long_run_goes_on_in_another_journal(
    client: openai.OpenAI, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_SEGMENT", 20_000)
    messages: list[Any] = [{"role": "system", "content": "Be brief. " * 300}]
    with escapement.init("long") as trace:
        for number in range(20):
            messages.append({"role": "user", "content": f"question {number}"})
            answer = client.chat.completions.create(model="gpt-4o", messages=messages)
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
            if number == 10:
                assert seal(store).journals >= 1  # while it runs
                row = SpanStore(store).load(trace.trace_id)
                assert (row.status, len(row.steps)) == ("running", 11)
    before = whole(store)
    assert [len(row[-1]) for row in before] == [20]
    assert [row[7] for row in before] == ["completed"]
    seal(store)
    assert whole(store) == before
    with escapement.replay(trace.trace_id, strict_replay=True) as replayed:
        for number in range(20):
            client.chat.completions.create(model="gpt-4o", messages=messages[: 2 + 2 * number])
    assert replayed.hits == 20


def test_nobody_else_can_read_what_is_sealed(client: openai.OpenAI, store: Path) -> None:
    with escapement.init():
        ask(client)
    seal(store)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in store.rglob("*") if path.is_file()}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in [store, *store.rglob("*")] if path.is_dir()}
    assert (modes, folders) == ({0o600}, {0o700})


def test_sealing_in_the_background(provider: Provider, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough is recorded: another process seals it, which no program that waits for its children ever meets."""
    monkeypatch.setenv("ESCAPEMENT_SEALING", "background")
    program = """
        from escapement.store import sealing
        sealing.WORTH = 1
        with escapement.init("x"):
            ask("one")
        try:
            os.wait()
        except ChildProcessError:
            print("no children")
    """
    done = run_program(program, provider)
    assert (done.stdout, done.returncode) == ("no children\n", 0), done.stderr
    deadline = time.monotonic() + 60
    table = tables.Table(layout.open_existing(store), "spans")
    while not table.files():
        assert time.monotonic() < deadline, "nothing was sealed"
        time.sleep(0.05)
        table.refresh()
    assert len(SpanStore(store).trace_ids()) == 1
    while list((store / "journal").iterdir()):  # after the grace
        assert time.monotonic() < deadline, "the journal stayed"
        time.sleep(0.1)
    assert len(SpanStore(store).trace_ids()) == 1


def test_what_is_not_worth_sealing_stays_a_journal(client: openai.OpenAI, store: Path) -> None:
    with escapement.init(sealing="background"):
        ask(client)
    assert not sealing.is_worth_it(layout.open_existing(store))
    assert not (store / "spans").exists()


# -- reading ---------------------------------------------------------------------------------------------------------


def test_an_empty_store_answers(store: Path) -> None:
    opened = escapement.open_store(store)
    assert (opened.list(), opened.stats()) == ([], [])
    assert opened.query("SELECT * FROM llm_calls").num_rows == 0
    assert opened.query("SELECT count(*) AS n FROM messages").to_pylist() == [{"n": 0}]
    with pytest.raises(escapement.TraceNotFoundError, match="nothing has been recorded there yet"):
        opened.load("@last")
    assert not store.exists()


def test_open_store_lists_loads_queries_and_deletes(variety: list[str], store: Path) -> None:
    opened = escapement.open_store()
    assert opened.place == str(store)
    assert [row.trace_id for row in opened.list()] == variety[::-1]
    assert [row.name for row in opened.list(limit=2)] == ["long", "all kinds"]
    assert [row.trace_id for row in opened.list(tags=["y", "x"], status="completed")] == [variety[2], variety[0]]
    assert [row.trace_id for row in opened.list(name="FAIL")] == [variety[1]]
    assert [row.trace_id for row in opened.list(model="Claude")] == [variety[0]]
    middle = opened.list(name="failed")[0].created
    assert [row.trace_id for row in opened.list(until=middle)] == [variety[0]]
    assert [row.trace_id for row in opened.list(since=middle)] == variety[:0:-1]
    assert len(opened.load("@-4").steps) == 5
    assert opened.query("SELECT count(*) AS n FROM llm_calls WHERE trace_id = ?", [variety[3]]).to_pylist() == [
        {"n": 12}
    ]
    (everything, *_) = opened.stats()
    assert (everything.calls, everything.errors, everything.day) == (19, 1, None)
    (everything, *_) = opened.stats(variety[3])
    assert (everything.calls, everything.errors) == (12, 0)
    assert opened.delete(variety[3][:9], variety[3]) == 1
    assert [row.trace_id for row in opened.list()] == variety[2::-1]
    with pytest.raises(escapement.StoreError, match="Catalog Error|does not exist"):
        opened.query("SELECT * FROM nothing")
    with pytest.raises(escapement.StoreError, match="syntax error"):
        opened.query("SELEC")


def test_messages_stand_once_where_they_were_first_said(client: openai.OpenAI, store: Path) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief. " * 300}]
    with escapement.init():
        for number in range(4):
            messages.append({"role": "user", "content": f"question {number}"})
            answer = client.chat.completions.create(model="gpt-4o", messages=messages)
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
    expected = [(1, 1, "sent", "system", messages[0]["content"])]
    for number in range(4):
        place = 2 if number == 0 else 1
        expected += [
            (number + 1, place, "sent", "user", f"question {number}"),
            (number + 1, place + 1, "received", "assistant", messages[2 + 2 * number]["content"]),
        ]
    query = "SELECT step, position, direction, role, content FROM messages ORDER BY step, position"
    assert SpanStore(store).sql(query).rows == expected
    seal(store)
    assert SpanStore(store).sql(query).rows == expected


def test_tool_calls_have_their_results(client: openai.OpenAI, store: Path) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    with escapement.init():
        first = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Rain?"}], tools=tools, tool_choice="required"
        )
        calls = first.choices[0].message.tool_calls
        assert calls
        told = [{"role": "tool", "tool_call_id": call.id, "content": f"rain {n}"} for n, call in enumerate(calls)]
        client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "Rain?"}, first.choices[0].message, *told],  # type: ignore[list-item]
        )
    rows = SpanStore(store).sql("SELECT step, call_id, name, arguments, result, result_step FROM tool_calls").rows
    assert sorted(rows, key=str) == sorted(
        [
            (1, call.id, call.function.name, call.function.arguments, f"rain {number}", 2)  # type: ignore[union-attr]
            for number, call in enumerate(calls)
        ],
        key=str,
    )


def test_a_running_trace_is_followed(provider: Provider, store: Path) -> None:
    program = "with escapement.init('x'):\\n    for n in range(4):\\n        ask(str(n)); time.sleep(0.2)"
    process = subprocess.Popen(arguments(program.replace("\\n", "\n"), provider))
    try:
        opened = escapement.open_store()
        deadline = time.monotonic() + 30
        while not opened.list():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert [step.step for step in opened.follow("@last", every=0.05)] == [1, 2, 3, 4]
    finally:
        process.wait()


def test_readers_see_everything_once_while_it_is_sealed_compacted_and_deleted(
    client: openai.OpenAI, store: Path
) -> None:
    kept = []
    for number in range(6):
        with escapement.init(f"keep {number}") as trace:
            ask(client, f"number {number}")
        kept.append(trace.trace_id)
    stop = threading.Event()
    troubles: list[BaseException] = []

    def work() -> None:
        place = layout.create(store)
        number = 0
        while not stop.is_set():
            with escapement.init("gone", tags=["gone"]) as gone:
                ask(client, f"gone {number}")
            with sealing.upkeep(place):
                sealing.seal(place, grace=0)
                upkeep.compact(place)
                upkeep.delete(place, [gone.trace_id])
            number += 1

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            troubles.append(error)

    worker = threading.Thread(target=guarded)
    worker.start()
    try:
        reader = SpanStore(store)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            rows = reader.sql("SELECT trace_id, count(*), count(DISTINCT step) FROM llm_calls GROUP BY ALL").rows
            seen = {row[0]: row[1:] for row in rows}
            assert {trace_id: seen.get(trace_id) for trace_id in kept} == dict.fromkeys(kept, (1, 1))
            assert len(reader.load(kept[0]).steps) == 1
    finally:
        stop.set()
        worker.join()
    assert troubles == []


# -- deletion, retention ---------------------------------------------------------------------------------------------


def test_deleted_is_gone_from_the_disk(client: openai.OpenAI, store: Path) -> None:
    with escapement.init("first") as first:
        ask(client, "a-very-particular-text")
    seal(store)
    with escapement.init("second") as second:
        ask(client, "another-particular-text")
    with escapement.init("third"):
        ask(client, "what stays")
    place = layout.create(store)
    with sealing.upkeep(place):
        assert upkeep.delete(place, [first.trace_id, second.trace_id]) == 2
    assert [row.name for row in summaries.page(SpanStore(store))] == ["third"]
    import pyarrow.parquet as pq

    for file in store.rglob("*.parquet"):
        assert first.trace_id not in pq.read_table(file).column("trace_id").to_pylist()
    for file in store.rglob("*.jsonl"):
        assert second.trace_id not in file.name


def test_retention_by_age_and_by_size(client: openai.OpenAI, store: Path) -> None:
    place = layout.create(store)
    assert upkeep.retain(place, resolve()) == []
    ids = []
    for number in range(4):
        with escapement.init(f"run {number}") as trace:
            for more in range(10):
                ask(client, f"number {number} {more} " + os.urandom(2000).hex())
        ids.append(trace.trace_id)
        seal(store)
    with escapement.init("running") as running:
        ask(client, "still here")
        size = upkeep.size(place)
        with sealing.upkeep(place):
            went = upkeep.retain(place, resolve(None, {"retention_size": f"{size * 0.6 / 1e6} mb"}))
        assert went == ids[: len(went)]
        assert 1 <= len(went) <= 3
        assert upkeep.size(place) < size
        time.sleep(1.1)
        with sealing.upkeep(place):
            went += upkeep.retain(place, resolve(None, {"retention_age": f"{1 / 60} m"}))
        assert sorted(went) == sorted(ids)
        assert SpanStore(store).trace_ids() == [running.trace_id]


# -- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["format-1", "format-2"])
def test_stores_of_every_format_are_read(name: str) -> None:
    expected = json.loads((golden.HERE / name / "expected.json").read_text())
    assert golden.describe(golden.HERE / name / "store") == expected


def test_a_store_of_the_first_format_is_taken_over(client: openai.OpenAI, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "old"
    shutil.copytree(golden.HERE / "format-1" / "store", root)
    expected = json.loads((golden.HERE / "format-1" / "expected.json").read_text())
    with escapement.init("new", storage_dir=root) as trace:
        ask(client)
    assert json.loads((root / "store.json").read_text()) == {"format": layout.FORMAT}
    assert seal(root).journals == 5
    found = {row["trace"]: row for row in golden.describe(root)}
    assert found.pop(trace.trace_id)["name"] == "new"
    assert [found[row["trace"]] for row in expected] == expected
    assert set(layout.MIGRATIONS) == set(range(1, layout.FORMAT))


# -- columns ---------------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(values | st.sampled_from(["1", "true", "null", '"x"', "{}", "[1]", " 1", "1 ", "NaN", "1e5", ""]))
def test_attributes_come_back_as_they_were(value: Any) -> None:
    found = columns.decode(columns.encode(value))
    assert (type(found), found) == (type(value), value)

"""`check`: a whole store has no problems; every kind of damage is named, with its traces; what can be mended is."""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import escapement
from escapement.store import columns, journal, layout, mending, schema, sealing, segments, tables, upkeep
from escapement.store.check import Report, check
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore


def agent(seed: int = 1) -> openai.OpenAI:
    """A client whose provider is in this process, and never gives the same answer twice."""
    dice = random.Random(seed)

    def answer(request: httpx2.Request) -> httpx2.Response:
        number = dice.randrange(10**9)
        text = f"answer {number} " + " ".join(dice.choice(["alpha", "beta", "gamma"]) for _ in range(40))
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": number % 1000, "completion_tokens": 5, "total_tokens": number % 1000 + 5}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        body = {
            "id": f"c-{number}",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o",
            "choices": [choice],
            "usage": usage,
        }
        return httpx2.Response(200, json=body)

    transport = httpx2.MockTransport(answer)
    return openai.OpenAI(
        api_key="k", base_url="http://model/v1", http_client=httpx2.Client(transport=transport), max_retries=0
    )


def record(store: Path, traces: int = 3, steps: int = 3, seed: int = 1) -> list[str]:
    """Record traces whose conversations grow; their ids."""
    ids = []
    with agent(seed) as client:
        for number in range(traces):
            with escapement.init(f"agent {number}", storage_dir=store, tags=["a"], metadata={"n": number}) as trace:
                history: list[Any] = []
                for step in range(steps):
                    history.append({"role": "user", "content": f"{number} {step} " + "word " * 30})
                    said = client.chat.completions.create(model="gpt-4o", messages=history)
                    history.append({"role": "assistant", "content": said.choices[0].message.content})
            ids.append(trace.trace_id)
    return ids


def seal(store: Path, grace: float = 0) -> sealing.Sealed:
    found = layout.create(store)
    with sealing.upkeep(found):
        return sealing.seal(found, grace=grace)


def content(reader: SpanStore, trace_id: str) -> tuple[Any, ...]:
    """Everything about a trace that must never change silently."""
    return content_of(reader.load(trace_id))


def content_of(row: TraceRow) -> tuple[Any, ...]:
    head = (row.name, row.status, row.mode, row.created, row.ended, row.error, tuple(row.tags), dict(row.metadata))
    steps = []
    for step in row.steps:
        try:
            body = row.request_body(step)
        except escapement.StoreError as error:
            body = str(error).encode()
        times = (step.start, step.end, step.otel_trace_id, step.span_id, step.parent_span_id)
        steps.append((step.step, step.lane, step.fingerprint, step.name, times, body, sorted(step.attributes.items())))
    return (*head, row.lost, row.damaged, dict(row.origin), steps, list(row.spans))


def rows(store: Path, ids: list[str]) -> dict[str, TraceRow]:
    """Traces that were served nothing, all at once: one by one takes an open file and a query each."""
    found = SpanStore(store).segments_of(ids)
    return {trace_id: segments.assemble(trace_id, found[trace_id]) for trace_id in ids}


def contents(store: Path, ids: list[str]) -> dict[str, tuple[Any, ...]]:
    return {trace_id: content_of(row) for trace_id, row in rows(store, ids).items()}


def table_files(store: Path, name: str = "spans") -> list[Path]:
    found = layout.Layout.of(store)
    return [Path(tables.local_path(uri)) for uri in mending.opened(found, name).files()]


def look(store: Path) -> Report:
    return check(layout.Layout.of(store))


def mend(store: Path) -> Report:
    """Repair; afterwards what was repaired is no problem any more."""
    found = layout.Layout.of(store)
    with sealing.upkeep(found):
        report = check(found, repair=True)
    again = look(store)
    repaired = {(problem.what, problem.where) for problem in report.problems if problem.repaired}
    assert not repaired & {(problem.what, problem.where) for problem in again.problems}
    assert again.leftovers == [] or all("served from" in leftover for leftover in again.leftovers)
    return report


def test_a_store_that_is_whole(store: Path) -> None:
    assert look(store) == Report()
    record(store, 2)
    sealed = Report(traces=2, requests=6)
    assert look(store) == sealed
    seal(store)
    seen: list[tuple[int, int]] = []
    report = check(layout.Layout.of(store), progress=lambda done, all: seen.append((done, all)))
    assert (report.problems, report.leftovers) == ([], [])
    assert (report.traces, report.spans, report.requests) == (2, 6, 6)
    assert report.parts == 2 * 3 * 2
    assert seen[-1][0] == seen[-1][1]
    record(store, 1)
    assert (look(store).traces, look(store).problems) == (3, [])


def test_a_key_that_was_scrubbed_is_no_damage(store: Path) -> None:
    with agent() as client, escapement.init(storage_dir=store):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "sk-proj-" + "a1B2" * 12}])
    assert look(store).problems == []
    seal(store)
    assert look(store).problems == []


def test_the_marker(store: Path) -> None:
    ids = record(store)
    before = contents(store, ids)
    for text in (b"", b"{", b'{"format": "x"}', b"[]"):
        (store / "store.json").write_bytes(text)
        (problem,) = look(store).problems
        assert (problem.where, problem.repaired) == (str(store / "store.json"), False)
        (problem,) = mend(store).problems
        assert problem.repaired
        assert contents(store, ids) == before
    (store / "store.json").unlink()
    assert [problem.what for problem in look(store).problems] == ["it is missing"]
    mend(store)
    assert look(store).problems == []
    (store / "store.json").write_text(f'{{"format": {layout.FORMAT + 1}}}')
    with pytest.raises(escapement.StoreError, match="Use a newer Escapement"):
        look(store)


def test_permissions(store: Path) -> None:
    record(store)
    seal(store)
    (file,) = table_files(store)
    store.chmod(0o755)
    file.chmod(0o644)
    (problem,) = look(store).problems
    assert (problem.what, problem.where) == ("others may read it", str(store))
    assert [problem.repaired for problem in mend(store).problems] == [True, True]
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_damaged_lines_of_a_journal(store: Path) -> None:
    one, other = record(store, 2)
    path = next(store.glob(f"journal/{one}-*"))
    path.write_bytes(path.read_bytes() + b"garbage\n")
    for _ in range(2):
        problems = look(store).problems
        assert {problem.trace_ids for problem in problems} == {(one,)}
        assert not any(problem.repaired for problem in problems)
        seal(store)
    assert (store / "damaged" / path.name).read_bytes().endswith(b"garbage\n")
    assert SpanStore(store).load(other).complete


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def column_page(path: Path, name: str) -> int:
    """An offset inside the data of a column."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        for number in range(group.num_columns):
            column = group.column(number)
            if column.path_in_schema.split(".")[0] == name:
                return int(column.data_page_offset + column.total_compressed_size // 2)
    raise AssertionError(name)


@pytest.mark.parametrize("harm", ["missing", "cut", "page", "shown"])
def test_a_damaged_file_is_moved_away_and_what_can_be_read_is_written_back(
    store: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 8)
    tables.properties.cache_clear()
    ids = sorted(record(store, 6))
    whole = contents(store, ids)
    seal(store)
    later = record(store, 1, seed=2)
    seal(store)
    tables.properties.cache_clear()
    whole |= contents(store, later)
    (path,) = [
        file for file in table_files(store) if file.stat().st_size == max(f.stat().st_size for f in table_files(store))
    ]
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        flip(path, column_page(path, "attributes" if harm == "page" else "messages"))
    found = look(store).problems
    assert str(path) in {problem.where for problem in found}
    assert not any(problem.repaired for problem in found)
    fixed = mend(store)
    assert str(path) in {problem.where for problem in fixed.problems if problem.repaired}
    if harm != "missing":
        assert (store / "damaged" / f"spans-{path.parent.name}-{path.name}").exists()
    reader = SpanStore(store)
    assert content(reader, later[0]) == whole[later[0]]
    left = set(reader.trace_ids())
    if harm in ("missing", "cut"):
        assert left == {*later}
    elif harm == "page":
        same = [trace_id for trace_id in ids if trace_id in left and content(reader, trace_id) == whole[trace_id]]
        assert len(same) >= 2, "damage stays in its row group"
        for trace_id in set(ids) & left - set(same):
            assert not reader.load(trace_id).complete, "what is not whole says so"
    else:
        assert contents(store, ids) == {trace_id: whole[trace_id] for trace_id in ids}, "only what is shown is gone"
    assert mend(store).problems == [problem for problem in look(store).problems if not problem.repaired]


def test_rows_that_journals_still_have_come_back(store: Path) -> None:
    ids = record(store)
    before = contents(store, ids)
    seal(store, grace=3600)
    for name in ("spans", "parts"):
        (path,) = table_files(store, name)
        os.truncate(path, path.stat().st_size // 2)
    assert len(look(store).problems) >= 2
    mend(store)
    assert contents(store, ids) == before
    assert look(store).problems == []


def test_a_part_that_is_gone_or_another(store: Path) -> None:
    ids = record(store)
    seal(store)
    (path,) = table_files(store, "parts")
    copy = path.read_bytes()
    path.unlink()
    found = look(store)
    assert "the file is missing" in {problem.what for problem in found.problems}
    assert {trace_id for problem in found.problems for trace_id in problem.trace_ids} == set(ids)
    path.write_bytes(copy)
    assert look(store).problems == []
    flip(path, column_page(path, "data"))
    found = look(store)
    assert str(path) in {problem.where for problem in found.problems}


def test_statistics_that_hide_rows(store: Path) -> None:
    """What DuckDB skips row groups by is damaged: the rows are whole, and not found by their trace."""
    ids = sorted(record(store, 4))
    before = contents(store, ids)
    seal(store)
    (path,) = table_files(store)
    data = path.read_bytes()
    (footer,) = struct.unpack("<I", data[-8:-4])
    start = len(data) - footer - 8
    changed, count = re.subn(ids[0].encode() + rb"(?!-)", ids[2].encode(), data[start:])  # not those of the journals
    assert count
    path.write_bytes(data[:start] + changed)
    assert not SpanStore(store).load(ids[0]).complete
    problems = look(store).problems
    assert any("passed over" in problem.what for problem in problems)
    mend(store)
    assert contents(store, ids) == before


@pytest.mark.parametrize("harm", ["gone", "garbage", "cut"])
@pytest.mark.parametrize("name", ["spans", "parts"])
def test_a_log_that_cannot_be_read(store: Path, harm: str, name: str) -> None:
    ids = record(store, 2)
    seal(store)
    ids += record(store, 2, seed=2)
    before = contents(store, ids)
    seal(store)
    found = layout.Layout.of(store)
    with sealing.upkeep(found):
        upkeep.compact(found)
    log = store / name / "_delta_log"
    last = sorted(log.glob("*.json"))[-1]
    if harm == "gone":
        shutil.rmtree(log)
    elif harm == "garbage":
        last.write_bytes(b"\x00garbage\n" + last.read_bytes()[9:])
    else:
        last.write_bytes(last.read_bytes()[:-200])
    (problem,) = [problem for problem in look(store).problems if problem.where == str(store / name)]
    assert "log" in problem.what
    mend(store)
    assert contents(store, ids) == before, "merged files are there twice, their rows once"
    assert look(store).problems == []
    assert seal(store).journals == 0
    assert (store / "damaged" / f"{name}-table-1").is_dir()


def test_a_journal_sealed_twice_is_named(store: Path) -> None:
    (trace_id,) = record(store, 1)
    (path,) = store.glob("journal/*.jsonl")
    segment = segments.read(path, trace_id)
    seal(store)
    table = mending.opened(layout.Layout.of(store), schema.SPANS)
    table.append(tables.arrow(schema.SPANS, columns.rows(segment)), ["again"])
    (problem,) = look(store).problems
    assert problem.trace_ids == (trace_id,)
    assert "there twice" in problem.what
    assert not SpanStore(store).load(trace_id).complete


def test_leftovers_are_no_problems(store: Path) -> None:
    one, other = record(store, 2)
    seal(store, grace=3600)
    mending.opened(layout.Layout.of(store), schema.SPANS).delete([one])  # a deletion that was cut off here
    draft = store / ".store.json.999999"
    draft.write_bytes(b"{")
    for path in (draft, *store.glob("journal/*")):
        os.utime(path, (time.time() - 3600,) * 2)
    report = look(store)
    assert report.problems == []
    told = "\n".join(report.leftovers)
    assert f"payload of {one}" in told or "in the tables already" in told
    assert ".store.json.999999: never finished" in told
    assert "only older versions need" in told
    mend(store)
    assert not draft.exists()
    assert SpanStore(store).trace_ids() == [other]
    assert list(store.glob("journal/*")) == []
    found = layout.Layout.of(store)
    assert {row["min.trace_id"] for row in mending.opened(found, "parts").actions()} == {other}


def test_steps_served_from_a_trace_that_is_gone(store: Path) -> None:
    with agent() as client:
        with escapement.init(storage_dir=store) as trace:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "one"}])
        with escapement.replay(trace.trace_id, storage_dir=store) as fork:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "one"}])
            escapement.fork()
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "two"}])
    assert look(store).leftovers == []
    found = layout.Layout.of(store)
    with sealing.upkeep(found):
        upkeep.delete(found, [trace.trace_id])
    report = look(store)
    assert report.problems == []
    assert report.leftovers == [
        f"{fork.trace_id}: 1 of its steps were served from {trace.trace_id}, which is not in the store any more"
    ]


@pytest.mark.parametrize("stage", range(8))
def test_a_repair_that_is_cut_off_is_finished_by_the_next(
    store: Path, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = record(store, 4)
    before = contents(store, ids)
    seal(store, grace=3600)
    for name in ("spans", "parts"):
        (path,) = table_files(store, name)
        os.truncate(path, path.stat().st_size // 2)
    calls = 0

    def cut(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > stage:
                raise KeyboardInterrupt
            return original(*arguments, **named)

        return wrapped

    found = layout.Layout.of(store)
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", cut(os.rename))
        patched.setattr(tables.Table, "append", cut(tables.Table.append))
        patched.setattr(tables.Table, "forget_missing", cut(tables.Table.forget_missing))
        with sealing.upkeep(found):
            if stage < 7:
                with pytest.raises(KeyboardInterrupt):
                    check(found, repair=True)
    mend(store)
    assert contents(store, ids) == before
    assert look(store).problems == []


def test_threads_that_write_their_steps_in_another_order(store: Path) -> None:
    """A step may be described by one whose record comes later in the file."""
    (trace_id,) = record(store, 1)
    before = contents(store, [trace_id])
    (path,) = store.glob("journal/*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line.startswith(b'{"record":"start"')]
    lines.insert(1, lines.pop(starts[2]))
    path.write_bytes(b"".join(lines))
    assert contents(store, [trace_id]) == before
    seal(store)
    assert contents(store, [trace_id]) == before


def test_a_running_writer_is_left_alone(store: Path) -> None:
    record(store, 1)
    made = layout.create(store)
    writer = journal.Journal(made, "tr_0123456789ab")
    writer.write({"record": "trace", "time": time.time_ns(), "name": "x"})
    assert mend(store).problems == []
    assert writer.path.exists()
    writer.close()

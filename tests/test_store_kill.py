"""Processes that record, seal, compact and delete are killed, anywhere: nothing answered is lost, nothing is there twice,
and whoever comes next finishes the job. `KILLS=200` for more than a look: so many together, and one at every step."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deltalake  # noqa: F401  (what the processes need is imported once, before they are forked)
import duckdb  # noqa: F401
import pyarrow.parquet  # noqa: F401
import pytest

import escapement
from escapement.store import layout, sealing, tables, upkeep
from escapement.store.traces import SpanStore
from tests.test_check import agent, contents, look, mend, record, rows, seal

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.test_store_kill"])


@pytest.fixture(autouse=True)
def nursery(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that forks processes, with everything imported: they begin at once."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


# -- what is killed ------------------------------------------------------------------------------------------------------


def recording(store: Path, said: Path, seed: int) -> None:
    """Record short runs for ever; each answer is acknowledged once the agent has it."""
    with said.open("a", buffering=1) as out, agent(seed) as client:
        for number in itertools.count():
            with escapement.init(f"run {number}", storage_dir=store) as trace:
                history: list[Any] = []
                for step in range(1, 4):
                    history.append({"role": "user", "content": f"{number} {step} " + "word " * 20})
                    answer = client.chat.completions.create(model="gpt-4o", messages=history)
                    text = answer.choices[0].message.content
                    out.write(f"{trace.trace_id} {step} {text}\n")
                    history.append({"role": "assistant", "content": text})


def working(store: Path, said: Path, work: Callable[[layout.Layout], Any]) -> None:
    """Do it again and again."""
    found = layout.create(store)
    with said.open("a") as out:
        out.write(" begun\n")
    while True:
        with sealing.upkeep(found):
            work(found)


def sealing_(store: Path, said: Path, seed: int) -> None:
    sealing._BATCH = 5_000  # type: ignore[misc]
    working(store, said, lambda found: sealing.seal(found, grace=0))


def compacting(store: Path, said: Path, seed: int) -> None:
    def work(found: layout.Layout) -> None:
        upkeep.compact(found)
        upkeep.vacuum(found)

    working(store, said, work)


def deleting(store: Path, said: Path, seed: int) -> None:
    dice = random.Random(seed)
    with said.open("a", buffering=1) as out:

        def work(found: layout.Layout) -> None:
            there = sorted(set(SpanStore(store).trace_ids()) - upkeep.running(found))
            if len(there) > 4:
                chosen = dice.choice(there)
                out.write(f"{chosen} doomed\n")
                upkeep.delete(found, [chosen])
                out.write(f"{chosen} deleted\n")

        working(store, said, work)


# -- at random moments -----------------------------------------------------------------------------------------------------


def kill(store: Path, works: list[tuple[Callable[[Path, Path, int], None], Path]], dice: random.Random) -> None:
    """Start processes in a store, and SIGKILL each at a moment of its own."""
    running = [_processes.Process(target=work, args=(store, said, dice.randrange(10**9))) for work, said in works]
    sizes = {said: said.stat().st_size if said.exists() else 0 for _, said in works}
    for process in running:
        process.start()
    until = time.monotonic() + 30
    while any(not said.exists() or said.stat().st_size <= sizes[said] for said in sizes):  # all have begun
        assert time.monotonic() < until
        time.sleep(0.001)
    begun = time.monotonic()
    moments = sorted(((dice.random() * 0.4, process) for process in running), key=lambda item: item[0])
    for moment, process in moments:
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        assert process.exitcode is None, f"{process} ended by itself"
        process.kill()
    for process in running:
        process.join()
        assert process.exitcode == -signal.SIGKILL


def acknowledged(said: Path) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for line in said.read_text().split("\n")[:-1] if said.exists() else ():
        trace_id, step, text = line.split(" ", 2)
        found.setdefault(trace_id, {})[int(step)] = text
    return found


def survivors(store: Path, answers: Path, deletions: Path, before: dict[str, Any]) -> int:
    """Everything that was acknowledged, and all that was there before, is there, once, or was deleted; how many answers."""
    doomed, deleted = set[str](), set[str]()
    for line in deletions.read_text().split("\n")[:-1] if deletions.exists() else ():
        trace_id, what = line.split(" ")
        {"doomed": doomed, "deleted": deleted, "begun": set[str]()}[what].add(trace_id)
    reader = SpanStore(store)
    ids = reader.trace_ids()
    assert len(ids) == len(set(ids))
    assert not deleted & set(ids), "what was deleted stays deleted"
    there = set(ids)
    assert set(before) - there <= doomed
    assert contents(store, sorted(set(before) & there)) == {key: before[key] for key in sorted(set(before) & there)}
    count = sum(len(before[trace_id][-2]) for trace_id in set(before) & there)
    said = acknowledged(answers)
    assert set(said) - there <= doomed
    for trace_id, row in rows(store, sorted(set(said) & there)).items():
        assert row.complete
        assert [step.step for step in row.steps] == list(range(1, len(row.steps) + 1)), "each step once"
        for number, text in said[trace_id].items():
            step = row.step(number)
            assert step is not None
            assert step.answered
            assert text.encode() in step.body()
            assert row.request_body(step)
            count += 1
    return count


KINDS = {
    "record": [recording],
    "seal": [sealing_],
    "compact": [compacting],
    "delete": [deleting],
    "all": [recording, recording, sealing_, compacting, deleting],
}


@pytest.mark.parametrize("works", KINDS.values(), ids=KINDS)
def test_killed_at_random_moments(store: Path, tmp_path: Path, works: list[Callable[[Path, Path, int], None]]) -> None:
    kills = int(os.environ.get("KILLS", "10")) // len(KINDS)
    dice = random.Random(f"{kills} {len(works)} {works[0].__name__}")
    done = answers = rounds = 0
    while done < kills:
        if rounds % 5 == 0:
            shutil.rmtree(store, ignore_errors=True)
            known: dict[str, Any] = {}
            for path in tmp_path.glob("*.said"):
                path.unlink()
        rounds += 1
        said = {work: tmp_path / f"{work.__name__}.said" for work in (recording, sealing_, compacting, deleting)}
        # Something to work on: journals that wait, and small files.
        before = record(store, 4, seed=dice.randrange(10**9))
        if works != [recording] and works != [sealing_]:
            seal(store)
            before += record(store, 2, seed=dice.randrange(10**9))
            seal(store)
        known |= contents(store, before)
        kill(store, [(work, said[work]) for work in works], dice)
        done += len(works)
        answers += survivors(store, said[recording], said[deleting], known)
        report = look(store)
        assert report.problems == []
        found = layout.create(store)
        with sealing.upkeep(found):
            sealing.seal(found, grace=0)
            upkeep.compact(found)
        assert survivors(store, said[recording], said[deleting], known) >= 0
        if rounds % 3 == 0:
            assert mend(store).problems == []
        assert not list(store.glob("journal/*.jsonl")), "what was interrupted is finished"
    print(f"\n{done} kills in {rounds} rounds; {answers} answers had been given, each is there, once")


# -- at each step -----------------------------------------------------------------------------------------------------------

_STEPS = [
    (tables.Table, "append"),
    (tables.Table, "delete"),
    (tables.Table, "compact"),
    (tables.Table, "vacuum"),
    (tables, "make_private"),
    (os, "utime"),
    (Path, "unlink"),
]
"""What changes a store: a process is killed before and after each call of one of these."""


def seal_all(found: layout.Layout) -> None:
    sealing.seal(found, grace=0)


def compact_all(found: layout.Layout) -> None:
    upkeep.compact(found)
    upkeep.vacuum(found)


def delete_first(found: layout.Layout) -> None:
    upkeep.delete(found, [SpanStore(found.root).trace_ids()[-1]])


def killed_at(store: Path, work: Callable[[layout.Layout], None], moment: int) -> None:
    """Do some work; die at the so-many-th moment."""
    moments = itertools.count()

    def step() -> None:
        if next(moments) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            step()
            result = original(*arguments, **named)
            step()
            return result

        return wrapped

    sealing._BATCH = 1  # type: ignore[misc]  # a commit each
    for owner, name in _STEPS:
        setattr(owner, name, around(getattr(owner, name)))
    found = layout.create(store)
    with sealing.upkeep(found):
        work(found)


def moments(store: Path, work: Callable[[layout.Layout], None], stride: int) -> Iterator[int]:
    """Kill the work at every moment there is (or every so-many-th), each time in the store as it was at first."""
    original = store.with_name("original")
    store.rename(original)
    for moment in itertools.count(0, stride):
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(original, store, copy_function=shutil.copy2)
        process = _processes.Process(target=killed_at, args=(store, work, moment))
        process.start()
        process.join()
        if process.exitcode == 0:
            return
        assert process.exitcode == -signal.SIGKILL
        yield moment


@pytest.mark.parametrize("work", [seal_all, compact_all, delete_first])
def test_killed_at_every_step(store: Path, work: Callable[[layout.Layout], None]) -> None:
    """After `parts` and before `spans`, before the journal goes, between two deletions, …"""
    ids = record(store, 2, 2)
    if work is not seal_all:
        seal(store)
        ids += record(store, 1, 2, seed=2)
        seal(store)
    before = contents(store, ids)
    stride = 1 if "KILLS" in os.environ else 4
    count = 0
    for moment in moments(store, work, stride):
        count += 1
        there = SpanStore(store).trace_ids()
        assert set(ids) - set(there) <= ({ids[0]} if work is delete_first else set()), moment
        assert contents(store, there) == {trace_id: before[trace_id] for trace_id in there}, moment
        assert look(store).problems == [], moment
        found = layout.create(store)
        if moment // stride % 2:
            mend(store)  # whoever comes first: another process with the same job, or a repair
        with sealing.upkeep(found):
            if work is not delete_first:
                work(found)
            elif set(there) == set(ids):
                upkeep.delete(found, ids[:1])
            sealing.seal(found, grace=0)
        left = [trace_id for trace_id in ids if trace_id != ids[0]] if work is delete_first else ids
        assert sorted(SpanStore(store).trace_ids()) == sorted(left), moment
        assert contents(store, left) == {trace_id: before[trace_id] for trace_id in left}, moment
        assert not list(store.glob("journal/*.jsonl"))
    assert count >= 12 // stride
    print(f"\nkilled at {count} moments of {work.__name__}")

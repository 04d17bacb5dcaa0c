"""Eight processes record at once, two read, one compacts: `python -m benchmarks.concurrent [--seconds 60]`.

Every answer that a program got is acknowledged in a file beside the store, after the program got it. So a picture of
the store has to hold what was acknowledged before it was taken, and once; at the end every trace must hold just that,
byte for byte. What is said follows from writer, run and step alone, so that every process knows it.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

import escapement
from escapement.store import layout, sealing, summaries, upkeep
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore

WRITERS, READERS = 8, 2
_RATIO = 1.5
_PAUSE = 0.01  # what the model takes: without it, the processes would only measure how two cores are shared by twelve
_API = "https://api.openai.com"
_RECORDED, _PLAIN = f"{_API}/v1/chat/completions", f"{_API}/v1/elsewhere"
_HEADERS = {"content-type": "application/json", "x-request-id": "req_0123456789"}

# -- what is said ----------------------------------------------------------------------------------------------------


class Conversation:
    """What a run of a writer asks and is answered, step by step."""

    def __init__(self, writer: int, run: int) -> None:
        self._random = random.Random(writer * 1_000_003 + run)
        self.length = 20 + (writer * 29 + run * 37) % 81
        self._name = f"{writer}.{run}"
        self._messages: list[str] = []

    def step(self, number: int) -> tuple[bytes, bytes]:
        """The next request and its answer; steps count from 1."""
        question, answer = self._text(f"Question {number} of {self._name}"), self._text(f"Answer {number}")
        self._messages.append(json.dumps({"role": "user", "content": question}))
        asked = f'{{"model":"gpt-4o","messages":[{",".join(self._messages)}]}}'
        said = {"role": "assistant", "content": answer}
        self._messages.append(json.dumps(said))
        answered = {
            "id": f"chatcmpl-{self._name}-{number}",
            "object": "chat.completion",
            "created": 1795000000,
            "model": "gpt-4o",
            "choices": [{"index": 0, "finish_reason": "stop", "message": said}],
            "usage": {"prompt_tokens": number, "completion_tokens": 1, "total_tokens": number + 1},
        }
        return asked.encode(), json.dumps(answered).encode()

    def _text(self, start: str) -> str:
        return f"{start}: " + " ".join(f"{self._random.getrandbits(20):x}" for _ in range(100))


# -- acknowledgements ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Run:
    """A run of a writer, as far as it was acknowledged."""

    writer: int
    number: int
    steps: int = 0
    done: bool = False


class Acknowledged:
    """What the writers have been answered so far: runs by trace id. Each writer appends lines to a file of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.runs: dict[str, Run] = {}

    def look(self) -> dict[str, Run]:
        for path in sorted(self._folder.glob("*.acks")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.decode().splitlines():
                trace_id, run, word = line.split()
                seen = self.runs.setdefault(trace_id, Run(int(path.stem), int(run)))
                if word == "done":
                    seen.done = True
                else:
                    seen.steps = int(word)
        return self.runs


def compare(row: TraceRow, run: Run) -> None:
    """Raise unless a trace holds what its writer was answered: of a run that is done that and no more."""
    ended = [step for step in row.steps if step.end is not None]
    numbers = [step.step for step in ended]
    assert numbers == list(range(1, len(numbers) + 1)), f"{row.trace_id}: steps {numbers}"
    assert len(numbers) >= run.steps, f"{row.trace_id}: {len(numbers)} steps where {run.steps} were acknowledged"
    assert row.complete, f"{row.trace_id}: lost {row.lost}, damaged {row.damaged}"
    if run.done:
        assert (row.status, len(row.steps)) == ("completed", run.steps), f"{row.trace_id}: {row.status}, {run}"
    conversation = Conversation(run.writer, run.number)
    for step in ended:
        expected = conversation.step(step.step)
        assert (row.request_body(step), step.body()) == expected, f"{row.trace_id} step {step.step} is another"


# -- the processes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where it happens: the store, and the notes that the processes leave."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def stop(self) -> Path:
        return self.folder / "stop"

    @property
    def stopped(self) -> bool:
        return self.stop.exists()

    def note(self, name: str, found: dict[str, Any]) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(found))

    def notes(self, start: str) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob(f"{start}*.json"))]


def write(place: Place, writer: int) -> None:
    """Record run after run. Each step is followed by the same call to an address that is nobody's model: the machine's
    own part of what a call costs."""
    answer = b""
    client = httpx2.Client(
        transport=httpx2.MockTransport(lambda request: httpx2.Response(200, headers=_HEADERS, content=answer))
    )
    acks = os.open(place.folder / f"{writer}.acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    steps, recorded, plain = 0, 0.0, 0.0

    def timed(url: str, body: bytes) -> float:
        began = time.process_time()
        got = client.post(url, content=body).content
        spent = time.process_time() - began
        assert got == answer
        return spent

    run = 0
    while not place.stopped:
        run += 1
        conversation = Conversation(writer, run)
        sealed_by = ("manual", "background")[writer % 2]
        with escapement.init(f"writer {writer}", storage_dir=place.store, sealing=sealed_by) as trace:
            for number in range(1, conversation.length + 1):
                body, answer = conversation.step(number)
                time.sleep(_PAUSE)
                both = timed(_RECORDED, body), timed(_PLAIN, body)
                os.write(acks, f"{trace.trace_id} {run} {number}\n".encode())
                if run > 1:  # in the first one, everything is new
                    steps, recorded, plain = steps + 1, recorded + both[0], plain + both[1]
        os.write(acks, f"{trace.trace_id} {run} done\n".encode())
    place.note(f"writer-{writer}", {"steps": steps, "recorded": recorded, "plain": plain})


def read(place: Place, reader: int) -> None:
    """Look at the store in every way, again and again: the one reader through one store, the other always a new one."""
    warnings.simplefilter("error")  # damage would only be warned of, and there is none
    acknowledged, chance, kept = Acknowledged(place.folder), random.Random(reader), SpanStore(place.store)
    looks, compared, worst, errors = 0, 0, 0.0, []
    while not place.stopped:
        way = (_count, _page, _stats)[looks % 3]
        runs = acknowledged.look()
        began = time.perf_counter()
        try:
            store = SpanStore(place.store) if reader else kept
            way(store, runs)
            if runs:
                trace_id = chance.choice(list(runs))
                compare(store.load(trace_id), runs[trace_id])
                compared += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            errors.append(f"{way.__name__}: {type(error).__name__}: {error} ({where.filename}:{where.lineno})")
        worst = max(worst, time.perf_counter() - began)
        looks += 1
        time.sleep(0.05)
    place.note(f"reader-{reader}", {"looks": looks, "compared": compared, "worst": worst, "errors": errors})


def _count(store: SpanStore, runs: dict[str, Run]) -> None:
    """Every step that was acknowledged is there, and none twice."""
    found = store.sql(
        "SELECT trace_id, count(*), count(DISTINCT step) FROM spans "
        "WHERE kind = 'step' AND end_time IS NOT NULL GROUP BY trace_id"
    ).rows
    counted = {trace_id: count for trace_id, count, _ in found}
    twice = [row for row in found if row[1] != row[2]]
    lost = {key: (counted.get(key, 0), run) for key, run in runs.items() if counted.get(key, 0) < run.steps}
    assert not twice, f"twice: {twice}"
    assert not lost, f"lost: {lost}"


def _page(store: SpanStore, runs: dict[str, Run]) -> None:
    """The list shows every trace once, with its steps."""
    shown = summaries.page(store, limit=50)
    assert len({one.trace_id for one in shown}) == len(shown), "a trace is listed twice"
    wrong = [one for one in shown if one.trace_id in runs and one.calls < runs[one.trace_id].steps]
    assert not wrong, f"lost: {wrong}"


def _stats(store: SpanStore, runs: dict[str, Run]) -> None:
    """The sums cannot be less than what was acknowledged."""
    calls, tokens = totals(runs)
    found = summaries.stats(store)
    assert not runs or (found[0].calls >= calls and found[0].input_tokens >= tokens), f"{found} for {calls}, {tokens}"


def totals(runs: dict[str, Run]) -> tuple[int, int]:
    """Calls and input tokens of all runs: each step says its number."""
    return sum(run.steps for run in runs.values()), sum(run.steps * (run.steps + 1) // 2 for run in runs.values())


def compact(place: Place) -> None:
    """Seal, merge, and take away what nothing needs, at once: a reader may be looking at it."""
    rounds, sealed, merged, errors = 0, 0, 0, []
    while not place.stopped:
        try:
            store = layout.create(place.store)
            with sealing.upkeep(store):
                done = upkeep.compact(store)
                upkeep.vacuum(store)
            sealed += done.sealed.journals
            merged += sum(before for before, _ in done.merged.values())
            errors += [f"{name}: {why}" for name, why in done.sealed.failed.items()]
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        rounds += 1
        time.sleep(0.3)
    place.note("compactor", {"rounds": rounds, "sealed": sealed, "merged": merged, "errors": errors})


# -- all of it -------------------------------------------------------------------------------------------------------


def together(place: Place, seconds: float, *, alone: bool) -> list[str]:
    """Let the processes run for so long; what went wrong with them."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write, args=(place, writer)) for writer in range(1 if alone else WRITERS)]
    if not alone:
        processes += [context.Process(target=read, args=(place, reader)) for reader in range(READERS)]
        processes.append(context.Process(target=compact, args=(place,)))
    for process in processes:
        process.start()
    writing, deadline = Acknowledged(place.folder), time.monotonic() + 300
    while sum(run.done for run in writing.look().values()) < (1 if alone else WRITERS) and time.monotonic() < deadline:
        time.sleep(0.1)  # starting is not counted, nor is anybody's first run
    time.sleep(seconds)
    place.stop.touch()
    for process in processes:
        process.join(timeout=300)
    failed = [f"{process.name} ended with {process.exitcode}" for process in processes if process.exitcode != 0]
    for process in processes:
        process.kill()  # one that hangs: it "ended with None"
    return failed


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of a call in microseconds, on average over all writers."""

    steps: int
    recorded: float
    plain: float

    @classmethod
    def of(cls, place: Place) -> Cost:
        notes = place.notes("writer-")
        steps = sum(note["steps"] for note in notes)
        recorded, plain = (sum(note[name] for note in notes) / max(1, steps) * 1e6 for name in ("recorded", "plain"))
        return cls(steps, recorded, plain)

    @property
    def write(self) -> float:
        """What recording adds to a call."""
        return self.recorded - self.plain


def settle(place: Place, runs: dict[str, Run]) -> list[str]:
    """Seal everything, and hold each trace against what was acknowledged, byte for byte."""
    store = layout.open_existing(place.store)
    with sealing.upkeep(store):
        failed = sealing.seal(store, grace=0).failed
    wrong = [f"not sealed: {name}: {why}" for name, why in failed.items()]
    wrong += [f"left behind: {path.name}" for _, path in sealing.journals(store)]
    reader = SpanStore(place.store)
    listed = reader.trace_ids()
    if len(listed) != len(set(listed)) or set(listed) != set(runs):
        wrong.append(f"{len(listed)} traces are listed, {len(runs)} were recorded: {set(listed) ^ set(runs)}")
    figures = summaries.stats(reader)[0]
    if (figures.calls, figures.input_tokens) != totals(runs):
        wrong.append(f"stats: {figures} where {totals(runs)} was acknowledged")
    for trace_id, run in runs.items():
        try:
            compare(reader.load(trace_id), run)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="escapement-concurrent-", ignore_cleanup_errors=True) as folder:
        single, crowd = Place(Path(folder, "alone")), Place(Path(folder, "crowd"))
        for place in (single, crowd):
            place.folder.mkdir()
        wrong = together(single, max(5, seconds / 6), alone=True)
        alone = Cost.of(single)
        wrong += together(crowd, seconds, alone=False)
        crowded = Cost.of(crowd)
        runs = Acknowledged(crowd.folder).look()
        began = time.perf_counter()
        wrong += settle(crowd, runs)
        settling = time.perf_counter() - began
        readers, compactors = crowd.notes("reader-"), crowd.notes("compactor")
    wrong += [f"reader: {error}" for note in readers for error in note["errors"]]
    wrong += [f"compactor: {error}" for note in compactors for error in note["errors"]]
    seen = [crowded.steps, *(note["compared"] for note in readers), *(note["merged"] for note in compactors)]
    if len(seen) != 1 + READERS + 1 or not all(seen):
        wrong.append(f"too little happened to say anything: {seen}")

    console = Console(width=110, soft_wrap=True)
    console.print(f"{WRITERS} writers for {seconds:.0f} s: {len(runs):,} runs, {totals(runs)[0]:,} steps acknowledged")
    for note in readers:
        console.print(
            f"  a reader looked {note['looks']:,} times, compared {note['compared']:,} traces byte for byte, "
            f"waited {note['worst']:.1f} s at most: {len(note['errors'])} errors"
        )
    for note in compactors:
        console.print(
            f"  the compactor went round {note['rounds']:,} times, sealed {note['sealed']:,} journals, "
            f"merged {note['merged']:,} files: {len(note['errors'])} errors"
        )
    console.print(f"  at the end all were sealed and held against what was acknowledged, in {settling:.0f} s")
    table = Table(title="CPU time of a call, µs", title_justify="left")
    for title in ("", "steps", "plain", "recorded", "the write"):
        table.add_column(title, justify="right" if title else "left")
    for name, cost in (("one process alone", alone), (f"{WRITERS} at once, and the rest", crowded)):
        figures = (cost.plain, cost.recorded, cost.write)
        table.add_row(name, f"{cost.steps:,}", *(f"{figure:.0f}" for figure in figures))
    console.print(table)
    ratio = crowded.write / alone.write if crowded.steps else math.inf
    verdict = "ok" if ratio <= _RATIO else "MISSED"  # a busy machine is no defect: times are for people to judge
    console.print(
        f"the write, at once / alone: {ratio:.2f} (bar {_RATIO:.2f}) {verdict}; "
        f"the plain call: {crowded.plain / alone.plain:.2f}"
    )
    for what in wrong[:20]:
        console.print(f"MISSED {what}", markup=False)
    console.print(f"{len(wrong)} things went wrong" if wrong else "nothing lost, nothing twice, no reader error")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

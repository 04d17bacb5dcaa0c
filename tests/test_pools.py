"""Pools of processes that are older than a run, or are still there when it is over: each job belongs to its own run."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

import openai
import pytest

import escapement
from escapement.store.traces import SpanStore
from tests.conftest import ask
from tests.provider import Provider

MODEL = """
import openai

def ask(url, number):
    with openai.OpenAI(api_key="k", base_url=url + "/v1", max_retries=0) as client:
        asked = [{"role": "user", "content": "the same"}]
        return [client.chat.completions.create(model="gpt-4o", messages=asked).id for _ in range(2)]
"""

# Says how each part of it went: what the model answered, and the trace.
PROGRAM = """
import concurrent.futures, json, multiprocessing, sys

import joblib

import escapement
from model import ask

JOBS = 4
kind, method, when, url = sys.argv[1:]

class Submit:
    def __init__(self):
        self.pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))
    def __call__(self):
        return [job.result() for job in [self.pool.submit(ask, url, number) for number in range(JOBS)]]

class Executor(Submit):
    def __call__(self):
        return list(self.pool.map(ask, [url] * JOBS, range(JOBS)))

class Pool:
    def __init__(self):
        make = multiprocessing.get_context(method).Pool if method != "threads" else multiprocessing.pool.ThreadPool
        self.pool = make(2)
    def __call__(self):
        return self.pool.starmap(ask, [(url, number) for number in range(JOBS)], chunksize=1)

class Apply(Pool):
    def __call__(self):
        return [job.get() for job in [self.pool.apply_async(ask, (url, number)) for number in range(JOBS)]]

class Loky:
    def __init__(self):
        self.pool = joblib.Parallel(n_jobs=2, batch_size=1)
    def __call__(self):
        return self.pool(joblib.delayed(ask)(url, number) for number in range(JOBS))

def told(run, program):
    answers = program()
    escapement.stop()
    return [run.trace_id, answers]

def main():
    Kind = {"submit": Submit, "executor": Executor, "pool": Pool, "apply": Apply, "loky": Loky}[kind]
    parts = []
    if when == "before":
        program = Kind()
        parts.append([None, program()])
    run = escapement.init(loop_detection_enabled=False)
    if when == "within":
        program = Kind()
    parts.append(told(run, program))
    first = run.trace_id
    parts.append([None, program()])
    parts.append(told(escapement.replay(first, strict_replay=True, loop_detection_enabled=False), program))
    parts.append([None, program()])
    with escapement.init(loop_detection_enabled=False) as run:
        parts.append([run.trace_id, program()])
    with escapement.replay(run.trace_id, strict_replay=True, loop_detection_enabled=False):
        parts.append([run.trace_id, program()])
    with escapement.replay(first, strict_replay=True, loop_detection_enabled=False):
        parts.append([first, program()])
    print(json.dumps(parts))

if __name__ == "__main__":
    main()
"""


def run(folder: Path, program: str, *arguments: str) -> str:
    """What a program that has `model` beside it prints."""
    (folder / "model.py").write_text(MODEL)
    (folder / "program.py").write_text(program)
    ran = subprocess.run(
        [sys.executable, "program.py", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONWARNINGS": "ignore::DeprecationWarning"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("when", ["before", "within"])
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("submit", "fork"),
        ("executor", "spawn"),
        ("executor", "forkserver"),
        ("pool", "fork"),
        ("pool", "spawn"),
        ("pool", "threads"),
        ("apply", "fork"),
        ("apply", "threads"),
        ("loky", "loky"),
    ],
)
def test_a_job_belongs_to_the_run_that_it_was_given_in(kind: str, method: str, when: str, tmp_path: Path) -> None:
    with Provider() as provider:
        out = run(tmp_path, PROGRAM, kind, method, when, provider.base_url)
        asked = provider.count
    *early, (first, recorded), outside, replayed, outside_again, (second, new), renewed, again = json.loads(out)
    assert [trace for trace, _ in (*early, outside, outside_again)] == [None] * (len(early) + 2)
    live = [answers for _, answers in (*early, outside, outside_again)] + [recorded, new]
    ids = {answer for answers in live for pair in answers for answer in pair}
    assert len(ids) == 8 * len(live) == asked
    assert replayed == again == [first, recorded]
    assert renewed == [second, new]
    store = SpanStore(tmp_path / ".escapement")
    for trace, answers in ((first, recorded), (second, new)):
        kept = [json.loads(step.body())["id"] for step in store.load(trace).steps]
        assert sorted(kept) == sorted(answer for pair in answers for answer in pair)


IDLE = """
import json, multiprocessing, sys

import escapement
from model import ask

def begin(barrier, url):
    ask(url, 0)
    barrier.wait(60)

if __name__ == "__main__":
    method, url = sys.argv[1:]
    context = multiprocessing.get_context(method)
    barrier = context.Barrier(3)
    with escapement.init() as run:
        pool = context.Pool(2, begin, (barrier, url))
        barrier.wait(60)
    pool.starmap(ask, [(url, number) for number in range(4)], chunksize=1)
    print(run.trace_id)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_begin_in_their_run_and_do_not_stay_in_it(method: str, tmp_path: Path) -> None:
    """The initializer belongs to the run; a job given when it is over does not, whether a worker had one before or not."""
    with Provider() as provider:
        out = run(tmp_path, IDLE, method, provider.base_url)
        assert provider.count == 12
    assert len(SpanStore(tmp_path / ".escapement").load(out.strip()).steps) == 4


def test_edits_reach_no_pool_of_processes(client: openai.OpenAI, provider: Provider) -> None:
    """The mistake is told where it is made; a pool whose own thread met it would never come back."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool, concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        with escapement.init() as trace:
            ask(client, "one")
        with escapement.replay(trace.trace_id, edits={1: "another answer"}):
            for give in (pool.map, pool.imap, pool.imap_unordered, executor.map):
                with pytest.raises(escapement.ConfigError, match="edits reach no other process"):
                    list(give(len, [[], []]))
            for submit in (lambda: pool.apply_async(len, ([],)), lambda: executor.submit(len, [])):
                with pytest.raises(escapement.ConfigError, match="edits reach no other process"):
                    submit()
            with ThreadPool(1) as threads:
                assert threads.map(lambda text: ask(client, text), ["one"]) == ["another answer"]
        assert pool.map(len, [[], [1]]) == list(executor.map(len, [[], [1]])) == [0, 1]
    assert provider.count == 1

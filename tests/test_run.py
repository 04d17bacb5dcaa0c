"""`escapement run`, `replay` and `fork`: programs that know nothing of Escapement, run as they are."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from escapement.cli.command import HOOK
from escapement.store.rows import TraceRow
from escapement.store.summaries import page
from escapement.store.traces import SpanStore
from tests import conventions
from tests.provider import Provider

ASK = """
import os, sys, time
import openai

client = openai.OpenAI(api_key="sk-test-0123456789abcdefghij", base_url=os.environ["PROVIDER"] + "/v1")

def ask(text, model="gpt-4o"):
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return repr(answer.choices[0].message.content)

"""


BY_HAND = """
import json, os, sys, time, urllib.request

def ask(text, model="gpt-4o"):
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
    url = os.environ["PROVIDER"] + "/v1/chat/completions"
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return repr(json.load(answer)["choices"][0]["message"]["content"])

"""
"""Without an SDK, which takes a second to import: for what is about many processes, and not about SDKs."""


@dataclass
class Shell:
    """Runs `escapement` in a directory that has `agent.py`."""

    provider: Provider
    store: Path

    def agent(self, program: str, *, sdk: bool = True) -> None:
        Path("agent.py").write_text((ASK if sdk else BY_HAND) + textwrap.dedent(program))

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PROVIDER": self.provider.base_url} | variables
        return subprocess.Popen(
            [sys.executable, "-m", "escapement", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **variables) as process:
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def trace(self) -> TraceRow:
        """The newest one."""
        store = SpanStore(self.store)
        return store.load(store.resolve("@last"))


PYTHON = [sys.executable, "agent.py"]


@pytest.fixture
def shell(provider: Provider, store: Path) -> Iterator[Shell]:
    """What the processes write keeps to the GenAI conventions, as what tests write by themselves does."""
    yield Shell(provider, store)
    reader = SpanStore(store)
    steps = [step for summary in page(reader) for step in reader.load(summary.trace_id).steps]
    assert [complaint for step in steps for complaint in conventions.of_call(step.name, step.attributes)] == []


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.rstrip().rpartition("\n")[2]


# -- one process ------------------------------------------------------------------------------------------------------


def test_a_program_is_recorded_replayed_and_forked(shell: Shell, provider: Provider) -> None:
    shell.agent("for number in range(4): print(ask(f'question {number}'))")
    recorded = shell("run", "--tag", "nightly", "--", *PYTHON)
    assert (recorded.returncode, provider.count) == (0, 4)
    row = shell.trace()
    assert (row.name, row.tags, row.status, row.complete) == ("agent.py", ("nightly",), "completed", True)
    assert [(step.step, step.lane) for step in row.steps] == [(1, "main"), (2, "main"), (3, "main"), (4, "main")]
    assert last_line(recorded).startswith(f"escapement: {row.trace_id} agent.py · completed · 4 steps · ")

    replayed = shell("replay", row.trace_id, "--strict", "--", *PYTHON)
    assert (replayed.returncode, replayed.stdout, provider.count) == (0, recorded.stdout, 4)
    assert replayed.stderr == f"escapement: {row.trace_id} agent.py · replayed 4 of 4 steps\n"
    assert len(list(SpanStore(shell.store).traces())) == 1

    forked = shell("fork", row.trace_id, "--at", "3", "--", *PYTHON)
    new = shell.trace()
    asked = [re.findall(r"question \d", request.body.decode()) or request.path for request in provider.requests]
    assert (forked.returncode, asked[4:]) == (0, [["question 2"], ["question 3"]]), forked.stderr
    assert forked.stdout.splitlines()[:2] == recorded.stdout.splitlines()[:2]
    assert set(forked.stdout.splitlines()[2:]).isdisjoint(recorded.stdout.splitlines())
    assert (new.parent, new.mode, new.status, [step.step for step in new.steps]) == (
        row.trace_id,
        "fork",
        "completed",
        [1, 2, 3, 4],
    )
    assert f"{new.trace_id} agent.py · completed · forked from {row.trace_id} · 2 served, 2 live" in forked.stderr

    provider.stop()
    again = shell("replay", new.trace_id, "--strict", "--", *PYTHON)
    assert (again.returncode, again.stdout) == (0, forked.stdout)


@pytest.mark.parametrize(
    ("program", "code", "status", "error"),
    [
        ("ask('a'); sys.exit(7)", 7, "failed", "the program ended with exit code 7"),
        ("ask('a'); raise RuntimeError('over')", 1, "failed", "RuntimeError: over"),
        ("ask('a'); os.kill(os.getpid(), 9)", 137, "interrupted", "the program was ended by SIGKILL"),
        ("ask('a'); os._exit(3)", 3, "failed", "the program ended with exit code 3"),
        ("ask('a')", 0, "completed", None),
    ],
)
def test_the_exit_code_is_passed_on(shell: Shell, program: str, code: int, status: str, error: str | None) -> None:
    shell.agent(program)
    assert shell("run", "--", *PYTHON).returncode == code
    row = shell.trace()
    assert (row.status, row.error, len(row.steps)) == (status, error, 1)
    replayed = shell("replay", "@last", "--", *PYTHON)
    assert (replayed.returncode, shell.provider.count) == (code, 1)


def test_what_cannot_be_run(shell: Shell) -> None:
    Path("text").write_text("no program")
    for command, code, said in (
        ("nowhere", 127, "escapement: nowhere: no such command\n"),
        ("./text", 126, "escapement: ./text: is not a program that can be run\n"),
    ):
        done = shell("run", "--", command)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", said)
    assert not shell.store.exists()
    assert shell("run").returncode == 2
    missing = shell("replay", "tr_000000000000", "--", *PYTHON)
    assert (missing.returncode, "tr_000000000000" in missing.stderr) == (5, True)


def test_signals_reach_the_program(shell: Shell) -> None:
    shell.agent(
        """
        import signal
        def end(number, frame):
            print(ask("last words"))
            sys.exit(5)
        signal.signal(signal.SIGTERM, end)
        print(ask("first"), flush=True)
        time.sleep(60)
        """
    )
    with shell.start("run", "--", *PYTHON) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 5
    row = shell.trace()
    assert (row.status, [step.step for step in row.steps]) == ("failed", [1, 2])

    shell.agent("print(ask('first'), flush=True); time.sleep(60)")
    with shell.start("run", "--", *PYTHON) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    row = shell.trace()
    assert (row.status, row.error) == ("interrupted", "the program was ended by SIGTERM")


def test_init_of_the_program_takes_part_in_the_run(shell: Shell) -> None:
    shell.agent(
        """
        import escapement
        with escapement.init("mine") as trace:
            ask("one")
        print(trace.trace_id, escapement.current() is trace)
        ask("two")
        second = escapement.init("mine, too")
        print(escapement.stop() is second is trace, escapement.stop())
        ask("three")
        """
    )
    done = shell("run", "--", *PYTHON)
    row = shell.trace()
    assert (done.returncode, len(row.steps), row.name) == (0, 3, "agent.py")
    assert done.stdout.splitlines() == [f"{row.trace_id} True", "True None"]
    replayed = shell("replay", "@last", "--strict", "--", *PYTHON)
    assert (replayed.returncode, replayed.stdout, shell.provider.count) == (0, done.stdout, 3)


def test_modules_and_console_scripts_are_programs_too(shell: Shell) -> None:
    Path("package").mkdir()
    Path("package/__init__.py").touch()
    Path("package/__main__.py").write_text(ASK + "print(ask(sys.argv[1]))")
    script = Path("tool")
    script.write_text(f"#!{sys.executable}\n{ASK}print(ask('from a script'))")
    script.chmod(0o700)
    for command, name in (([sys.executable, "-m", "package", "word"], "package"), (["./tool"], "tool")):
        recorded = shell("run", "--", *command)
        row = shell.trace()
        assert (recorded.returncode, row.name, len(row.steps)) == (0, name, 1)
        replayed = shell("replay", "@last", "--strict", "--", *command)
        assert (replayed.returncode, replayed.stdout) == (0, recorded.stdout)
    assert shell.provider.count == 2


def test_what_the_user_has_in_the_way_stays_as_it_is(shell: Shell) -> None:
    """PYTHONPATH, a sitecustomize, and that the hook's own folder is not to be seen."""
    Path("lib").mkdir()
    Path("lib/sitecustomize.py").write_text("import sys; sys.customized = True")
    Path("lib/mine.py").write_text("VALUE = 42")
    shell.agent("import mine; print(mine.VALUE, sys.customized, [p for p in sys.path if 'startup' in p], ask('x'))")
    paths = os.pathsep.join(path for path in ("lib", os.environ.get("PYTHONPATH", "")) if path)
    done = shell("run", "--", *PYTHON, PYTHONPATH=paths)
    assert done.stdout.startswith("42 True [] "), done.stderr
    assert len(shell.trace().steps) == 1


def test_a_guard_and_a_divergence_have_exit_codes_of_their_own(shell: Shell) -> None:
    shell.agent("while True: ask('again')")
    done = shell("run", "--", *PYTHON)
    row = shell.trace()
    assert (done.returncode, row.status, len(row.steps)) == (4, "killed", 9)
    assert "LoopDetectedError" in done.stderr

    shell.agent("ask('one'); ask(os.environ.get('TEXT', 'two'))")
    shell("run", "--", *PYTHON)
    count = shell.provider.count
    diverged = shell("replay", "@last", "--strict", "--", *PYTHON, TEXT="three")
    assert (diverged.returncode, shell.provider.count) == (3, count)
    assert "ReplayDivergenceError: [no_match]" in diverged.stderr
    assert last_line(diverged).endswith(" · replayed 1 of 2 steps · 1 request not in the trace")
    told = json.loads(last_line(shell("replay", "@last", "--strict", "--json", "--", *PYTHON, TEXT="three")))
    divergence = told.pop("divergence")
    assert told == {
        "trace": shell.trace().trace_id,
        "status": "failed",
        "exit_code": 3,
        "live": False,
        "steps": 2,
        "served": 1,
        "missed": 1,
    }
    assert (divergence["reason"], divergence["step"], divergence["field"]) == ("no_match", 2, "messages[0].content")
    assert (divergence["diff"]["recorded"], divergence["diff"]["requested"]) == ("two", "three")


def test_a_miss_goes_live_into_a_trace_of_its_own(shell: Shell) -> None:
    shell.agent("print(ask('one')); print(ask(os.environ.get('TEXT', 'two')))")
    recorded = shell("run", "--", *PYTHON)
    parent = shell.trace()
    done = shell("replay", "@last", "--", *PYTHON, TEXT="three")
    row = shell.trace()
    assert (done.returncode, row.parent, row.status, len(row.steps)) == (0, parent.trace_id, "completed", 2)
    assert done.stdout.splitlines()[0] == recorded.stdout.splitlines()[0]
    assert "it goes live" in done.stderr
    assert shell.provider.count == 3


def test_switched_off(shell: Shell) -> None:
    shell.agent("print(ask('one'))")
    done = shell("run", "--", *PYTHON, ESCAPEMENT_ENABLED="false")
    assert (done.returncode, shell.store.exists(), shell.provider.count) == (0, False, 1)
    assert "nothing was recorded" in done.stderr
    shell("run", "--", *PYTHON)
    refused = shell("replay", "@last", "--", *PYTHON, ESCAPEMENT_ENABLED="false")
    assert (refused.returncode, refused.stdout, shell.provider.count) == (1, "", 2)
    assert "switched off" in refused.stderr


@pytest.mark.parametrize("command", [["sh", "-c", "echo hello"], [sys.executable, "-I", "-c", "print('hello')"]])
def test_a_command_in_which_nothing_can_be_seen_is_told(shell: Shell, command: Sequence[str]) -> None:
    done = shell("run", "--", *command)
    assert (done.returncode, done.stdout, "no model call was seen" in done.stderr) == (0, "hello\n", True)
    replayed = shell("replay", "--strict", "@last", "--", *command)  # of no steps
    assert (replayed.returncode, "was NOT replayed" in replayed.stderr) == (0, True)


def test_a_strict_replay_in_which_nothing_can_be_seen_has_failed(shell: Shell) -> None:
    shell.agent("print(ask('one'))")
    shell("run", "--", *PYTHON)
    unseen = [sys.executable, "-I", "-c", "print('hello')"]
    codes = [shell("replay", *strict, "@last", "--", *unseen).returncode for strict in ([], ["--strict"])]
    assert codes == [0, 1]


def test_a_python_without_escapement_is_recorded_as_nothing_and_never_replayed(shell: Shell) -> None:
    bare = os.path.realpath(sys.executable)  # outside the virtual environment
    command = ["env", f"PYTHONPATH={HOOK}", bare, "-c", "print('hello')"]
    done = shell("run", "--", *command)
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "does not have Escapement" in done.stderr
    replayed = shell("replay", "@last", "--", *command)
    assert (replayed.returncode, replayed.stdout) == (1, "")
    assert "ended before it goes live" in replayed.stderr


# -- several processes ------------------------------------------------------------------------------------------------

# Every child asks the same, so that an answer in the wrong process shows.
CHILD = """
def child(number):
    return f"{number}: {ask('the same')} {ask('the same')}"

def tell(number, queue):
    queue.put(child(number))
"""

# Filled in with the start method.
PROCESSES = """
        import multiprocessing
        if __name__ == "__main__":
            context = multiprocessing.get_context("METHOD")
            queue = context.Queue()
            children = [context.Process(target=tell, args=(number, queue)) for number in range(3)]
            for one in children: one.start()
            answers = [queue.get() for one in children]
            for one in children: one.join()
            print(ask("parent"), *sorted(answers), sep="\\n")
        """

FAMILIES = {
    **{method: PROCESSES.replace("METHOD", method) for method in ("fork", "spawn", "forkserver")},
    "pool": """
        import multiprocessing
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(2) as pool:
                print(*pool.map(child, range(3)), pool.apply(child, (9,)), sep="\\n")
            print(ask("parent"))
        """,
    "executor": """
        import concurrent.futures, multiprocessing
        if __name__ == "__main__":
            context = multiprocessing.get_context("forkserver")
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                print(*pool.map(child, range(3)), pool.submit(child, 9).result(), sep="\\n")
            print(ask("parent"))
        """,
    "os.fork": """
        pipes = []
        for number in range(3):
            read, write = os.pipe()
            if os.fork() == 0:
                os.write(write, child(number).encode())
                os._exit(0)
            os.close(write)
            pipes.append(read)
        for read in pipes:
            with open(read) as pipe: print(pipe.read())
        for number in range(3): os.wait()
        print(ask("parent"))
        """,
    "subprocess": """
        import subprocess
        if len(sys.argv) > 1:
            print(child(sys.argv[1]))
        else:
            children = [
                subprocess.Popen([sys.executable, __file__, str(number)], stdout=subprocess.PIPE, text=True)
                for number in range(3)
            ]
            for one in children: print(one.communicate()[0])
            print(ask("parent"))
        """,
    "asyncio": """
        import asyncio
        async def main():
            async def start(number):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, __file__, str(number), stdout=asyncio.subprocess.PIPE)
                return (await process.communicate())[0].decode()
            print(*await asyncio.gather(*(start(number) for number in range(3))))
        if len(sys.argv) > 1:
            print(child(sys.argv[1]))
        else:
            asyncio.run(main())
            print(ask("parent"))
        """,
    "shell": """
        import subprocess
        if len(sys.argv) > 1:
            print(child(sys.argv[1]))
        else:
            print(ask("parent"))
            command = f"'{sys.executable}' '{__file__}' 1; '{sys.executable}' '{__file__}' 2"
            print(subprocess.run(command, shell=True, capture_output=True, text=True, env=dict(os.environ)).stdout)
        """,
    "exec": """
        if len(sys.argv) > 1:
            print(child(sys.argv[1]))
        else:
            print(ask("parent"), flush=True)
            os.execv(sys.executable, [sys.executable, __file__, "1"])
        """,
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_processes_that_a_program_starts_are_in_its_trace(shell: Shell, kind: str) -> None:
    shell.agent(CHILD + textwrap.dedent(FAMILIES[kind]), sdk=kind == "fork")
    recorded = shell("run", "--", *PYTHON)
    asked = shell.provider.count
    row = shell.trace()
    assert (recorded.returncode, row.status, row.complete, row.parent) == (0, "completed", True, None), recorded.stderr
    assert sorted(step.step for step in row.steps) == list(range(1, asked + 1))
    assert asked >= 3
    shell.provider.stop()
    for _ in range(3):
        replayed = shell("replay", row.trace_id, "--strict", "--", *PYTHON)
        assert (replayed.returncode, replayed.stdout) == (0, recorded.stdout), replayed.stderr
        assert last_line(replayed).endswith(f"replayed {asked} of {asked} steps")


def test_a_shell_script_that_starts_python_twice(shell: Shell) -> None:
    shell.agent("print(ask('the same'), ask('the same'))", sdk=False)
    Path("both.sh").write_text(f"'{sys.executable}' agent.py\n'{sys.executable}' agent.py\n")
    recorded = shell("run", "--", "sh", "both.sh")
    row = shell.trace()
    assert (row.name, len(row.steps), len({step.lane for step in row.steps})) == ("sh", 4, 2)
    shell.provider.stop()
    for _ in range(3):
        replayed = shell("replay", "@last", "--strict", "--", "sh", "both.sh")
        assert (replayed.returncode, replayed.stdout) == (0, recorded.stdout), replayed.stderr


def test_a_fork_of_a_program_with_processes_is_one_whole_trace(shell: Shell) -> None:
    shell.agent(CHILD + textwrap.dedent(FAMILIES["subprocess"]), sdk=False)
    recorded = shell("run", "--", *PYTHON)
    parent = shell.trace()
    assert (len(parent.steps), shell.provider.count) == (7, 7)
    forked = shell("fork", "@last", "--at", "7", "--", *PYTHON)
    row = shell.trace()
    assert (forked.returncode, row.parent, row.status) == (0, parent.trace_id, "completed"), forked.stderr
    assert (shell.provider.count, sorted(step.step for step in row.steps)) == (8, list(range(1, 8)))
    assert forked.stdout.splitlines()[:-1] == recorded.stdout.splitlines()[:-1]
    shell.provider.stop()
    again = shell("replay", row.trace_id, "--strict", "--", *PYTHON)
    assert (again.returncode, again.stdout) == (0, forked.stdout), again.stderr


def test_a_miss_in_a_child_goes_live_into_the_one_new_trace(shell: Shell) -> None:
    shell.agent(
        """
        import subprocess
        if len(sys.argv) > 1:
            print(ask(sys.argv[1]), ask(os.environ.get("TEXT", "usual")))
        else:
            for word in ("a", "b"):
                print(subprocess.run([sys.executable, __file__, word], capture_output=True, text=True).stdout)
            print(ask("parent"))
        """,
        sdk=False,
    )
    recorded = shell("run", "--", *PYTHON)
    parent = shell.trace()
    done = shell("replay", "@last", "--", *PYTHON, TEXT="unusual")
    row = shell.trace()
    assert (done.returncode, row.parent, row.status, len(row.steps)) == (0, parent.trace_id, "completed", 5)
    assert len(list(SpanStore(shell.store).traces())) == 2
    assert shell.provider.count == 5 + 2
    assert done.stdout.splitlines()[-1] == recorded.stdout.splitlines()[-1]
    shell.provider.stop()
    again = shell("replay", row.trace_id, "--strict", "--", *PYTHON, TEXT="unusual")
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr


def test_a_program_that_records_itself_takes_its_processes_along(shell: Shell) -> None:
    """Without the command line: `init()`, then processes of `multiprocessing`."""
    program = CHILD + textwrap.dedent(
        """
        import escapement, multiprocessing
        if __name__ == "__main__":
            mode, *trace = sys.argv[1:]
            if mode == "record":
                escapement.init("family")
            else:
                escapement.replay(*trace, strict_replay=True)
            with multiprocessing.get_context(os.environ["METHOD"]).Pool(2) as pool:
                print(*pool.map(child, range(3)), sep="\\n")
            print(ask("parent"))
        """
    )
    shell.agent(program)
    for method in ("fork", "spawn", "forkserver"):
        environment = os.environ | {"PROVIDER": shell.provider.base_url, "METHOD": method}
        before = shell.provider.count
        outputs = [
            subprocess.run([*PYTHON, *words], env=environment, capture_output=True, text=True, timeout=120, check=False)
            for words in (["record"], ["replay", "@last"])
        ]
        assert [done.returncode for done in outputs] == [0, 0], outputs[1].stderr
        assert (outputs[0].stdout, shell.provider.count - before) == (outputs[1].stdout, 7)
        row = shell.trace()
        assert (row.name, row.status, sorted(step.step for step in row.steps)) == (
            "family",
            "completed",
            list(range(1, 8)),
        )

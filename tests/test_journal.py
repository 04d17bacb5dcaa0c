"""The journal: cut anywhere, damaged, killed in the middle, on a full disk; nothing that was answered is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import escapement
from escapement.engine import runs  # before a test becomes somebody who may not read it
from escapement.store import journal
from escapement.store.layout import FORMAT
from escapement.store.traces import SpanStore
from tests.conftest import ask
from tests.program import arguments
from tests.provider import Provider

assert runs


def only_journal(store: Path) -> Path:
    (path,) = (store / "journal").glob("*.jsonl")
    return path


def test_nobody_else_can_read_a_store_and_git_does_not_see_it(client: openai.OpenAI, store: Path) -> None:
    with escapement.init():
        ask(client)
    modes = {
        path.relative_to(store.parent).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in [store, *store.rglob("*")]
    }
    name = only_journal(store).name
    assert modes == {
        ".escapement": 0o700,
        ".escapement/.gitignore": 0o600,
        ".escapement/journal": 0o700,
        f".escapement/journal/{name}": 0o600,
        ".escapement/store.json": 0o600,
        ".escapement/views.sql": 0o600,
    }
    assert (store / ".gitignore").read_text() == "*\n"


def test_an_answer_is_on_disk_before_the_program_has_it(client: openai.OpenAI, store: Path) -> None:
    with escapement.init() as trace:
        for number in range(1, 4):
            text = ask(client, f"number {number}")
            row = SpanStore(store).load(trace.trace_id)
            assert [step.answered for step in row.steps] == [True] * number
            assert text.encode() in row.steps[-1].body() or row.steps[-1].body()
            assert row.status == "running"


def test_a_journal_cut_anywhere_in_its_last_line(client: openai.OpenAI, store: Path, tmp_path: Path) -> None:
    with escapement.init() as trace:
        answers = [ask(client, f"number {number}") for number in range(3)]
    whole = only_journal(store).read_bytes()
    lines = whole.splitlines(keepends=True)
    assert lines[-1].startswith(b'{"record":"end"')
    spans = [number for number, line in enumerate(lines) if line.startswith(b'{"record":"span"')]
    assert len(spans) == 3
    # The last line is the answer of the third call, as a kill in the middle of its write would leave it.
    head, last = b"".join(lines[: spans[2]]), lines[spans[2]]
    cuts = {0, 1, len(last) // 2, len(last) - 2, len(last) - 1, *random.Random(7).sample(range(len(last)), 20)}
    for cut in sorted(cuts):
        only_journal(store).write_bytes(head + last[:cut])
        row = SpanStore(store).load(trace.trace_id)
        assert (row.status, row.damaged, [step.answered for step in row.steps]) == (
            "interrupted",
            0,
            [True, True, False],
        )
        with escapement.replay(trace.trace_id, strict_replay=True):
            assert [ask(client, f"number {number}") for number in range(2)] == answers[:2]
            with pytest.raises(escapement.ReplayDivergenceError) as raised:
                ask(client, "number 2")
        assert raised.value.reason == "unanswered"


def test_damage_in_the_middle_is_named_and_confined(client: openai.OpenAI, store: Path) -> None:
    with escapement.init() as trace:
        answers = [ask(client, f"number {number}") for number in range(3)]
    with escapement.init("other") as other:
        ask(client)
    path = next(store.glob(f"journal/{trace.trace_id}-*"))
    lines = path.read_bytes().splitlines(keepends=True)
    second = [number for number, line in enumerate(lines) if line.startswith(b'{"record":"span"')][1]
    lines[second] = lines[second][:40] + b"\x00\xff" + lines[second][42:]
    path.write_bytes(b"".join(lines))
    rows = {row.trace_id: row for row in SpanStore(store).traces()}
    assert (rows[trace.trace_id].damaged, rows[trace.trace_id].complete) == (1, False)
    assert (rows[other.trace_id].damaged, rows[other.trace_id].complete) == (0, True)
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert [ask(client, "number 0"), ask(client, "number 2")] == [answers[0], answers[2]]


@pytest.mark.parametrize(
    "line",
    [b"not json", b"[]", b'{"record": "start"}', b'{"record": "span"}', b'{"record": 7}', b'{"record":"served"}'],
)
def test_lines_of_any_shape_are_damage_not_a_crash(client: openai.OpenAI, store: Path, line: bytes) -> None:
    with escapement.init() as trace:
        ask(client)
    with only_journal(store).open("ab") as file:
        file.write(line + b"\n")
    row = SpanStore(store).load(trace.trace_id)
    assert (row.damaged, len(row.steps), row.status) == (1, 1, "completed")


def test_what_is_in_flight_is_shown(provider: Provider, store: Path) -> None:
    """A run that hangs in a call shows which one, while it hangs and after it was killed."""
    process = subprocess.Popen(arguments("escapement.init('hang'); ask('one'); ask('two', 'slow')", provider))
    try:
        rows = []
        for _ in range(200):
            rows = list(SpanStore(store).traces())
            if rows and len(rows[0].steps) == 2:
                break
            time.sleep(0.05)
        assert [(row.status, [step.answered for step in row.steps]) for row in rows] == [("running", [True, False])]
    finally:
        process.kill()
        process.wait()
    (row,) = SpanStore(store).traces()
    assert (row.status, [step.name for step in row.steps]) == ("interrupted", ["chat gpt-4o", "chat slow"])
    assert b'"two"' in row.request_body(row.steps[1])


def test_a_writers_lock_ends_with_it(store: Path, tmp_path: Path) -> None:
    with escapement.init():
        assert journal.has_writer(only_journal(store))
    assert not journal.has_writer(only_journal(store))


# -- kills ------------------------------------------------------------------------------------------------------------

_KILLED = """
import random
escapement.init("victim", loop_detection_enabled=False)
history = []
out = open(sys.argv[2], "a", buffering=1)
for number in range(10_000):
    history.append({"role": "user", "content": f"{number} " + "x" * random.randrange(2000)})
    stream = number % 3 == 0
    answer = client.chat.completions.create(model="gpt-4o", messages=history, stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    else:
        text = answer.choices[0].message.content
    out.write(repr((number, text)) + "\\n")      # the answer has reached the agent
    history.append({"role": "assistant", "content": text})
"""


def killed_at_a_random_moment(provider: Provider, folder: Path, moment: float) -> list[tuple[int, str]]:
    """Run the victim in `folder`, SIGKILL it; what its agent had got by then."""
    got = folder / "got"
    got.touch()
    process = subprocess.Popen([*arguments(_KILLED, provider), str(got)], cwd=folder, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 30
        while not got.stat().st_size and time.monotonic() < until and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moment)
    finally:
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    lines = got.read_text().split("\n")
    lines.pop()  # a last line without its end had not reached anything
    return [eval(line) for line in lines]  # our own repr


def check_victim(folder: Path, got: list[tuple[int, str]]) -> None:
    """Everything the agent got is in the trace, and a replay gives it again, without a provider."""
    (row,) = SpanStore(folder / ".escapement").traces()
    assert (row.status, row.damaged, row.lost) == ("interrupted", 0, 0)
    assert sum(step.answered for step in row.steps) - len(got) in (0, 1)
    history: list[dict[str, str]] = []
    with (
        openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1") as client,
        escapement.replay(
            row.trace_id, storage_dir=folder / ".escapement", strict_replay=True, loop_detection_enabled=False
        ),
    ):
        requests = [row.request_body(step) for step in row.steps]
        for number, text in got:
            import json

            history = json.loads(requests[number])["messages"]
            answer = client.chat.completions.create(model="gpt-4o", messages=history, stream=number % 3 == 0)
            if number % 3 == 0:
                again = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
            else:
                again = answer.choices[0].message.content
            assert again == text


def test_killed_at_random_moments(provider: Provider, tmp_path: Path) -> None:
    """A few kills in every test run; `make kill` does 200."""
    times = int(os.environ.get("KILLS", "6"))
    moments = random.Random(times)
    calls = 0
    for number in range(times):
        folder = tmp_path / str(number)
        folder.mkdir()
        got = killed_at_a_random_moment(provider, folder, moments.random() * 0.4)
        check_victim(folder, got)
        calls += len(got)
        shutil.rmtree(folder)
    print(f"\n{times} kills, {calls} answers had reached the agents, none was lost, all replay")
    assert calls > times


# -- stores that cannot be used -----------------------------------------------------------------------------------------


def test_a_store_of_a_newer_format_is_left_alone(client: openai.OpenAI, store: Path) -> None:
    with escapement.init():
        ask(client)
    (store / "store.json").write_text(f'{{"format": {FORMAT + 1}}}')
    for use in (lambda: escapement.init(), lambda: escapement.replay("@last"), lambda: SpanStore(store)):
        with pytest.raises(
            escapement.StoreError, match=f"format {FORMAT + 1}; this Escapement knows formats up to {FORMAT}"
        ):
            use()
    assert escapement.current() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "one"}', "{}"])
def test_a_damaged_marker_is_named(store: Path, text: str) -> None:
    with escapement.init():
        pass
    (store / "store.json").write_text(text)
    with pytest.raises(escapement.StoreError, match=r"store\.json is damaged: it should hold"):
        escapement.init()


def test_a_storage_dir_that_is_a_file(store: Path) -> None:
    store.write_text("hello")
    with pytest.raises(escapement.StoreError, match="is a file, not a span store"):
        escapement.init()
    assert store.read_text() == "hello"


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that the test may use without the rights of root (who may read and write anything)."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)


def test_a_directory_that_cannot_be_written(nobody: Path) -> None:
    (nobody / "store").mkdir(mode=0o500)
    with pytest.raises(escapement.StoreError, match="cannot be written: Permission denied.*ESCAPEMENT_STORAGE_DIR"):
        escapement.init(storage_dir=nobody / "store")


def test_a_directory_that_cannot_be_read(nobody: Path) -> None:
    (nobody / "store").mkdir(mode=0o000)
    with pytest.raises(escapement.StoreError, match="cannot be read: Permission denied.*ESCAPEMENT_STORAGE_DIR"):
        escapement.replay("@last", storage_dir=nobody / "store")
    with escapement.init(storage_dir=nobody / "other"):
        pass
    (nobody / "other" / "journal").chmod(0o000)
    with pytest.raises(escapement.StoreError, match="cannot be read: Permission denied"):
        list(SpanStore(nobody / "other").traces())
    (nobody / "other" / "journal").chmod(0o700)
    next((nobody / "other" / "journal").iterdir()).chmod(0o000)
    with pytest.raises(escapement.StoreError, match="jsonl cannot be read: Permission denied"):
        list(SpanStore(nobody / "other").traces())


def test_a_place_where_nothing_can_be_made() -> None:
    with pytest.raises(escapement.StoreError, match="ESCAPEMENT_STORAGE_DIR"):
        escapement.init(storage_dir="/proc/escapement")
    with pytest.raises(escapement.StoreError, match="ESCAPEMENT_STORAGE_DIR"):
        escapement.init(storage_dir="/dev/null/escapement")


def full(store: Path, room: int) -> str:
    """A program head that limits how large the journal may become: the write that would pass it fails, like a full disk."""
    return f"import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.RLIM_INFINITY))\n"


def test_a_disk_that_fills_up_does_not_stop_the_agent(provider: Provider, store: Path) -> None:
    program = """
escapement.init("crowded")
history = []
for number in range(12):
    history.append({"role": "user", "content": f"{number} " + "x" * 1500})
    if number == 8:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answer = client.chat.completions.create(model="gpt-4o", messages=history)
    history.append({"role": "assistant", "content": answer.choices[0].message.content})
print(escapement.stop().summary())
"""
    done = subprocess.run(
        arguments(full(store, 30_000) + program, provider), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert provider.count == 12, "the agent went on"
    assert done.stderr.count("is INCOMPLETE") == 1, "said once"
    assert "steps lost" in done.stdout or "step lost" in done.stdout
    (row,) = SpanStore(store).traces()
    assert (row.status, row.damaged, row.complete) == ("completed", 0, False)
    assert row.lost + sum(step.answered for step in row.steps) == 12
    for step in row.steps:
        if step.answered:
            assert row.request_body(step).startswith(b"{"), "what was kept can be rebuilt"
    assert row.steps[-1].step == 12, "there was room again at the end"


def test_a_store_that_vanishes_under_a_run(client: openai.OpenAI, store: Path) -> None:
    with escapement.init() as trace:
        ask(client, "one")
        shutil.rmtree(store)
        ask(client, "two")
    assert (trace.status, trace.steps) == ("completed", 2)

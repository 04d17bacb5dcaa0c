"""What cannot be recorded: said once for each kind, and refused by a strict replay."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import escapement
from escapement.words.errors import EscapementWarning, ReplayDivergenceError
from escapement_instrumentation.unreachable import model_program


def by_websockets() -> None:
    from websockets.sync.client import connect

    connect("ws://127.0.0.1:1/v1/realtime?model=gpt-realtime", proxy=None, sock=_pair())


def by_aiohttp() -> None:
    import aiohttp

    async def program() -> None:
        async with aiohttp.ClientSession() as session:
            await session.ws_connect("http://127.0.0.1:1/v1/realtime")

    asyncio.run(program())


def _pair() -> Any:
    import socket

    ours, theirs = socket.socketpair()
    theirs.close()
    return ours


def by_process() -> None:
    subprocess.run(["codex-that-is-not-installed/codex", "exec", "x"], check=False)


WAYS = {"websockets": by_websockets, "aiohttp": by_aiohttp, "process": by_process}


def tried(way: Callable[[], None]) -> None:
    try:
        way()
    except ReplayDivergenceError:
        raise
    except Exception:
        return  # nobody is there, which is not the point


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.filterwarnings("default::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_said_once_and_refused_in_strict_replay(name: str, store: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EscapementWarning)
        with escapement.init(storage_dir=store) as trace:
            tried(WAYS[name])
            tried(WAYS[name])
    told = [warning for warning in caught if issubclass(warning.category, EscapementWarning)]
    assert len(told) == 1
    assert "neither be recorded nor replayed" in str(told[0].message)
    with (
        escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store),
        pytest.raises(ReplayDivergenceError) as refused,
    ):
        tried(WAYS[name])
    assert refused.value.reason == "unreachable"
    tried(WAYS[name])  # no run: nothing is said


def test_other_programs_and_sockets_are_nobodys_business(store: Path) -> None:
    with warnings.catch_warnings(), escapement.init(storage_dir=store):
        warnings.simplefilter("error", EscapementWarning)
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        subprocess.run("true", shell=True, check=True)


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (["claude", "-p", "hi"], "claude"),
        (["/usr/local/bin/codex", "exec"], "codex"),
        ("ollama run llama3 hi", "ollama"),
        (["npx", "-y", "@google/gemini-cli@latest"], "gemini"),
        (["npx", "@openai/codex"], "codex"),
        (["node", "/x/node_modules/@anthropic-ai/claude-code/cli.js", "-p"], "claude"),
        (["sh", "-c", "llm 'a question'"], "llm"),
        (["env", "A=1", "gemini"], "gemini"),
        ([b"claude.exe"], "claude"),
        (["git", "commit", "-m", "claude"], ""),
        (["ls", "claude"], ""),
        (["python", "-m", "llm"], ""),
        ([], ""),
        (None, ""),
    ],
)
def test_which_programs_call_models(command: Any, program: str) -> None:
    assert model_program(command) == program

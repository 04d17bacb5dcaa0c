"""Record, stop the server, replay: what every test here does with its program."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

import escapement
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from tests.elsewhere.server import Server

Program = Callable[[str], Any]
Check = Callable[..., TraceRow]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def outcome(program: Program, url: str) -> Any:
    """What a program gets, be it an exception; without addresses in memory."""
    try:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(program(url)))
    except AssertionError:
        raise
    except Exception as error:
        causes, at = [], error.__cause__ or error.__context__
        while at is not None:
            causes.append(type(at))
            at = at.__cause__ or at.__context__
        return type(error), re.sub(r" at 0x[0-9a-f]+", "", str(error)), causes, getattr(error, "partial", None)


@pytest.fixture
def same(reader: SpanStore, store: Path) -> Check:
    """Records a program, replays it strictly with the server gone, and gives the recorded trace.

    `varies`: whether two live runs differ; None where chance decides. `url` is one that the server does not listen at.
    `tls` makes the server speak HTTPS. `without`: what is stopped with the server.
    """

    def check(
        program: Program,
        steps: int,
        *,
        url: str = "",
        varies: bool | None = True,
        tls: ssl.SSLContext | None = None,
        without: AbstractContextManager[object] | None = None,
    ) -> TraceRow:
        with without or nullcontext(), Server(tls) as server:
            with escapement.init(storage_dir=store) as trace:
                live = outcome(program, url or server.url)
            received = len(server.bodies)
            assert varies in (None, outcome(program, url or server.url) != live)
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
            again = outcome(program, url or server.url)
        assert again == live
        assert (trace.steps, replay.hits, replay.misses, replay.calls) == (steps, steps, 0, 0)
        assert received == (0 if url else steps)
        return reader.load(trace.trace_id)

    return check

"""Escapement: record what an AI agent did, and make it happen again.

    import escapement

    trace = escapement.init(name="support-agent")     # record from here on
    ...                                               # the agent, unchanged
    escapement.stop()

    escapement.replay(trace.trace_id)                 # same code, same answers; no network, no cost
    escapement.fork()                                 # from here on calls go live again

The floors, top to bottom; each imports only from those below it:

    faces    this module, `cli`, `demo`, `integrations`
    ports    `escapement_instrumentation` (how calls are seen), `escapement_exporters` (where spans go)
    engine   fingerprint, matching, calls, sessions, guards, divergence
    store    layout, journal, reading back
    words    errors, attribute names, settings, value types

Importing this module is cheap: the engine and OpenTelemetry are imported by the first verb that needs them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from escapement.engine.trace import Trace
from escapement.words.config import EscapementConfig, resolve
from escapement.words.errors import (
    BudgetExceededError,
    ConfigError,
    EscapementError,
    EscapementWarning,
    GuardError,
    LoopDetectedError,
    ReplayDivergenceError,
    StoreError,
    TraceImportError,
    TraceNotFoundError,
)

if TYPE_CHECKING:
    from escapement.engine.session import Session
    from escapement.providers.edits import Edit
    from escapement.providers.operation import ToolCall
    from escapement.store.store import Store

__all__ = [
    "BudgetExceededError",
    "ConfigError",
    "EscapementConfig",
    "EscapementError",
    "EscapementWarning",
    "GuardError",
    "LoopDetectedError",
    "ReplayDivergenceError",
    "StoreError",
    "ToolCall",
    "Trace",
    "TraceImportError",
    "TraceNotFoundError",
    "current",
    "fork",
    "init",
    "open_store",
    "replay",
    "stop",
]


def __getattr__(name: str) -> Any:
    if name == "ToolCall":  # not needed to record and replay, so it is not imported with the rest
        from escapement.providers.operation import ToolCall

        return ToolCall
    raise AttributeError(f"module 'escapement' has no attribute {name!r}")


def init(
    name: str | None = None,
    *,
    tags: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    config: EscapementConfig | None = None,
    **settings: Any,
) -> Trace:
    """Record every model call from here on, until `stop()`, the end of a `with` block, or the end of the program.

    In a program that `escapement run`, `replay` or `fork` started, it takes part in that run: it returns its trace,
    and `stop()` and the end of the block leave it as it is.
    `metadata` is any mapping of JSON values. `settings` are those of `EscapementConfig`, given directly.
    Raises ConfigError for a wrong setting or when a recording runs here already, StoreError when the span store cannot
    be written.
    """
    resolved = resolve(config, settings)
    name, tags, metadata = name or "", _tags(tags), _metadata(metadata)
    if not resolved.enabled:
        return Trace(None, name, tags, metadata)
    from escapement.engine import runs
    from escapement.engine.session import Session

    around = runs.current()
    if around is not None and around.member is not None:
        around.joined += 1
        return around.trace
    session = runs.start(lambda: Session(resolved, name=name, tags=tags, metadata=metadata), resolved.instrumentors)
    return session.trace


def replay(
    trace: str | os.PathLike[str] | Trace,
    *,
    until: int | str | None = None,
    edits: Mapping[int, Edit] | None = None,
    config: EscapementConfig | None = None,
    **settings: Any,
) -> Trace:
    """Answer every model call from a recorded trace, until `stop()` or the end of a `with` block.

    `trace` is an id, a unique prefix of one, `"@last"`, a Trace, or a file that `escapement export` wrote, which is
    replayed as it is, without a look into the store. A request that the trace does not know raises
    ReplayDivergenceError with `strict_replay=True`; otherwise it goes live with a warning, and what happens from then
    on becomes a trace of its own.
    With `until=N` steps 1 to N-1 are answered, and step N and what comes after it go live, into a trace of its own;
    N may be one more than the trace has steps, to go on behind its end. `until` also takes the name of a step, or of a
    tool, agent or chain around it (`"search"`, the second time `"search#2"`), `"error"` for the step that failed, and
    `"miss"` for the first request that the trace does not know.
    `edits` has other answers for some steps, by number: a text, a ToolCall, a list of them, the whole answer as a dict,
    or a function that is given the whole answer as a dict and returns one of these. What the program then asks for and
    the trace does not know goes live without a warning, unless `strict_replay` forbids it; the new trace keeps it all.
    Raises TraceNotFoundError, TraceImportError (for a file that holds no trace), ConfigError and StoreError.
    """
    resolved = resolve(config, settings)
    reference = trace.trace_id if isinstance(trace, Trace) else trace
    if not isinstance(reference, str | os.PathLike):
        raise ConfigError(f"replay takes the id of a trace, a Trace or a file, not {type(reference).__name__}")
    if not resolved.enabled:
        import warnings

        warnings.warn(
            "Escapement is switched off (enabled=False): nothing is replayed, calls go live",
            EscapementWarning,
            stacklevel=2,
        )
        return Trace(None, "", (), {})
    from escapement.engine import runs, sources
    from escapement.engine.session import Session

    source = sources.find(reference, resolved, until, edits)

    def make() -> Session:
        row = source.row
        return Session(resolved, name=row.name, tags=row.tags, metadata=row.metadata, source=source)

    return runs.start(make, resolved.instrumentors).trace


def fork() -> Trace:
    """Go live from here on: the running replay becomes a new trace that keeps the part replayed so far.

    Raises ConfigError when no replay is running here.
    """
    from escapement.engine import runs

    session = runs.current()
    if session is None:
        raise ConfigError(
            "fork() goes live out of a replay, and none is running here: call escapement.replay(trace) first"
        )
    session.fork()
    return session.trace


def stop() -> Trace | None:
    """End the run that is under way here and return its trace; None where there is none."""
    session = _current_session()
    if session is None or (session.member is not None and not session.joined):
        return None
    from escapement.engine import runs

    runs.stop(session)
    return session.trace


def open_store(path: str | os.PathLike[str] | None = None, *, config: EscapementConfig | None = None) -> Store:
    """The span store at `path` (a directory, or `s3://bucket/prefix`; by default the one that is set): list, load,
    query, follow a running trace. One that does not exist yet reads as empty.

    Raises ConfigError and StoreError.
    """
    from escapement.store.prices import Prices
    from escapement.store.store import Store

    settings = resolve(config, {"storage_dir": path} if path is not None else {})
    return Store(settings.storage_dir, Prices.of(settings))


def current() -> Trace | None:
    """The run that a model call made here would belong to; None where there is none."""
    session = _current_session()
    return session.trace if session is not None else None


def _current_session() -> Session | None:
    import sys

    runs = sys.modules.get("escapement.engine.runs")  # not imported: nothing was ever started
    return runs.current() if runs is not None else None


def _tags(tags: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise ConfigError(f"tags takes a list of words, not {tags!r}")
    return tuple(tags)


def _metadata(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if metadata is None:
        return {}
    import json

    if not isinstance(metadata, Mapping):
        raise ConfigError(f"metadata takes a mapping, not {type(metadata).__name__}")
    try:
        json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metadata takes JSON values only: {error}") from None
    return metadata

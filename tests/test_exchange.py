"""Traces in files: whole, byte for byte, wherever they go; and files that are no traces leave everything as it was."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import escapement
from escapement.cli.overview import Overview
from escapement.store import documents, exchange, imports, layout, pieces, sealing, upkeep, vetting
from escapement.store.journal import Journal
from escapement.store.pieces import Splitter, digest
from escapement.store.prices import Prices
from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from tests.conftest import ask
from tests.provider import Provider
from tests.test_cli import Cli, cli

__all__ = ["cli"]  # a fixture

settings.register_profile("escapement", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("escapement")


def read(store: Path, trace_id: str) -> TraceRow:
    return SpanStore(store).load(trace_id)


def export(store: Path, trace_id: str) -> bytes:
    return exchange.dump(exchange.export_document(read(store, trace_id)))


def content(data: bytes) -> Any:
    """A document without what an import changes."""
    document = json.loads(data)
    document["trace"].pop("imported", None)
    if document["trace"]["status"] == "running":
        document["trace"]["status"] = "interrupted"
    return document


def whole(row: TraceRow) -> list[Any]:
    """All that can be had of the steps of a trace."""
    found = []
    for step in row.steps:
        attributes = {
            name: json.loads(json.dumps(value))
            for name, value in step.attributes.items()
            if name not in (semconv.REQUEST_BODY, semconv.SERVED_FROM)
        }
        body = row.request_body(step)
        answer = step.response()
        if answer is not None:
            answer.headers = [list(pair) for pair in answer.headers]
        found.append((step.step, step.lane, step.fingerprint, step.name, step.start, step.end, step.otel_trace_id,
                      step.span_id, step.parent_span_id, step.answered, attributes, body, answer, step.failure()))  # fmt: skip
    return found


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with what is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def seal(store: Path) -> None:
    place = layout.create(store)
    with sealing.upkeep(place):
        sealing.seal(place, grace=0)


# -- generated traces -------------------------------------------------------------------------------------------------


@dataclass
class Generated:
    """A step as the engine would have recorded it."""

    lane: str
    request: bytes
    answer: bytes | None
    status: int
    cuts: Sequence[int]
    failure: str


texts = st.text(max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
conversations = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "ü"]), json_values, max_size=2), max_size=6
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(["json", "long", "binary", "empty"]))
    if kind == "binary":
        return draw(st.binary(max_size=50))
    if kind == "empty":
        return b""
    body = {"model": "m", "messages": draw(conversations), "tools": [{"n": 1}]}
    if kind == "long":
        body["messages"].insert(0, {"content": "x" * 3000})
    return json.dumps(body, ensure_ascii=draw(st.booleans())).encode()


@st.composite
def generated_steps(draw: st.DrawFn) -> Generated:
    answer = draw(st.none() | st.binary(max_size=60) | texts.map(str.encode) | st.just(b""))
    cuts = sorted(draw(st.lists(st.integers(0, len(answer or b"")), max_size=4)))
    failure = draw(st.sampled_from(["", "", "ReadError", "CancelledError"]))
    return Generated(
        draw(st.sampled_from(["main", "main/a[0]", "main/ü[1]"])),
        draw(requests()),
        answer,
        draw(st.sampled_from([200, 404, 599])),
        cuts,
        failure,
    )


traces = st.lists(generated_steps(), max_size=6)
TRACE_ID = "tr_0123456789ab"


def record(store: Path, steps: Sequence[Generated], metadata: Any = None, ended: bool = True) -> None:
    """Write a trace as the engine does, with ids and times that are always the same."""
    writer = Journal(layout.create(store), TRACE_ID)
    splitter = Splitter()
    otel_id = TRACE_ID[3:] + "0" * 19 + "1"
    writer.write(
        {
            "record": "trace", "format": layout.FORMAT, "trace": TRACE_ID, "trace_id": otel_id, "span_id": "a" * 16,
            "name": "gen", "tags": ["t", "ü"], "metadata": metadata or {}, "mode": "record", "parent": None,
            "time": 1_700_000_000_000_000_000, "origin": {"host": "h", "pid": 7},
        }
    )  # fmt: skip
    for number, step in enumerate(steps, 1):
        start = 1_700_000_000_000_000_000 + number * 1000
        delta, new = splitter.describe(splitter.split(step.request, step.lane), step.lane, number)
        ids = {"trace_id": otel_id, "span_id": f"{number:016x}"}
        writer.write(
            {
                "record": "start", **ids, "parent": "a" * 16, "name": "chat m", "start": start,
                "attributes": {
                    semconv.STEP: number, semconv.LANE: step.lane, semconv.FINGERPRINT: f"1:{digest(step.request)}",
                    semconv.TRACE_ID: TRACE_ID, semconv.MODE: "record", semconv.METHOD: "POST",
                    semconv.PATH: "/v1/chat/completions", semconv.REQUEST_MODEL: "m", semconv.REQUEST_BODY: delta,
                    semconv.REQUEST_HEADERS: [["content-type", "application/json"]],
                },
                "pieces": {name: pieces.as_json(piece) for name, piece in new.items()},
            }
        )  # fmt: skip
        answered: dict[str, Any] = {semconv.RESPONSE_ELAPSED: 900}
        if step.failure:
            answered |= {semconv.FAILURE_TYPE: step.failure, semconv.FAILURE_MESSAGE: "gone", semconv.ERROR_TYPE: "x"}
            answered[semconv.FAILURE_CAUSES] = [["httpcore.ReadError", "gone"]]
        if step.answer is not None:
            try:
                answered[semconv.RESPONSE_BODY] = step.answer.decode()
            except UnicodeDecodeError:
                answered[semconv.RESPONSE_BODY_BASE64] = base64.b64encode(step.answer).decode()
            answered |= {semconv.STATUS: step.status, semconv.RESPONSE_HEADERS: [["Content-Type", "a/b"], ["X-É", "é"]]}
            if step.cuts:
                ends = [*step.cuts, len(step.answer)]
                answered[semconv.RESPONSE_CHUNKS] = [
                    [end - begin, 10 * index] for index, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
                ]
                answered[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = 0.25
        elif not step.failure:
            continue  # in flight
        writer.write(
            {"record": "span", **ids, "name": "chat m", "end": start + 900, "status": "UNSET", "attributes": answered}
        )
    writer.write(
        {
            "record": "span", "trace_id": otel_id, "span_id": "b" * 16, "parent": "a" * 16, "name": "other",
            "kind": "INTERNAL", "scope": "theirs", "start": 5, "end": 9, "status": "OK", "description": None,
            "attributes": {"n": [1, 2], "f": 0.5}, "events": [{"name": "e", "time": 6, "attributes": {"k": "v"}}],
        }
    )  # fmt: skip
    if ended:
        writer.write(
            {"record": "end", "status": "completed", "error": None, "time": 1_700_000_000_000_100_000, "lost": 0}
        )
    writer.close()


@given(traces, st.dictionaries(texts, json_values, max_size=3), st.booleans(), st.booleans())
def test_any_trace_comes_back_byte_for_byte(
    steps: list[Generated], metadata: dict[str, Any], ended: bool, sealed: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        here, there = Path(name, "here"), Path(name, "there")
        record(here, steps, metadata, ended)
        original, data = read(here, TRACE_ID), export(here, TRACE_ID)
        assert [original.request_body(step) for step in original.steps] == [step.request for step in steps]
        direct = documents.read_document(data)
        assert imports.import_document(there, data) == (TRACE_ID, True)
        if sealed:
            seal(there)
        imported = read(there, TRACE_ID)
        assert whole(original) == whole(direct) == whole(imported)
        for row in (direct, imported):
            assert (row.name, row.tags, row.metadata, row.created, row.ended, row.status, row.span_id) == (
                original.name, original.tags, original.metadata, original.created, original.ended, original.status,
                original.span_id,
            )  # fmt: skip
        again = export(there, TRACE_ID)
        assert content(again) == content(data)
        assert imports.import_document(there, data) == (TRACE_ID, False)
        assert imports.import_document(here, again) == (TRACE_ID, False)


# -- real runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(client: openai.OpenAI, claude: anthropic.Anthropic, provider: Provider, store: Path) -> str:
    """The id of a run with every kind of thing in it."""
    from opentelemetry import trace as otel

    with escapement.init("all kinds", tags=["x", "y"], metadata={"n": 1}) as trace:
        ask(client, "Grüße 🕰")
        list(client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "more"}], stream=True))
        claude.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
        with pytest.raises(openai.BadRequestError):
            ask(client, "bad", model="error-400")
        with pytest.raises(openai.APIConnectionError):
            ask(client.with_options(max_retries=0), "gone", model="drop")
        ask(client, "again", model="flaky-500")
        with otel.get_tracer("other").start_as_current_span("a span of others", attributes={"n": 1, "s": "1"}):
            client.embeddings.create(model="text-embedding-3-small", input="text")
        messages: list[Any] = [{"role": "system", "content": "Be brief. " * 300}]
        for number in range(5):
            messages.append({"role": "user", "content": f"question {number}"})
            answer = client.chat.completions.create(model="echo", messages=messages)
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
    return trace.trace_id


def repeat(client: openai.OpenAI, claude: anthropic.Anthropic) -> list[Any]:
    """What `run` asked, and what came of it."""
    heard: list[Any] = [ask(client, "Grüße 🕰")]
    heard += client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "more"}], stream=True)
    heard.append(claude.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hello"}]))
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "bad", model="error-400")
    with pytest.raises(openai.APIConnectionError):
        ask(client.with_options(max_retries=0), "gone", model="drop")
    heard += [refused.value.body, ask(client, "again", model="flaky-500")]
    return heard


def test_an_imported_trace_replays_as_the_original_does(
    run: str, client: openai.OpenAI, claude: anthropic.Anthropic, provider: Provider, store: Path, tmp_path: Path
) -> None:
    data = export(store, run)
    file = tmp_path / "given.json"
    file.write_bytes(data)
    there = tmp_path / "there"
    imports.import_document(there, data)
    assert whole(read(store, run)) == whole(read(there, run))
    before = provider.count
    heard = []
    for reference, place in (
        (run, store),
        (run, there),
        (str(file), tmp_path / "nowhere"),
        (file, tmp_path / "nowhere"),
    ):
        with escapement.replay(reference, storage_dir=place, strict_replay=True) as trace:
            heard.append(repeat(client, claude))
        assert trace.hits == 6
    assert heard[0] == heard[1] == heard[2] == heard[3]
    assert provider.count == before
    assert not (tmp_path / "nowhere").exists()


def test_the_origin_stays_and_the_import_is_marked(run: str, store: Path, tmp_path: Path) -> None:
    data = export(store, run)
    imports.import_document(tmp_path / "there", data, "a file")
    original, imported = read(store, run), read(tmp_path / "there", run)
    assert original.imported is None
    assert imported.imported is not None
    assert imported.imported["by"] == exchange.exported_by()
    assert imported.imported["digest"] == digest(data)
    assert imported.imported["time"] > original.created
    for name in ("trace_id", "name", "tags", "metadata", "created", "ended", "status", "error", "origin", "span_id",
                 "otel_trace_id"):  # fmt: skip
        assert getattr(imported, name) == getattr(original, name), name
    assert [
        {name: value for name, value in span.items() if value is not None} for span in original.spans
    ] == imported.spans
    assert content(export(tmp_path / "there", run)) == content(data)
    (journal,) = (tmp_path / "there" / "journal").iterdir()
    assert journal.name == f"{run}-import-{digest(data)[:12]}-1.jsonl"
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600


def test_a_fork_takes_along_what_it_was_served(
    client: openai.OpenAI, provider: Provider, store: Path, tmp_path: Path
) -> None:
    with escapement.init("parent") as parent:
        answers = [ask(client, "one"), ask(client, "two")]
    with escapement.replay(parent.trace_id) as fork:
        assert [ask(client, "one"), ask(client, "two")] == answers
        escapement.fork()
        answers.append(ask(client, "three"))
    data = export(store, fork.trace_id)
    there = tmp_path / "there"
    imports.import_document(there, data)
    before = provider.count
    with escapement.replay(fork.trace_id, storage_dir=there, strict_replay=True):
        assert [ask(client, "one"), ask(client, "two"), ask(client, "three")] == answers
    assert provider.count == before
    imported = read(there, fork.trace_id)
    assert whole(imported) == whole(read(store, fork.trace_id))
    assert imported.parent == parent.trace_id
    assert [step.get("served_from") for step in json.loads(data)["steps"]] == [
        [parent.trace_id, 1],
        [parent.trace_id, 2],
        None,
    ]
    assert content(export(there, fork.trace_id)) == content(data)
    # An imported fork can be forked again: what it was served is its own now.
    with escapement.replay(fork.trace_id, storage_dir=there) as grandchild:
        ask(client, "one")
        escapement.fork()
        ask(client, "four")
    again = exchange.export_document(read(there, grandchild.trace_id))
    assert again["steps"][0]["served_from"] == [fork.trace_id, 1]
    assert read(there, grandchild.trace_id).steps[0].answered


def test_a_step_whose_source_is_gone_reads_as_gone(client: openai.OpenAI, store: Path, tmp_path: Path) -> None:
    with escapement.init() as parent:
        ask(client, "one")
    with escapement.replay(parent.trace_id) as fork:
        ask(client, "one")
        escapement.fork()
        ask(client, "two")
    next((store / "journal").glob(f"{parent.trace_id}-*")).unlink()
    data = export(store, fork.trace_id)
    there = tmp_path / "there"
    assert imports.import_document(there, data)[1]
    row = read(there, fork.trace_id)
    assert [step.answered for step in row.steps] == [False, True]
    with pytest.raises(escapement.StoreError, match="not whole"):
        row.request_body(row.steps[0])
    assert content(export(there, fork.trace_id)) == content(data)


def test_a_running_trace_is_exported_as_far_as_it_is(client: openai.OpenAI, store: Path, tmp_path: Path) -> None:
    with escapement.init() as trace:
        ask(client, "one")
        data = export(store, trace.trace_id)
        ask(client, "two")
    assert json.loads(data)["trace"]["status"] == "running"
    imports.import_document(tmp_path / "there", data)
    row = read(tmp_path / "there", trace.trace_id)
    assert (row.status, len(row.steps)) == ("interrupted", 1)
    assert imports.import_document(tmp_path / "there", data) == (trace.trace_id, False)
    with pytest.raises(escapement.TraceImportError, match="another one of that id, of 1 steps instead of 2"):
        imports.import_document(tmp_path / "there", export(store, trace.trace_id))


def test_damage_and_losses_stay_known(client: openai.OpenAI, store: Path, tmp_path: Path) -> None:
    with escapement.init() as trace:
        ask(client, "one")
    (path,) = (store / "journal").iterdir()
    path.write_bytes(path.read_bytes().replace(b'"lost":0', b'"lost":3') + b"damage\n")
    data = export(store, trace.trace_id)
    imports.import_document(tmp_path / "there", data)
    row = read(tmp_path / "there", trace.trace_id)
    assert (row.lost, row.damaged, row.complete) == (3, 1, False)
    assert content(export(tmp_path / "there", trace.trace_id)) == content(data)


def test_a_process_that_forked_counted_twice(store: Path, tmp_path: Path) -> None:
    """Two steps of one number: which one a later request is described by is never a question."""
    long = [
        json.dumps({"messages": [{"c": "x" * 3000}, *({"n": n} for n in range(count))]}).encode() for count in range(5)
    ]
    record(store, [Generated("main", body, b"ok", 200, [], "") for body in long])
    (path,) = (store / "journal").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    child: list[Any] = []
    for line in lines:
        if line["record"] in ("start", "span") and 3 <= int(line["span_id"], 16) <= 5:
            line = deepcopy(line) | {"span_id": "c" + line["span_id"][1:]}
            if line["record"] == "start":
                line["start"] += 1
                step = line["attributes"][semconv.STEP]
                body = long[step - 1].replace(b"x", b"y")
                line["attributes"][semconv.REQUEST_BODY] = {"base": 0, "keep": 0, "add": [digest(body)], "suffix": 0}
                line["pieces"] = {digest(body): body.decode()}
            child.append(line)
    path.with_name(f"{TRACE_ID}-child-1-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in child))
    original = read(store, TRACE_ID)
    assert [step.step for step in original.steps] == [1, 2, 3, 3, 4, 4, 5, 5]
    data = export(store, TRACE_ID)
    imports.import_document(tmp_path / "there", data)
    for sealed in (False, True):
        if sealed:
            seal(tmp_path / "there")
        assert whole(read(tmp_path / "there", TRACE_ID)) == whole(original) == whole(documents.read_document(data))


def test_a_long_conversation_stays_short(client: openai.OpenAI, store: Path) -> None:
    steps = [
        Generated(
            "main",
            json.dumps({"messages": [{"n": n, "c": "x" * 500} for n in range(count)]}).encode(),
            b"",
            200,
            [],
            "",
        )
        for count in range(1, 201)
    ]
    record(store, steps)
    assert sum(len(step.request) for step in steps) > 10_000_000
    assert len(export(store, TRACE_ID)) < 350_000


def test_what_is_imported_again_after_it_was_deleted(run: str, store: Path, tmp_path: Path) -> None:
    """The tables remember what they took in by name: a name is not used again."""
    there = tmp_path / "there"
    data = export(store, run)
    for _ in range(2):
        assert imports.import_document(there, data) == (run, True)
        seal(there)
        assert whole(read(there, run)) == whole(read(store, run))
        assert imports.import_document(there, data) == (run, False)
        place = layout.create(there)
        with sealing.upkeep(place):
            upkeep.delete(place, [run])
    with pytest.raises(escapement.TraceNotFoundError):
        read(there, run)


def test_a_trace_read_from_a_file_can_be_kept(document: dict[str, Any], store: Path, tmp_path: Path) -> None:
    file = tmp_path / "given.json"
    file.write_text(json.dumps(document, indent=1))
    row = documents.read_file(file)
    there = tmp_path / "there"
    assert imports.keep(there, row)
    assert not imports.keep(there, row)
    assert imports.import_document(there, file.read_bytes()) == (TRACE_ID, False)
    assert not imports.keep(store, row)
    assert [step.attributes for step in read(there, TRACE_ID).steps] == [step.attributes for step in row.steps]


# -- what is no trace -------------------------------------------------------------------------------------------------


@pytest.fixture
def document(store: Path) -> dict[str, Any]:
    """A small trace that can be made wrong."""
    body = b'{"messages": [{"role": "user"}], "model": "m"}'
    record(
        store,
        [
            Generated("main", body, b"abc", 200, [1], ""),
            Generated("main", body + b" " * 2100, b"\xff\xfe", 200, [], ""),
            Generated("main", body + b" " * 2101, None, 200, [], "ReadError"),
            Generated("main", b"", None, 200, [], ""),
        ],
    )
    found: dict[str, Any] = json.loads(export(store, TRACE_ID))
    return found


def refused(there: Path, data: bytes) -> str:
    """The error of an import that leaves nothing behind."""
    before = everything(there) if there.exists() else None
    with pytest.raises(escapement.TraceImportError) as raised:
        imports.import_document(there, data, "x.json")
    assert (everything(there) if there.exists() else None) == before
    message = str(raised.value)
    assert message.startswith("x.json ")
    assert "Nothing was changed" in message
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 500
    return message


Change = Callable[[dict[str, Any]], object]


def attribute(name: str, value: Any, step: int = 0) -> Change:
    return lambda document: document["steps"][step]["attributes"].update({name: value})


def field(name: str, value: Any, step: int = 0) -> Change:
    return lambda document: document["steps"][step].update({name: value})


def of_trace(name: str, value: Any) -> Change:
    return lambda document: document["trace"].update({name: value})


def of_request(step: int = 0, **values: Any) -> Change:
    return lambda document: document["steps"][step]["request"].update(values)


def of_span(name: str, value: Any) -> Change:
    return lambda document: document["spans"][0].update({name: value})


NESTED: Any = []
for _ in range(vetting.MOST_NESTING):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="har"), 'does not say "format": "escapement-trace"'),
        (lambda d: d.update(version=2), "has version 2; this Escapement reads versions up to 1. Use a newer Escapement"),
        (lambda d: d.update(version=0), "its version is 0"),
        (lambda d: d.update(version="1"), "its version is '1'"),
        (lambda d: d.update(version=True), "its version is True"),
        (lambda d: d.pop("steps"), "the document.steps is missing"),
        (lambda d: d.update(steps={}), "the document.steps should be a list"),
        (lambda d: d.update(steps=[3]), "steps[0] should be an object, not 3"),
        (lambda d: d.update(trace=[]), "the document.trace should be an object"),
        (lambda d: d.update(pieces=[]), "the document.pieces should be an object"),
        (lambda d: d.update(spans=None), "the document.spans should be a list"),
        (of_trace("id", "../../etc/passwd"), "trace.id should be the id of a trace"),
        (of_trace("id", "tr_0123456789ab/x"), "trace.id should be the id of a trace"),
        (of_trace("id", "tr_0123456789ab\n"), "trace.id should be the id of a trace"),
        (of_trace("id", "tr_0123456789AB"), "trace.id should be the id of a trace"),
        (of_trace("id", 7), "trace.id should be the id of a trace"),
        (of_trace("parent", "../x"), "trace.parent should be the id of a trace"),
        (of_trace("name", None), "trace.name should be text, not None"),
        (of_trace("name", 7), "trace.name should be text, not 7"),
        (of_trace("tags", "x"), "trace.tags should be a list of texts, not 'x'"),
        (of_trace("tags", [1]), "trace.tags should be a list of texts"),
        (of_trace("metadata", []), "trace.metadata should be an object"),
        (of_trace("metadata", {"a": NESTED}), "trace.metadata should be nested at most 200 levels deep"),
        (of_trace("origin", None), "trace.origin should be an object"),
        (of_trace("mode", "x"), "trace.mode should be record, replay or fork"),
        (of_trace("status", "fine"), "trace.status should be one of running"),
        (of_trace("status", []), "trace.status should be one of running"),
        (of_trace("created", -1), "trace.created should be a whole number from 0"),
        (of_trace("created", 2**62), "trace.created should be a whole number from 0"),
        (of_trace("created", 1.5), "trace.created should be a whole number from 0"),
        (of_trace("created", True), "trace.created should be a whole number from 0"),
        (of_trace("ended", None), "trace.ended is missing, but the trace says how it ended"),
        (of_trace("damaged", 2**30), "trace.damaged should be a whole number from 0 to 1000000"),
        (of_trace("lost", 2**31), "trace.lost should be a whole number"),
        (of_trace("otel_trace_id", "x" * 32), "trace.otel_trace_id should be 32 hex digits"),
        (of_trace("span_id", "ab"), "trace.span_id should be 16 hex digits"),
        (field("step", 0), "steps[0].step should be a whole number from 1"),
        (field("step", 2**31 - 1), "steps[0].step should be a whole number from 1"),
        (field("step", 3), "steps[1] should stand before the step it follows"),
        (field("lane", ""), "steps[0].lane should be the name of a lane"),
        (field("lane", "x" * 70_000), "steps[0].lane should be the name of a lane"),
        (field("span_id", "../../../../x"), "steps[0].span_id should be 16 hex digits"),
        (field("span_id", f"{2:016x}"), "steps[1].span_id is that of another step, too"),
        (field("otel_trace_id", ""), "steps[0].otel_trace_id should be 32 hex digits"),
        (field("end", "now"), "steps[0].end should be a whole number"),
        (field("attributes", []), "steps[0].attributes should be an object"),
        (field("served_from", ["../x", 1]), "steps[0].served_from should be the id of a trace"),
        (field("served_from", [TRACE_ID]), "steps[0].served_from should be a trace id and a step"),
        (field("request", 7), "steps[0].request should be an object"),
        (of_request(base=9), "steps[0].request should be described by step 9, which is not the last"),
        (of_request(base=1), "steps[0].request should be described by step 1, which is not the last"),
        (of_request(keep=1), "steps[0].request should be made of 1 pieces of step 0, which has 0"),
        (of_request(1, base=1, keep=1, suffix=1), "steps[1].request should be made of 2 pieces of step 1, which has 1"),
        (of_request(keep=-1), "steps[0].request.keep should be a whole number from 0"),
        (of_request(add=["0" * 32]), "steps[0].request should be made of pieces that are there"),
        (of_request(add=["../../x"]), "steps[0].request should be made of pieces that are there"),
        (of_request(add=[1]), "steps[0].request.add should be a list of texts"),
        (of_request(add="x"), "steps[0].request.add should be a list of texts"),
        (lambda d: d["pieces"].update({"../x": "y"}), "pieces.../x is not what its id says: it was changed"),
        (lambda d: d["pieces"].update({next(iter(d["pieces"])): "y"}), "is not what its id says: it was changed"),
        (lambda d: d["pieces"].update({"x\x1b[2J": 3}), "pieces.x\\x1b[2J should be an object, not 3"),
        (lambda d: d["pieces"].update({"x": {"base64": "*"}}), "pieces.x.base64 should be base64, not '*'"),
        (lambda d: d["pieces"].update({"x": {}}), "pieces.x.base64 is missing"),
        (attribute(semconv.STATUS, 99), "steps[0].attributes.escapement.response.status should be a whole number from 100 to 999, not 99"),
        (attribute(semconv.STATUS, "200"), "should be a whole number from 100 to 999, not '200'"),
        (attribute(semconv.STATUS, 200, step=3), "escapement.response.headers is missing beside a status"),
        (attribute(semconv.RESPONSE_HEADERS, [["a", "b\r\nset-cookie: x"]]), "headers on one line each"),
        (attribute(semconv.RESPONSE_HEADERS, [["a\x00", "b"]]), "headers on one line each"),
        (attribute(semconv.RESPONSE_HEADERS, [["a", "🕰"]]), "headers on one line each, of Latin-1"),
        (attribute(semconv.RESPONSE_HEADERS, [["a"]]), "a list of pairs of texts"),
        (attribute(semconv.RESPONSE_HEADERS, {"a": "b"}), "a list of pairs of texts"),
        (attribute(semconv.REQUEST_HEADERS, "a"), "a list of pairs of texts"),
        (attribute(semconv.RESPONSE_BODY, 7), "should be text, not 7"),
        (attribute(semconv.RESPONSE_BODY_BASE64, "eA=="), "holds two bodies of one answer"),
        (attribute(semconv.RESPONSE_BODY_BASE64, "x", step=1), "should be base64"),
        (attribute(semconv.RESPONSE_BODY_BASE64, "ü", step=1), "should be base64"),
        (attribute(semconv.RESPONSE_CHUNKS, [[1, 1]]), "should come to the 3 bytes of the answer"),
        (attribute(semconv.RESPONSE_CHUNKS, [[4, 1], [-1, 1]]), "a list of pairs of size and time"),
        (attribute(semconv.RESPONSE_CHUNKS, [[3]]), "a list of pairs of size and time"),
        (attribute(semconv.RESPONSE_CHUNKS, [[3.0, 1]]), "a list of pairs of size and time"),
        (attribute(semconv.RESPONSE_CHUNKS, [[3, 2**63]]), "a list of pairs of size and time"),
        (attribute(semconv.RESPONSE_ENDING, "well"), "should be end, closed, dropped or failed"),
        (attribute(semconv.RESPONSE_ENDING, []), "should be end, closed, dropped or failed"),
        (attribute(semconv.RESPONSE_ELAPSED, -1), "should be a whole number"),
        (attribute(semconv.RESPONSE_TIME_TO_FIRST_CHUNK, 1e300), "should be a number of seconds"),
        (attribute(semconv.REASON, "OK\r\n"), "text on one line"),
        (attribute(semconv.HTTP_VERSION, 2), "text on one line"),
        (attribute(semconv.ATTEMPTS, [1]), "should be a list of objects"),
        (attribute(semconv.FAILURE_TYPE, "", step=2), "should be the name of an exception"),
        (attribute(semconv.FAILURE_CAUSES, [[1, 2]], step=2), "a list of pairs of texts"),
        (attribute(semconv.METHOD, None), "should be text, not None"),
        (attribute(semconv.REQUEST_MODEL, ["m"]), "should be a plain value"),
        (attribute(semconv.USAGE_INPUT_TOKENS, "many"), "should be a number"),
        (attribute(semconv.USAGE_INPUT_TOKENS, 2**60), "should be a number"),
        (attribute("x", NESTED), "nested at most 200 levels deep"),
        (of_span("span_id", f"{1:016x}"), "spans[0].span_id is that of a step, too"),
        (of_span("trace_id", "x"), "spans[0].trace_id should be 32 hex digits"),
        (of_span("start", "x"), "spans[0].start should be a whole number"),
        (of_span("end", None), "spans[0].end should be a whole number"),
        (of_span("events", [{"name": 1}]), "spans[0].events[0].name should be text"),
        (of_span("events", [1]), "spans[0].events[0] should be an object"),
        (of_span("attributes", {semconv.RESPONSE_CHUNKS: 1}), "a list of pairs of size and time"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(document: dict[str, Any], tmp_path: Path, change: Change, message: str) -> None:
    change(document)
    assert message in refused(tmp_path / "there", orjson.dumps(document))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"PK\x03\x04\x00", "its JSON breaks off or is wrong"),
        (b"\xff\xfe\x00", "its JSON breaks off or is wrong"),
        (b"[" * 100_000, "its JSON breaks off or is wrong"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "its JSON breaks off or is wrong"),
        (b'{"format": "escapement-trace", "version": 1, "trace": {"name": "\\ud800"}}', "its JSON breaks off or is wrong"),
        (b'{"format": "escapement-trace", "version": NaN}', "its JSON breaks off or is wrong"),
        (b'{"format": "escapement-trace", "version": 1e999}', "its JSON breaks off or is wrong"),
        (b"null", "does not say"),
        (b"[]", "does not say"),
        (b'"escapement-trace"', "does not say"),
        (b'{"resourceSpans": []}', "It is OTLP: `escapement import` makes a trace of it"),
        (b'{"format": "escapement-trace"}', "its version is None"),
    ],
)  # fmt: skip
def test_what_is_no_document(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in refused(tmp_path / "there", data)


def test_truncated_anywhere(document: dict[str, Any], store: Path, tmp_path: Path) -> None:
    data = orjson.dumps(document)
    for cut in {*range(0, len(data), 97), *range(1, 40), *range(len(data) - 40, len(data))}:
        message = refused(store, data[:cut])
        assert "copy it again" in message or "Export the trace again" in message
    assert imports.import_document(tmp_path / "there", data) == (TRACE_ID, True)


def test_fields_of_later_versions_are_passed_over(document: dict[str, Any], tmp_path: Path) -> None:
    for part in (document, document["trace"], document["steps"][0], document["spans"][0]):
        part["of 2031"] = {"x": 1}
    document["pieces"][digest(b"not used")] = "not used"
    assert imports.import_document(tmp_path / "there", orjson.dumps(document))[1]


def test_a_document_cannot_give_a_step_what_its_fields_do_not(document: dict[str, Any]) -> None:
    document["steps"][0]["attributes"] |= {
        semconv.STEP: 99, semconv.LANE: 7, semconv.FINGERPRINT: [], semconv.REQUEST_BODY: {"base": 7},
        semconv.SERVED_FROM: ["/etc/passwd", 1],
    }  # fmt: skip
    step = documents.read_document(orjson.dumps(document)).steps[0]
    assert (step.step, step.lane, step.attributes[semconv.STEP]) == (1, "main", 1)
    assert semconv.SERVED_FROM not in step.attributes


# -- bombs ------------------------------------------------------------------------------------------------------------


def bomb(piece: str, requests: Sequence[dict[str, Any]], lanes: int = 1) -> bytes:
    step = {"fingerprint": "", "name": "", "start": 0, "end": None, "otel_trace_id": "1" * 32, "parent_span_id": "",
            "attributes": {}}  # fmt: skip
    return orjson.dumps(
        {
            "format": "escapement-trace",
            "version": 1,
            "trace": {"id": TRACE_ID, "name": "", "tags": [], "metadata": {}, "mode": "record", "parent": None,
                      "status": "interrupted", "created": 0, "lost": 0, "damaged": 0, "otel_trace_id": "",
                      "span_id": "", "origin": {}},
            "steps": [
                {**step, "step": number, "lane": f"l{number % lanes}", "span_id": f"{number:016x}", "request": request}
                for number, request in enumerate(requests, 1)
            ],
            "pieces": {digest(piece.encode()): piece},
            "spans": [],
        }
    )  # fmt: skip


def test_requests_cannot_double_from_step_to_step(tmp_path: Path) -> None:
    """`keep` and `suffix` both covering the base would make 2^40 pieces of one."""
    requests: list[dict[str, Any]] = [{"base": 0, "keep": 0, "add": [digest(b"x")], "suffix": 0}]
    requests += [{"base": n, "keep": 2 ** (n - 1), "add": [], "suffix": 2 ** (n - 1)} for n in range(1, 31)]
    assert "made of 2 pieces of step 1, which has 1" in refused(tmp_path / "there", bomb("x", requests))


def test_a_short_document_cannot_hold_a_long_request(tmp_path: Path) -> None:
    piece = "x" * 1_000_000
    requests = [{"base": 0, "keep": 0, "add": [digest(piece.encode())] * 300, "suffix": 0}]
    assert f"of at most {vetting.MOST_BODY} bytes" in refused(tmp_path / "there", bomb(piece, requests))


def test_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vetting, "MOST_WORK", 100_000)
    first = {"base": 0, "keep": 0, "add": [digest(b"x")] * 1000, "suffix": 0}
    requests = [first, *({"base": n, "keep": 500, "add": [], "suffix": 500} for n in range(1, 99))]
    assert documents.read_document(bomb("x", requests))
    requests += [{"base": n, "keep": 500, "add": [], "suffix": 500} for n in range(99, 110)]
    assert "and all requests together of 100000" in refused(tmp_path / "there", bomb("x", requests))


def test_as_many_lanes_are_remembered_as_a_splitter_remembers() -> None:
    assert vetting.LANES == pieces._CONVERSATIONS
    start = {"base": 0, "keep": 0, "add": [digest(b"x")], "suffix": 0}
    go_on = {"keep": 1, "add": [], "suffix": 0}
    assert documents.read_document(bomb("x", [*[start] * 16, {"base": 1, **go_on}], lanes=16))
    with pytest.raises(escapement.TraceImportError, match="not the last of any of the 16 lanes"):
        documents.read_document(bomb("x", [*[start] * 17, {"base": 1, **go_on}], lanes=20))


def test_too_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vetting, "MOST_STEPS", 5)
    start = {"base": 0, "keep": 0, "add": [digest(b"x")], "suffix": 0}
    assert "steps should be at most 5, not 6" in refused(tmp_path / "there", bomb("x", [start] * 6))


def test_too_large_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_BYTES", 5_000_000)
    with pytest.raises(escapement.TraceImportError, match="/dev/zero is larger than 5000000 bytes"):
        documents.load("/dev/zero")


# -- fuzz -------------------------------------------------------------------------------------------------------------

replacements: st.SearchStrategy[Any] = (
    json_values
    | st.sampled_from([-1, 0, 2**31, 2**62, 2**63, 1e300, "", "\x00", "../x", "tr_" + "a" * 12, [], {}, [[]], [[1, 2]]])
    | st.integers(-(2**63), 2**64 - 1)
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a document: what holds it, and under which key."""
    found = []
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += [(value, key), *places(value[key])]
    return found


def use(row: TraceRow) -> None:
    """Look at all there is of a trace, as commands do."""
    Overview.of(row, Prices(None))
    for step in row.steps:
        assert isinstance(step.answered, bool)
        assert step.arrived + (step.duration or 0) is not None
        step.response()
        step.failure()
        try:
            row.request_body(step)
        except escapement.StoreError:
            continue


_valid: dict[str, Any] = {}


def valid() -> dict[str, Any]:
    if not _valid:
        with tempfile.TemporaryDirectory() as name:
            body = json.dumps({"messages": [{"c": "x" * 2500}, {"n": 1}], "tools": [{"n": 1}]}).encode()
            record(
                Path(name),
                [
                    Generated("main", body, b"abc", 200, [1], ""),
                    Generated("main/a[0]", body.replace(b'{"n": 1}]', b'{"n": 1}, {"n": 2}]', 1), b"\xff", 404, [], ""),
                    Generated("main", b"\xfe", None, 200, [], "ReadError"),
                ],
                {"k": ["v"]},
            )
            _valid.update(json.loads(export(Path(name), TRACE_ID)))
    return deepcopy(_valid)


@settings(max_examples=400)
@given(st.data())
def test_any_change_of_a_document_is_a_trace_or_an_error(data: st.DataObject) -> None:
    document = valid()
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(places(document)))
        if data.draw(st.booleans()):
            holder[key] = deepcopy(data.draw(replacements))  # or what is changed next is the next example, too
        elif isinstance(holder, dict):
            del holder[key]
        else:
            holder.append(deepcopy(holder[key]))
    text = orjson.dumps(document)
    try:
        row = documents.read_document(text, "x.json")
    except escapement.TraceImportError as error:
        assert str(error).isprintable()
        return
    use(row)
    with tempfile.TemporaryDirectory() as name:
        imports.import_document(Path(name), text)
        reader = SpanStore(Path(name))
        imported = reader.load(row.trace_id)
        use(imported)
        assert imported.damaged == row.damaged
        assert exchange.content_hash(imported) == exchange.content_hash(row)
        for view in ("traces", "spans", "llm_calls", "messages", "tool_calls"):
            reader.sql(f"SELECT * FROM {view}")
        place = layout.create(Path(name))
        with sealing.upkeep(place):
            assert sealing.seal(place, grace=0).failed == {}
        assert exchange.content_hash(SpanStore(Path(name)).load(row.trace_id)) == exchange.content_hash(row)


@settings(max_examples=300)
@given(st.data())
def test_any_change_of_a_files_bytes_is_a_trace_or_an_error(data: st.DataObject) -> None:
    text = bytearray(orjson.dumps(valid()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        use(documents.read_document(bytes(text)))
    except escapement.TraceImportError:
        return


# -- stores that are in use -------------------------------------------------------------------------------------------


def test_another_trace_of_the_same_id_is_left_alone(document: dict[str, Any], tmp_path: Path) -> None:
    there = tmp_path / "there"
    imports.import_document(there, orjson.dumps(document))
    document["trace"]["name"] = "changed"
    message = refused(there, orjson.dumps(document))
    assert f"holds trace {TRACE_ID}, and the store has another one of that id" in message


_IMPORT = """
import sys
from pathlib import Path
from escapement.store import imports
print("ready", flush=True)
sys.stdin.readline()
print(*imports.import_document(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
"""


@pytest.mark.parametrize("different", [False, True])
def test_two_imports_at_once(document: dict[str, Any], tmp_path: Path, different: bool) -> None:
    """One of them is first. The other finds the same trace there, or another one of its id."""
    there = tmp_path / "there"
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    for number, file in enumerate(files):
        document["trace"]["name"] = str(number * different)
        file.write_bytes(orjson.dumps(document))
    for _ in range(3):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _IMPORT, str(there), str(file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for file in files
        ]  # fmt: skip
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        with ThreadPoolExecutor() as pool:
            outcomes = list(pool.map(lambda process: process.communicate("go\n"), processes))
        said = sorted(out.strip() or err.strip().splitlines()[-1].split(": ")[0] for out, err in outcomes)
        other = "escapement.TraceImportError" if different else f"{TRACE_ID} False"
        assert said == sorted([f"{TRACE_ID} True", other])
        assert len(list((there / "journal").iterdir())) == 1
        assert len(read(there, TRACE_ID).steps) == 4
        (journal,) = (there / "journal").iterdir()
        journal.unlink()


def test_a_disk_that_is_full(document: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "given.json"
    file.write_bytes(orjson.dumps(document))
    there = tmp_path / "there"
    layout.create(there)
    before = everything(there)
    program = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program + _IMPORT, str(there), str(file)],
        input="go\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"trace {TRACE_ID} cannot be written to {there}: File too large. Nothing was imported" in done.stderr
    assert {name: data for name, data in everything(there).items() if name != "lock"} == before


# -- replaying a file -------------------------------------------------------------------------------------------------


def test_replaying_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(escapement.TraceNotFoundError, match=r"there is no file nowhere\.json"):
        escapement.replay("nowhere.json")
    with pytest.raises(escapement.TraceNotFoundError, match="there is no file"):
        escapement.replay(tmp_path / "nowhere")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(escapement.TraceImportError, match=r"bad\.json is not a trace"):
        escapement.replay("bad.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(escapement.TraceImportError, match=r"folder\.json cannot be read: Is a directory"):
        escapement.replay("folder.json")
    with pytest.raises(escapement.TraceNotFoundError, match="is not a trace id"):
        escapement.replay("no such thing")
    with pytest.raises(escapement.ConfigError, match="takes the id of a trace, a Trace or a file, not int"):
        escapement.replay(7)  # type: ignore[arg-type]
    assert escapement.current() is None


# -- the commands -----------------------------------------------------------------------------------------------------


def test_export_and_import(cli: Cli, run: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("export", run[:9])
    assert (done.code, done.err) == (0, "")
    assert done.out.encode() == export(store, run)
    done = cli("export", "@last", "-o", "given.json")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith(f"Wrote {run} (12 steps) to given.json, ")
    assert stat.S_IMODE((tmp_path / "given.json").stat().st_mode) == 0o600
    assert (tmp_path / "given.json").read_bytes() == export(store, run)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".g")] == []

    monkeypatch.setenv("ESCAPEMENT_STORAGE_DIR", "there")
    done = cli("import", "given.json")
    assert (done.code, done.out, done.err) == (0, f"{run}\n", "")
    done = cli("import", "given.json", "given.json")
    assert (done.code, done.out) == (0, f"{run}\n{run}\n")
    assert done.err == f"given.json: {run} is already in the store\n" * 2
    assert cli("list", "-q").out == f"{run}\n"
    assert cli("show", run, "--content").code == 0


def test_a_file_that_is_there_is_not_overwritten(cli: Cli, run: str, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "given.json"
    file.write_text("mine")
    done = cli("export", run, "-o", "given.json")
    assert (done.code, done.out) == (1, "")
    assert done.err == "escapement: given.json is there already: --force overwrites it, -o names another file\n"
    assert file.read_text() == "mine"
    assert cli("export", run, "-o", "given.json", "--force").code == 0
    assert file.read_bytes() == export(store, run)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    done = cli("export", run, "-o", "no/such/folder.json")
    assert (done.code, done.err) == (
        1,
        "escapement: no/such/folder.json cannot be written: No such file or directory\n",
    )
    assert cli("export", run, "-o", "/dev/null").code == 0


def test_pipes(run: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("escapement")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} export @last | ESCAPEMENT_STORAGE_DIR=there {program} import -"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{run}\n", "")


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (("export",), 2, "Missing argument"),
        (("export", "tr_ffffffffffff"), 5, "no trace"),
        (("export", "@last", "--format", "xml"), 1, "--format takes json or otlp, not 'xml'"),
        (("export", "@last", "--content"), 1, "--content and --no-content go with --format otlp"),
        (("import",), 2, "Missing argument"),
        (("import", "nowhere.json"), 5, "there is no file nowhere.json"),
        (("import", "empty.json"), 1, "empty.json is not a trace: it is empty"),
        (("import", "."), 1, ". cannot be read: Is a directory"),
    ],
)
def test_commands_that_fail(
    cli: Cli, run: str, store: Path, tmp_path: Path, command: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "empty.json").touch()
    before = everything(store)
    done = cli(*command)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    if code != 2:
        assert done.err.count("\n") == 1
    assert everything(store) == before


def test_a_program_that_is_killed_while_it_imports_leaves_nothing_half(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What dies before the last step leaves a draft that nobody reads; importing again is as if it were the first time."""
    there = tmp_path / "there"
    data = orjson.dumps(document)

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", die)
        patched.setattr(os, "unlink", lambda path: None)
        with pytest.raises(KeyboardInterrupt):
            imports.import_document(there, data)
    assert [path.suffix for path in (there / "journal").iterdir()] == [".import"]
    assert SpanStore(there).trace_ids() == []
    assert imports.import_document(there, data) == (TRACE_ID, True)
    assert len(read(there, TRACE_ID).steps) == 4


def test_a_replayed_file_that_goes_live_brings_its_trace_along(
    client: openai.OpenAI, store: Path, tmp_path: Path
) -> None:
    with escapement.init("shared") as trace:
        first = ask(client, "one")
    file = tmp_path / "shared.json"
    file.write_bytes(exchange.dump(exchange.export_document(SpanStore(store).load(trace.trace_id))))
    elsewhere = tmp_path / "elsewhere"
    with escapement.replay(file, storage_dir=elsewhere) as fork:
        assert ask(client, "one") == first
        escapement.fork()
        second = ask(client, "two")
    opened = escapement.open_store(elsewhere)
    assert [row.trace_id for row in opened.list()] == [fork.trace_id, trace.trace_id]
    with escapement.replay(fork.trace_id, storage_dir=elsewhere, strict_replay=True):
        assert [ask(client, "one"), ask(client, "two")] == [first, second]


def test_what_an_imported_fork_took_over_cost_nothing_again(client: openai.OpenAI, store: Path, tmp_path: Path) -> None:
    with escapement.init("parent") as parent:
        ask(client, "one")
    with escapement.replay(parent.trace_id) as fork:
        ask(client, "one")
        escapement.fork()
        ask(client, "two")
    document = exchange.dump(exchange.export_document(SpanStore(store).load(fork.trace_id)))
    imports.import_document(tmp_path / "elsewhere", document)
    here, there = (
        next(row for row in escapement.open_store(root).list() if row.trace_id == fork.trace_id)
        for root in (store, tmp_path / "elsewhere")
    )
    facts = ("steps", "calls", "errors", "input_tokens", "output_tokens", "cost", "models")
    assert {name: getattr(there, name) for name in facts} == {name: getattr(here, name) for name in facts}
    assert (there.steps, there.calls) == (2, 1)

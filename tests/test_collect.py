"""`escapement collect`: a process that real senders send to, over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from escapement.store.rows import TraceRow
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement_exporters.collect.intake import Busy, Intake
from escapement_exporters.collect.receiver import Address, Receiver
from escapement_exporters.foreign import decoding, rebuilding
from escapement_exporters.foreign.decoding import Span
from tests.provider import Provider
from tests.test_cli import Cli, cli
from tests.test_otlp_import import FILES, document, golden, replayed, span
from tests.test_otlp_json import parsed

__all__ = ["cli"]  # a fixture

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"


class Collector:
    """The command, in a process of its own."""

    def __init__(self, store: Path, *options: str, before: str = "") -> None:
        command = [sys.executable, "-m", "escapement", "collect", "--port", "0", "--grpc-port", "0", *options]
        if before:
            command = ["/bin/sh", "-c", f'{before}; exec "$0" "$@"', *command]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"ESCAPEMENT_STORAGE_DIR": str(store)},
        )
        self.said: dict[str, str] = {}
        assert self.process.stdout is not None
        while "OTLP/gRPC" not in self.said:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()
            name, _, value = line.partition(" ")
            self.said[name] = value.strip()
        self.port = int(self.said["OTLP/HTTP"].rpartition(":")[2])
        self.grpc_port = int(self.said["OTLP/gRPC"].rpartition(":")[2])

    def post(self, body: bytes, kind: str = _PROTOBUF, path: str = "/v1/traces", **headers: str) -> tuple[int, bytes]:
        status, _, answer = posted(self.port, body, kind, path, **headers)
        return status, answer

    def stop(self, number: int = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        assert "Traceback" not in errors
        return errors


def posted(
    port: int, body: bytes, kind: str, path: str = "/v1/traces", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": kind, **headers})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def exported(port: int, body: bytes, *metadata: tuple[str, str], **options: Any) -> bytes:
    """What a gRPC exporter gets. Raises grpc.RpcError."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer: bytes = channel.unary_unary(_EXPORT)(body, metadata=metadata, timeout=60, **options)
        return answer


@contextmanager
def collecting(store: Path, *options: str, before: str = "") -> Iterator[Collector]:
    collector = Collector(store, *options, before=before)
    try:
        yield collector
    finally:
        if collector.process.poll() is None:
            collector.process.kill()
            collector.process.communicate()


def plain(row: TraceRow) -> Any:
    """What a trace says, without where it came from."""
    steps = [(step.step, step.name, step.start, step.end, step.attributes) for step in row.steps]
    bodies = [row.request_body(step) for step in row.steps]
    spans = [{name: value for name, value in span.items() if name != "record"} for span in row.spans]
    return row.name, row.status, row.created, steps, bodies, spans


@pytest.mark.parametrize("way", ["protobuf", "json", "gzip", "grpc"])
def test_what_is_sent_is_what_is_imported(way: str, store: Path, provider: Provider) -> None:
    with collecting(store) as collector:
        for name in FILES:
            message = parsed(golden(name)[1]).SerializeToString()
            if way == "grpc":
                assert exported(collector.grpc_port, message, compression=grpc.Compression.Gzip) == b""
            elif way == "json":
                assert collector.post(json.dumps(golden(name)[1]).encode(), _JSON) == (200, b"{}")
            elif way == "gzip":
                assert collector.post(gzip.compress(message), **{"Content-Encoding": "gzip"}) == (200, b"")
            else:
                assert collector.post(message) == (200, b"")
        told = collector.stop()
    spans = [list(decoding.of_json(golden(name)[1])) for name in FILES]
    assert told.splitlines()[-1] == f"Collected {sum(map(len, spans))} spans of {len(FILES)} traces"
    assert list((store / "intake").iterdir()) == []
    for name, made in zip(FILES, spans, strict=True):
        (row,) = rebuilding.traces(made)
        assert plain(SpanStore(store).load(row.trace_id)) == plain(row)
        said, _ = replayed(row.trace_id, name.rpartition("-")[2], provider.base_url)
        assert [one["text"] for one in said] == [one["text"] for one in golden(name)[0]]
    assert provider.count == 0


BODY = parsed(golden(FILES[0])[1]).SerializeToString()


@pytest.mark.parametrize(
    ("status", "body", "kind", "headers", "said"),
    [
        (400, b"\xff\xff", _PROTOBUF, {}, b"it is neither OTLP/JSON nor OTLP in protobuf"),
        (400, b"{", _JSON, {}, b"it is no JSON"),
        (400, b'{"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}', _JSON, {}, b"traceId should be 32 hex digits"),
        (400, b"no gzip", _PROTOBUF, {"Content-Encoding": "gzip"}, b""),
        (413, b"x" * ((16 << 20) + 1), _PROTOBUF, {}, b"send smaller batches"),
        (413, gzip.compress(b"x" * (64 << 20)), _PROTOBUF, {"Content-Encoding": "gzip"}, b"send smaller batches"),
        (415, b"{}", "text/plain", {}, b"send application/x-protobuf or application/json"),
    ],
    ids=["protobuf", "json", "span", "gzip", "large", "bomb", "media"],
)
def test_what_is_refused(
    status: int, body: bytes, kind: str, headers: dict[str, str], said: bytes, store: Path
) -> None:
    with collecting(store) as collector:
        found, answer = collector.post(body, kind, **headers)
        assert found == status
        assert said in answer
        assert collector.post(BODY)[0] == 200, "it goes on"
        assert collector.post(b"", path="/v1/metrics")[0] == 404
        assert collector.stop().splitlines()[-1].endswith(" of 1 trace")


def test_what_is_refused_over_grpc(store: Path) -> None:
    with collecting(store) as collector:
        found = []
        for body in (b"\xff\xff", b"x" * ((16 << 20) + 1)):
            with pytest.raises(grpc.RpcError) as told:
                exported(collector.grpc_port, body)
            found.append(told.value.code())
        assert found == [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert exported(collector.grpc_port, BODY) == b""
        assert collector.stop().splitlines()[-1].endswith(" of 1 trace")


def test_a_token_is_needed_where_one_is_set(store: Path) -> None:
    with collecting(store, "--token", "s3cret") as collector:
        status, headers, _ = posted(collector.port, BODY, _PROTOBUF)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert collector.post(BODY, Authorization="Bearer s3cre")[0] == 401
        assert collector.post(BODY, Authorization="Bearer s3cret")[0] == 200
        for metadata in ((), (("authorization", "Bearer other"),)):
            with pytest.raises(grpc.RpcError) as told:
                exported(collector.grpc_port, BODY, *metadata)
            assert told.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert exported(collector.grpc_port, BODY, ("authorization", "Bearer s3cret")) == b""


def test_elsewhere_than_on_loopback_there_is_a_token(store: Path) -> None:
    with collecting(store, "--host", "0.0.0.0") as collector:
        assert re.fullmatch(r"[\w-]{32}", collector.said["Token:"])
        assert collector.post(BODY)[0] == 401
        assert collector.post(BODY, Authorization=f"Bearer {collector.said['Token:']}")[0] == 200


def test_a_port_that_is_taken(store: Path, cli: Cli) -> None:
    with collecting(store) as collector:
        done = cli("collect", "--port", str(collector.port), "--grpc-port", "0")
        assert done.code == 1
        assert "127.0.0.1 cannot be listened on at ports" in done.err


def test_a_full_disk_is_no_ground_for_a_yes(store: Path) -> None:
    """What cannot be written is not accepted, and what was accepted before is there."""
    with collecting(store, before="ulimit -f 200") as collector:
        answers = [posted(collector.port, wide(number), _PROTOBUF) for number in range(1, 41)]
        statuses = [status for status, _, _ in answers]
        taken = statuses.index(503)
        assert set(statuses[:taken]) == {200}
        assert answers[taken][1]["Retry-After"] == "10"
        collector.process.kill()
        collector.process.communicate()
    with collecting(store) as collector:
        collector.stop()
    there = set(SpanStore(store).trace_ids())
    expected = {rebuilding.trace_id_of(f"{number:032x}") for number, code in enumerate(statuses, 1) if code == 200}
    assert there == expected


def wide(number: int, size: int = 4000) -> bytes:
    """A trace of one span."""
    made = span({"n": number, "text": "x" * size}) | {"traceId": f"{number:032x}"}
    return parsed(document(made)).SerializeToString()


def test_what_was_accepted_is_there_after_a_kill(store: Path) -> None:
    """Killed again and again while it takes spans in and puts them into the store."""
    accepted: set[str] = set()
    number = 0
    for kills in range(4):
        with collecting(store) as collector:
            until = time.monotonic() + 1.5 + kills
            while time.monotonic() < until:
                number += 1
                assert collector.post(wide(number, 100))[0] == 200
                accepted.add(rebuilding.trace_id_of(f"{number:032x}"))
            collector.process.kill()
            collector.process.communicate()
    with collecting(store) as collector:
        collector.stop()
    reader = SpanStore(store)
    assert set(reader.trace_ids()) == accepted
    for trace_id in sorted(accepted)[:: max(1, len(accepted) // 50)]:
        row = reader.load(trace_id)
        assert (row.status, len(row.spans)) == ("completed", 0), "its only span is the root"
        assert row.complete
    assert list((store / "intake").iterdir()) == []


# -- parts -----------------------------------------------------------------------------------------------------------


def made(number: int, parent: int = 0, **attributes: Any) -> Span:
    return Span(
        "ab" * 16, f"{number:016x}", f"{parent:016x}" if parent else "", f"span {number}", "INTERNAL",
        number * 1000, number * 1000 + 500, attributes,
    )  # fmt: skip


def call(number: int, parent: int, text: str) -> Span:
    asked = json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])
    said = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": text.upper()}]}])
    return made(number, parent, **{
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.provider.name": "openai",
        "gen_ai.input.messages": asked, "gen_ai.output.messages": said,
    })  # fmt: skip


def test_a_trace_that_comes_in_parts(store: Path) -> None:
    """What is kept early is added to, by the same collector and by the next, and the root ends it."""
    intake = Intake(store)
    intake.accept([call(2, 1, "a")])
    intake.keep_all()
    trace_id = rebuilding.trace_id_of("ab" * 16)
    row = SpanStore(store).load(trace_id)
    assert (row.status, [step.step for step in row.steps]) == ("interrupted", [1])
    intake.accept([call(3, 1, "b"), call(3, 1, "b")])
    intake.keep_all()
    intake.close()
    intake = Intake(store)
    intake.accept([made(1), call(4, 1, "c")])
    intake.keep_all()
    intake.close()
    row = SpanStore(store).load(trace_id)
    assert [(step.step, step.attributes[semconv.REQUEST_MODEL]) for step in row.steps] == [
        (1, "gpt-4o"), (2, "gpt-4o"), (3, "gpt-4o"),
    ]  # fmt: skip
    assert [b'"content":"%s"' % text in row.request_body(step) for step, text in zip(row.steps, (b"a", b"b", b"c"), strict=True)] == [True] * 3  # fmt: skip
    assert row.status == "completed"
    assert row.complete


def test_what_was_kept_and_not_marked_so_is_not_there_twice(store: Path) -> None:
    """Killed between the store and the mark in the intake: it is found there, and left."""
    intake = Intake(store)
    intake.accept([made(1), call(2, 1, "a")])
    (trace,) = intake.due(all=True)
    assert intake.keep(intake.take([trace])) == {trace: 1}
    for file in intake._files:
        os.close(file.descriptor)  # as the end of a process would
    again = Intake(store)
    assert again.due(all=True) == [trace]
    again.keep_all()
    again.close()
    row = SpanStore(store).load(rebuilding.trace_id_of(trace))
    assert (len(row.steps), len(row.spans)) == (1, 0)
    assert list((store / "intake").iterdir()) == []


def test_half_a_line_was_never_taken(store: Path) -> None:
    intake = Intake(store)
    intake.accept([made(1)])
    (file,) = intake._files
    os.write(file.descriptor, b'{"trace": "cd')
    os.close(file.descriptor)
    again = Intake(store)
    again.keep_all()
    again.close()
    assert SpanStore(store).trace_ids() == [rebuilding.trace_id_of("ab" * 16)]


def answered_by(intake: Intake, ask: Callable[[Receiver], Any], **limits: int) -> Any:
    async def run() -> Any:
        async with Receiver(intake, Address("127.0.0.1", 0, 0), **limits) as receiver:
            return await asyncio.to_thread(ask, receiver)

    try:
        return asyncio.run(run())
    finally:
        intake.close()


def test_too_much_is_asked_to_come_again(store: Path) -> None:
    full = Intake(store, most=1)
    full.accept([made(1)])
    with pytest.raises(Busy):
        full.accept([made(2)])

    def ask(receiver: Receiver) -> Any:
        status, headers, _ = posted(receiver.port, BODY, _PROTOBUF)
        with pytest.raises(grpc.RpcError) as told:
            exported(receiver.grpc_port, BODY)
        return status, headers["Retry-After"], told.value.code()

    assert answered_by(full, ask) == (503, "1", grpc.StatusCode.UNAVAILABLE)
    small = Intake(store)
    assert answered_by(small, lambda receiver: posted(receiver.port, BODY, _PROTOBUF)[0], flight=10) == 503
    assert small.accepted == 0


def test_one_trace_that_cannot_be_kept_does_not_keep_others(store: Path) -> None:
    intake = Intake(store)
    own = made(1)
    own.scope, own.attributes = semconv.SCOPE, {semconv.STEP: "no number"}
    intake.accept([own])
    other = made(2)
    other.trace_id = "cd" * 16
    intake.accept([other])
    intake.keep_all()
    intake.close()
    assert SpanStore(store).trace_ids() == [rebuilding.trace_id_of("cd" * 16)]
    assert intake.failed == {"ab" * 16: "a whole number from 1 to 2147483646"}
    assert len(list((store / "intake").iterdir())) == 1

"""`http.client` and what stands on it: urllib.request, urllib3, requests, botocore."""

from __future__ import annotations

import gc
import http.client
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import urllib3

import escapement
from escapement.store.traces import SpanStore
from escapement.words import semconv
from escapement.words.errors import EscapementWarning, LoopDetectedError, ReplayDivergenceError
from tests.elsewhere.conftest import Check
from tests.elsewhere.server import CODINGS, Server

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
STREAM = {**CHAT, "stream": True}
PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def bare(
    url: str, body: Any = CHAT, *, fault: str = "", read: Callable[[http.client.HTTPResponse], Any] | None = None
) -> Any:
    # Only a server that is meant to be slow is not waited for: machines are slow, too.
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=0.3 if fault == "slow" else 60)
    try:
        connection.request("POST", PATH, json.dumps(body), {**JSON, "x-fault": fault})
        response = connection.getresponse()
        assert type(response) is http.client.HTTPResponse
        told = (
            response.version,
            response.status,
            response.reason,
            response.getheaders(),
            response.chunked,
            response.length,
        )
        return told, (read or http.client.HTTPResponse.read)(response), response.isclosed()
    finally:
        connection.close()


def readinto(response: http.client.HTTPResponse) -> bytes:
    buffer, found = bytearray(7), []
    while size := response.readinto(buffer):
        found.append(bytes(buffer[:size]))
    return b"|".join(found)


READS: dict[str, Callable[[http.client.HTTPResponse], Any]] = {
    "read": lambda response: response.read(),
    "read some": lambda response: [response.read(9) for _ in range(4)] + [response.read()],
    "read1": lambda response: list(iter(response.read1, b"")),
    "lines": lambda response: list(response),
    "readline": lambda response: [response.readline(), response.readline(3), response.read()],
    "readinto": readinto,
    "peek": lambda response: (response.peek(5)[:1], response.read()),
    "half": lambda response: response.read(30),
    "nothing": lambda response: None,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("fault", ["", "gzip", "zstd", "until-close"])
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
def test_however_it_is_read(same: Check, body: Any, fault: str, read: Any) -> None:
    same(lambda url: bare(url, body, fault=fault, read=read), 1)


@pytest.mark.parametrize("read", [READS[name] for name in ("read", "read some", "read1", "lines", "readinto")])
@pytest.mark.parametrize(("body", "fault"), [(CHAT, "short"), (STREAM, "cut"), (CHAT, "drop"), (CHAT, "slow")])
def test_failures(same: Check, body: Any, fault: str, read: Any) -> None:
    varies = None if fault in ("short", "cut") else False  # what had come until then, or nothing
    same(lambda url: bare(url, body, fault=fault, read=read), 1, varies=varies)


@pytest.mark.parametrize("coding", CODINGS)
def test_attributes_are_of_the_decoded_body(same: Check, coding: str) -> None:
    trace = same(lambda url: bare(url, fault=coding), 1)
    attributes = trace.steps[0].attributes
    assert attributes[semconv.USAGE_INPUT_TOKENS] == 3
    assert json.loads(trace.steps[0].body())["object"] == "chat.completion"
    assert attributes[semconv.SERVER_ADDRESS] == "127.0.0.1"


def test_one_connection_for_many(same: Check) -> None:
    def program(url: str) -> Any:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        found = []
        for number in range(3):
            connection.request("POST", PATH, json.dumps({**CHAT, "n": number}), JSON)
            found.append(connection.getresponse().read())
        connection.close()
        return found

    same(program, 3)


@pytest.mark.parametrize("framing", ["iterable", "file", "by hand", "chunked by hand"])
def test_however_the_request_is_sent(same: Check, framing: str, tmp_path: Path) -> None:
    data = json.dumps(CHAT).encode()
    (tmp_path / "body").write_bytes(data)

    def program(url: str) -> Any:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        if framing == "iterable":
            connection.request("POST", PATH, iter([data[:10], data[10:]]), JSON)
        elif framing == "file":
            with open(tmp_path / "body", "rb") as file:
                connection.request("POST", PATH, file, JSON)
        else:
            connection.putrequest("POST", PATH)
            chunked = framing == "chunked by hand"
            connection.putheader(*(("transfer-encoding", "chunked") if chunked else ("content-length", str(len(data)))))
            connection.endheaders()
            for piece in (data[:5], data[5:]):
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                connection.send(b"0\r\n\r\n")
        answer = connection.getresponse().read()
        connection.close()
        return answer

    same(program, 1)


def test_urllib(same: Check) -> None:
    def program(url: str) -> Any:
        request = urllib.request.Request(url + PATH, json.dumps(CHAT).encode(), JSON)
        with urllib.request.urlopen(request) as response:
            return response.status, response.getheaders(), response.url, response.read()

    same(program, 1)


@pytest.fixture
def nobody() -> Iterator[str]:
    """Where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_connection_refused(same: Check, nobody: str) -> None:

    def with_urllib(url: str) -> Any:
        with urllib.request.urlopen(urllib.request.Request(url + PATH, json.dumps(CHAT).encode(), JSON)) as response:
            return response.read()

    same(bare, 1, url=nobody, varies=False)
    same(with_urllib, 1, url=nobody, varies=False)
    same(lambda url: urllib3.request("POST", url + PATH, json=CHAT, retries=False), 1, url=nobody, varies=False)
    same(lambda url: urllib3.request("POST", url + PATH, json=CHAT), 4, url=nobody, varies=False)
    same(lambda url: requests.post(url + PATH, json=CHAT), 1, url=nobody, varies=False)
    https = nobody.replace("http:", "https:")  # urllib3 connects before it says what for
    same(lambda url: requests.post(url + PATH, json=CHAT), 1, url=https, varies=False)
    nowhere = "http://nowhere.invalid"
    same(lambda url: requests.post(url + PATH, json=CHAT), 1, url=nowhere, varies=False)


def test_requests(same: Check) -> None:
    def program(url: str) -> Any:
        found: list[Any] = []
        with requests.Session() as session:
            for fault in ("", *CODINGS, "until-close"):
                headers, stream = {"x-fault": fault}, {**STREAM, "user": fault}  # not one request over and over
                answer = session.post(url + PATH, json={**CHAT, "user": fault}, headers=headers)
                found.append((answer.status_code, answer.headers, answer.json(), answer.url))
                with session.post(url + PATH, json=stream, headers=headers, stream=True) as answer:
                    found.append(list(answer.iter_lines()))
                with session.post(url + PATH, json=stream, headers=headers, stream=True) as answer:
                    found.append(list(answer.iter_content(chunk_size=None)))
                with session.post(url + PATH, json=stream, headers=headers, stream=True) as answer:
                    found.append(next(answer.iter_content(chunk_size=11)))
        return found

    same(program, 28)


@pytest.mark.parametrize("fault", ["drop", "slow", "short", "cut"])
def test_requests_fails(same: Check, fault: str) -> None:
    body = STREAM if fault == "cut" else CHAT
    patience = 0.3 if fault == "slow" else 60

    def program(url: str) -> Any:
        return requests.post(url + PATH, json=body, headers={"x-fault": fault}, timeout=patience)

    same(program, 1, varies=None)


def test_urllib3(same: Check) -> None:
    def program(url: str) -> Any:
        found: list[Any] = []
        with urllib3.PoolManager() as pool:
            for preload in (True, False, False):
                answer = pool.request("POST", url + PATH, json=STREAM, preload_content=preload)
                found.append((answer.status, dict(answer.headers), answer.reason, answer.version))
                found.append(answer.data if preload else list(answer.stream(13)))
                answer.release_conn()
            answer = pool.urlopen(
                "POST", url + PATH, body=iter([json.dumps(CHAT).encode()]), headers=JSON, chunked=True
            )
            found.append(answer.json())
        return found

    same(program, 4)


def test_threads_get_their_own(same: Check) -> None:
    def program(url: str) -> Any:
        def ask(number: int) -> Any:
            return requests.post(url + PATH, json={**CHAT, "seed": number}).json()

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(ask, range(8)))

    same(program, 8)


def test_reading_on_where_the_recording_stopped(store: Path) -> None:
    with Server() as server, escapement.init(storage_dir=store) as trace:
        bare(server.url, STREAM, read=lambda response: response.read(100))
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
        assert len(bare(server.url, STREAM, read=lambda response: response.read(100))[1]) == 100
    with (
        escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store),
        pytest.raises(ReplayDivergenceError) as caught,
    ):
        bare(server.url, STREAM)
    assert caught.value.reason == "incomplete"


def test_a_response_that_is_forgotten(store: Path, reader: SpanStore) -> None:
    with Server() as server, escapement.init(storage_dir=store) as trace:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        connection.request("POST", PATH, json.dumps(STREAM), JSON)
        response = connection.getresponse()
        response.read(100)
        connection.close()
        del response, connection
        gc.collect()
    step = reader.load(trace.trace_id).steps[0]
    assert step.attributes[semconv.RESPONSE_ENDING] in ("closed", "dropped")
    assert len(step.body()) == 100


def test_a_miss_and_a_session_that_does_both(store: Path) -> None:
    with Server() as server, requests.Session() as session:
        with escapement.init(storage_dir=store) as trace:
            first = session.post(server.url + PATH, json=CHAT).json()
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            assert session.get(server.url + "/file").ok
            assert session.post(server.url + PATH, json=CHAT).json() == first
            assert session.get(server.url + "/file").ok
            with pytest.raises(ReplayDivergenceError):
                session.post(server.url + PATH, json={**CHAT, "seed": 1})
        assert [body for body in server.bodies if body] == [json.dumps(CHAT).encode()]
        with escapement.replay(trace.trace_id, storage_dir=store) as replay:
            assert session.post(server.url + PATH, json=CHAT).json() == first
            with pytest.warns(EscapementWarning):
                other = session.post(server.url + PATH, json={**CHAT, "seed": 1}).json()
        assert (replay.hits, replay.misses) == (1, 1)
    with escapement.replay(replay.trace_id, strict_replay=True, storage_dir=store), requests.Session() as session:
        assert session.post(server.url + PATH, json=CHAT).json() == first
        assert session.post(server.url + PATH, json={**CHAT, "seed": 1}).json() == other


@pytest.mark.parametrize("coding", ["", *CODINGS])
def test_an_edited_answer_is_served_whatever_was_received(coding: str, store: Path) -> None:
    def program(url: str) -> Any:
        return requests.post(url + PATH, json=CHAT, headers={"x-fault": coding}).json()

    with Server() as server, escapement.init(storage_dir=store) as trace:
        live = program(server.url)
    with escapement.replay(trace.trace_id, edits={1: "Another."}, strict_replay=True, storage_dir=store):
        edited = program(server.url)
    assert edited["choices"][0]["message"]["content"] == "Another."
    assert (edited["id"], len(server.bodies)) == (live["id"], 1)


def test_guards_count_these_calls_too(store: Path) -> None:
    with Server() as server, escapement.init(storage_dir=store, max_identical_calls=2):
        bare(server.url)
        with pytest.raises(LoopDetectedError):
            bare(server.url)
        assert len(server.bodies) == 1


def test_a_secret_in_a_compressed_answer_is_not_kept(
    store: Path, reader: SpanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-proj-" + "a1B2" * 12
    monkeypatch.setattr("tests.elsewhere.server.chat", lambda: {"model": "gpt-4o", "key": key})
    with Server() as server, escapement.init(storage_dir=store) as trace:
        bare(server.url, fault="gzip")
    assert key not in str(reader.load(trace.trace_id).steps[0].attributes)
    assert semconv.RESPONSE_ENCODED not in reader.load(trace.trace_id).steps[0].attributes
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
        (_, _, _, headers, _, _), body, _ = bare(server.url, fault="gzip")
    assert json.loads(body)["model"] == "gpt-4o"
    assert dict(headers)["content-length"] == str(len(body))
    assert "content-encoding" not in dict(headers)


@pytest.mark.parametrize("way", ["tables", "file"])
def test_the_received_bytes_outlive_the_journal(store: Path, tmp_path: Path, way: str) -> None:
    read = READS["read1"]
    with Server() as server, escapement.init(storage_dir=store) as trace:
        live = [bare(server.url, body, fault="gzip", read=read) for body in (CHAT, STREAM)]
        with pytest.raises(http.client.RemoteDisconnected):
            bare(server.url, fault="drop")
    source: Any = trace.trace_id
    env = {**os.environ, "ESCAPEMENT_STORAGE_DIR": str(store)}
    if way == "tables":
        command = ["store", "compact"]
    else:
        source = str(tmp_path / "trace.json")
        command = ["export", trace.trace_id, "-o", source]
    program = [sys.executable, "-c", "from escapement.cli import main; main()", *command]
    subprocess.run(program, check=True, env=env, capture_output=True)
    with escapement.replay(source, strict_replay=True, storage_dir=store):
        assert [bare(server.url, body, fault="gzip", read=read) for body in (CHAT, STREAM)] == live
        with pytest.raises(http.client.RemoteDisconnected):
            bare(server.url, fault="drop")

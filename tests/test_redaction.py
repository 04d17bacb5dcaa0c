"""Secrets: no byte of one reaches the store, wherever it stands, and a replay goes on as if it had."""

from __future__ import annotations

import itertools
import json
import random
import string
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import escapement
from escapement.engine import redaction, spread
from escapement.providers.sse import events
from escapement.store.traces import SpanStore

_random = random.Random(7)
_ALNUM = string.ascii_letters + string.digits


def some(length: int, letters: str = _ALNUM) -> str:
    return "".join(_random.choices(letters, k=length))


class Secret(NamedTuple):
    """A secret as it is found in text, and the part of it that nobody may see."""

    text: str
    core: str


def key(start: str, length: int, letters: str = _ALNUM) -> Secret:
    # Put together here, so that nothing in this file has the shape of a key.
    core = some(length, letters)
    return Secret(start + core, core)


def named(name: str, length: int, letters: str = _ALNUM + "+/", end: str = "") -> Secret:
    core = some(length, letters)
    return Secret(name + core + end, core)


HEX, SAFE, UPPER = "0123456789abcdef", _ALNUM + "_-", string.ascii_uppercase + "234567"

TOKENS = {
    "openai": key("sk-", 48),
    "openai project": key("sk-" + "proj-", 156, SAFE),
    "openai service account": key("sk-" + "svcacct-", 124, SAFE),
    "openai admin": key("sk-" + "admin-", 124, SAFE),
    "openai session": key("sess-", 40),
    "deepseek": key("sk-", 32, HEX),
    "openrouter": key("sk-" + "or-v1-", 64, HEX),
    "anthropic": key("sk-" + "ant-api03-", 93, SAFE),
    "anthropic oauth": key("sk-" + "ant-oat01-", 93, SAFE),
    "anthropic admin": key("sk-" + "ant-admin01-", 93, SAFE),
    "google": key("AI" + "za", 35, SAFE),
    "google oauth": key("ya" + "29.a0", 150, SAFE),
    "google new": key("AQ" + ".Ab8", 50, SAFE),
    "google client": key("GOC" + "SPX-", 28, SAFE),
    "aws": key("AK" + "IA", 16, UPPER),
    "aws temporary": key("AS" + "IA", 16, UPPER),
    "aws session": key("IQoJb3" + "JpZ2lu", 300, _ALNUM + "+/"),
    **{f"github {kind}": key(f"gh{kind}" + "_", 36) for kind in "pousr"},
    "github fine": key("github" + "_pat_", 82, _ALNUM + "_"),
    "slack bot": key("xox" + "b-", 50, string.digits),
    "slack user": key("xox" + "p-", 60, _ALNUM),
    "slack app": key("xa" + "pp-1-", 60, _ALNUM),
    "slack refresh": key("xox" + "e-1-", 140, _ALNUM),
    "jwt": key("ey" + "JhbGciOiJSUzI1NiJ9.ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0.", 86, SAFE),
    "huggingface": key("h" + "f_", 34, _ALNUM),
    "groq": key("g" + "sk_", 52, _ALNUM),
    "telegram": key("123456789" + ":AA", 33, SAFE),
}
PHRASES = {
    "aws secret in the environment": named("AWS_SECRET_ACCESS_KEY=", 40),
    "aws secret in a profile": named("aws_secret_access_key = ", 40),
    "aws secret in JSON": named('{"SecretAccessKey": "', 40, end='"}'),
    "aws secret in XML": named("<SecretAccessKey>", 40, end="</SecretAccessKey>"),
    "aws signed header": named(
        "Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;x-amz-date, Signature=",
        64,
        HEX,
    ),
    "aws signed url": named("https://b.s3.amazonaws.com/k?X-Amz-Expires=60&X-Amz-Signature=", 64, HEX),
    "azure key": named("api-key: ", 32, HEX),
    "azure long key": named('{"api-key": "', 84, end='"}'),
    "azure storage": named("AccountName=a;AccountKey=", 86, end="==;EndpointSuffix=core.windows.net"),
    "azure bus": named("SharedAccessKeyName=Root;SharedAccessKey=", 43, end="="),
    "azure sas": named("https://a.blob.core.windows.net/c?sv=2024-11-04&sp=r&sig=", 43, _ALNUM, end="%3D"),
    "slack webhook": named("https://hooks.slack" + ".com/services/T0AB12CD3/B0AB12CD3/", 24, _ALNUM),
    "bearer": named("Authorization: Bearer ", 40, SAFE),
    "basic": named("curl -H 'Authorization: Basic ", 24, _ALNUM, end="'"),
    "password in a url": named("postgres://app:", 18, _ALNUM, end="@db.example.com/app"),
    "key in a url": named("see https://example.com/v1?q=1&key=", 40, _ALNUM, end="&lang=en"),
    "token in a url": named("https://example.com/?access_token=", 40, _ALNUM),
    "client secret": named('client_secret="', 40, _ALNUM, end='"'),
    "private key": named("-----BEGIN RSA PRIVATE" + " KEY-----\n", 64, end="\n-----END RSA PRIVATE" + " KEY-----\n"),
    "encrypted private key": named(
        "-----BEGIN RSA PRIVATE" + " KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,0123\n\n", 64
    ),
}
SECRETS = {**TOKENS, **PHRASES}
every_secret = pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
every_token = pytest.mark.parametrize("secret", TOKENS.values(), ids=TOKENS)


# -- a provider that says what it is told ----------------------------------------------------------------------------


class Script:
    """A server that gives the answers of a list, one after the other."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], list[bytes]]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                status, headers, chunks = script.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for chunk in chunks:
                    self.wfile.write(chunk)
                    self.wfile.flush()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def says(self, body: Any, status: int = 200, **headers: str) -> None:
        self.answers.append(
            (
                status,
                {
                    "content-type": "application/json",
                    **{name.replace("_", "-"): text for name, text in headers.items()},
                },
                [json.dumps(body).encode()],
            )
        )

    def streams(self, *chunks: bytes) -> None:
        self.answers.append((200, {"content-type": "text/event-stream"}, list(chunks)))

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[Script]:
    running = Script()
    yield running
    running.stop()


@pytest.fixture
def script(server: Script) -> Script:
    server.answers.clear()
    return server


@pytest.fixture(autouse=True)
def no_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory of certificates: reading all of them takes most of the time that a client takes to make."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


def completion(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}


def chat_chunk(delta: dict[str, Any], index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def event(data: dict[str, Any]) -> bytes:
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def ask(client: openai.OpenAI, text: str = "Hello", **more: Any) -> str:
    answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}], **more)
    return answer.choices[0].message.content or ""


def ask_streamed(client: openai.OpenAI) -> str:
    stream = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def made(script: Script, path: str = "/v1", **more: Any) -> openai.OpenAI:
    return openai.OpenAI(api_key="k", base_url=script.url + path, max_retries=0, **more)


def assert_kept_from(store: Path, secret: Secret) -> None:
    """No part of the secret is in any file, be it as it is or as JSON and URLs write it."""
    written = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b'"record":"span"' in written
    plain = written.replace(b"\\/", b"/").replace(b"%2F", b"/").replace(b"%2B", b"+")
    for part in (secret.core[:12], secret.core[-12:]):
        assert part.encode() not in plain
    middle = len(secret.core) // 2
    assert secret.core[middle - 6 : middle + 6].encode() not in plain


Program = Callable[[], Any]


def recorded_and_replayed(program: Program, store: Path, secret: Secret) -> tuple[Any, Any]:
    """What a program has of its call, live and again."""
    with escapement.init("run") as trace:
        live = program()
    assert_kept_from(store, secret)
    with escapement.replay(trace.trace_id, strict_replay=True) as replay:
        again = program()
    assert (replay.hits, replay.misses) == (1, 0)
    return live, again


# -- wherever it stands ----------------------------------------------------------------------------------------------


@every_secret
def test_in_a_request_body(script: Script, store: Path, secret: Secret) -> None:
    script.says(completion("fine"))
    with made(script) as client:
        recorded_and_replayed(lambda: ask(client, f"Look:\n{secret.text}\nDone."), store, secret)


@every_secret
def test_in_a_long_request_body(script: Script, store: Path, secret: Secret) -> None:
    script.says(completion("fine"))
    with made(script) as client:
        recorded_and_replayed(lambda: ask(client, "word " * 1000 + secret.text), store, secret)


@every_secret
def test_in_json_inside_a_string(script: Script, store: Path, secret: Secret) -> None:
    script.says(completion("fine"))
    inner = json.dumps({"arguments": json.dumps({"note": f"\n{secret.text}\n"})})
    with made(script) as client:
        recorded_and_replayed(lambda: ask(client, inner), store, secret)


@every_secret
def test_in_an_answer(script: Script, store: Path, secret: Secret) -> None:
    script.says(completion(f"It is {secret.text}"))
    with made(script) as client:
        live, again = recorded_and_replayed(lambda: ask(client), store, secret)
    assert live == f"It is {secret.text}"
    assert again.startswith("It is ")
    assert "[REDACTED:" in again


@every_secret
def test_in_one_event_of_a_stream(script: Script, store: Path, secret: Secret) -> None:
    script.streams(event(chat_chunk({"content": "It is "})), event(chat_chunk({"content": secret.text})), DONE)
    with made(script) as client:
        live, again = recorded_and_replayed(lambda: ask_streamed(client), store, secret)
    assert live == f"It is {secret.text}"
    assert "[REDACTED:" in again


@pytest.mark.parametrize("size", [1, 3, 7, 16])
@every_secret
def test_spread_over_the_events_of_a_stream(script: Script, store: Path, secret: Secret, size: int) -> None:
    text = f"It is {secret.text} and no other."
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    script.streams(*(event(chat_chunk({"content": part})) for part in parts), DONE)
    with made(script) as client:
        live, again = recorded_and_replayed(lambda: ask_streamed(client), store, secret)
    assert live == text
    assert again.startswith("It is ")
    assert again.endswith(" and no other.")
    assert "[REDACTED:" in again


@every_secret
def test_in_an_error(script: Script, store: Path, secret: Secret) -> None:
    script.says({"error": {"message": f"Incorrect: {secret.text}", "type": "invalid_request_error"}}, status=400)

    def program() -> str:
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client)
        return str(caught.value)

    with made(script) as client:
        recorded_and_replayed(program, store, secret)


@every_secret
def test_in_an_attempt_that_was_retried(script: Script, store: Path, secret: Secret) -> None:
    # A body is kept up to 2048 bytes: where that cuts a key, what is left of it has no shape any more.
    message = secret.text if len(secret.text) > 400 else "x" * 1960 + " " + secret.text
    script.says({"error": {"message": message}}, status=500, retry_after_ms="1")
    script.says(completion("fine"))
    with openai.OpenAI(api_key="k", base_url=script.url + "/v1", max_retries=1) as client:
        recorded_and_replayed(lambda: ask(client), store, secret)


@every_secret
def test_in_a_failure(store: Path, secret: Secret) -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError(f"no way to {secret.text}") from OSError(f"because of {secret.text}")

    def program() -> str:
        with pytest.raises(openai.APIConnectionError) as caught:
            ask(client)
        return str(caught.value.__cause__)

    http = httpx2.Client(transport=httpx2.MockTransport(fail))
    with openai.OpenAI(api_key="k", max_retries=0, http_client=http) as client:
        recorded_and_replayed(program, store, secret)


@every_token
def test_in_headers(script: Script, store: Path, secret: Secret) -> None:
    script.says(
        completion("fine"),
        x_debug=f"a {secret.text}",
        location=f"/x?{secret.text}",
        set_cookie=f"s={secret.text}; path=/",
    )
    headers = {"authorization": f"Bearer {secret.text}", "x-key": secret.text, "user-agent": f"agent {secret.text}"}
    with made(script, default_headers=headers) as client:
        recorded_and_replayed(lambda: ask(client), store, secret)


@pytest.mark.parametrize(
    ("path", "secret"),
    [("/bot{}/v1", TOKENS["telegram"]), *((path, secret) for path in ("/{}/v1", "/{}") for secret in TOKENS.values())],
)
def test_in_the_path_and_the_query(script: Script, store: Path, path: str, secret: Secret) -> None:
    script.says(completion("fine"))
    query = {"key": "another", "note": secret.text, "sig": secret.core}
    with made(script, path.format(secret.text)) as client:
        recorded_and_replayed(lambda: ask(client, extra_query=query), store, secret)


@every_secret
def test_in_what_a_run_is_called(store: Path, secret: Secret, script: Script) -> None:
    script.says(completion("fine"))
    more: dict[str, Any] = {"tags": ["a", secret.text], "metadata": {"deep": [{"note": secret.text}], secret.text: 1}}
    with (
        made(script) as client,
        pytest.raises(ValueError, match="gone"),
        escapement.init(f"run {secret.text}", **more),
    ):
        ask(client)
        raise ValueError(f"gone: {secret.text}")
    assert_kept_from(store, secret)


def test_nothing_is_replaced_where_that_is_switched_off(script: Script, reader: SpanStore) -> None:
    text = f"It is {TOKENS['openai'].text}"
    script.says(completion(text))
    with made(script) as client, escapement.init(redact=False) as trace:
        ask(client, text)
    row = reader.load(trace.trace_id)
    assert text.encode() in row.request_body(row.steps[0])
    assert text.encode() in row.steps[0].body()


# -- placeholders are stable -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@every_secret
def test_a_program_that_says_it_again_is_replayed(script: Script, store: Path, secret: Secret, streamed: bool) -> None:
    text = f"It is {secret.text} ."

    def program() -> str:
        heard = ask_streamed(client) if streamed else ask(client)
        return ask(client, f"You said: {heard}")

    if streamed:
        script.streams(*(event(chat_chunk({"content": text[at : at + 5]})) for at in range(0, len(text), 5)), DONE)
    else:
        script.says(completion(text))
    script.says(completion("fine"))
    with made(script) as client:
        with escapement.init() as trace:
            program()
        with escapement.replay(trace.trace_id, strict_replay=True) as replay:
            program()
    assert (replay.hits, replay.misses) == (2, 0)
    assert_kept_from(store, secret)


# -- streams of every kind -------------------------------------------------------------------------------------------


def text_of(body: bytes, *path: str | int) -> str:
    """The strings at one place of the events, put together."""
    found = []
    for _, data in events(body):
        value: Any = data
        try:
            for step in path:
                value = value[step]
        except (KeyError, IndexError):
            continue
        found.append(value)
    return "".join(found)


def responses_delta(kind: str, delta: str, output: int = 0) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "item_id": "i", "output_index": output, "delta": delta}


def anthropic_delta(kind: str, field: str, text: str, index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: text}}


FRAMES: dict[str, Callable[[str], dict[str, Any]]] = {
    "chat": lambda part: chat_chunk({"content": part}),
    "chat reasoning": lambda part: chat_chunk({"reasoning_content": part}),
    "chat refusal": lambda part: chat_chunk({"refusal": part}),
    "chat tool": lambda part: chat_chunk({"tool_calls": [{"index": 1, "function": {"arguments": part}}]}),
    "chat tokens": lambda part: {
        "choices": [{"index": 0, "delta": {"content": ""}, "logprobs": {"content": [{"token": part, "logprob": -0.1}]}}]
    },
    "completion": lambda part: {"object": "text_completion", "choices": [{"index": 0, "text": part}]},
    "responses": lambda part: responses_delta("output_text", part),
    "responses tool": lambda part: responses_delta("function_call_arguments", part),
    "anthropic": lambda part: anthropic_delta("text_delta", "text", part),
    "anthropic tool": lambda part: anthropic_delta("input_json_delta", "partial_json", part),
    "anthropic thinking": lambda part: anthropic_delta("thinking_delta", "thinking", part),
    "assistants": lambda part: {
        "id": "m",
        "delta": {"content": [{"index": 0, "type": "text", "text": {"value": part}}]},
    },
}
STARTS: dict[str, dict[str, Any]] = {
    "responses": {"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}},
    "anthropic": {"type": "message_start", "message": {"id": "m", "role": "assistant", "content": []}},
}


def stream_without_keys(name: str, body: bytes, cuts: list[int]) -> tuple[bytes, list[int]]:
    from escapement.providers import answer_document, recognise

    paths = {"responses": "/v1/responses", "anthropic": "/v1/messages", "assistants": "/v1/threads/t/runs"}
    operation = recognise("POST", paths.get(name.split()[0], "/v1/chat/completions"), "openai")
    assert operation is not None
    return spread.scrub_stream(body, cuts, answer_document(operation, body, "text/event-stream"))


@pytest.mark.parametrize("name", FRAMES)
def test_in_every_kind_of_event(name: str) -> None:
    secret = TOKENS["openai project"]
    text = f'{{"key": "{secret.text}", "é": 1}}'
    parts = [text[at : at + 9] for at in range(0, len(text), 9)]
    chunks = [event(FRAMES[name](part)) for part in parts]
    if start := STARTS.get(name.split()[0]):
        chunks.insert(0, event(start))
    body = b"".join(chunks)
    clean, cuts = stream_without_keys(name, body, list(itertools.accumulate(map(len, chunks))))
    assert cuts[-1] == len(clean)
    said = "".join(
        value
        for _, data in events(clean)
        for place, value in spread._strings(data)
        if place is not None and data != STARTS.get(name.split()[0]) and value not in ("text_completion", "in_progress")
    )
    assert said == '{"key": "[REDACTED:openai-key]", "é": 1}'
    for begin, end in itertools.pairwise([0, *cuts]):  # the cuts still stand between events
        assert clean[begin:end].endswith(b"\n\n")


def test_texts_that_run_side_by_side() -> None:
    """Choices, tool calls and blocks whose events take turns are texts of their own."""
    first, second = TOKENS["anthropic"], TOKENS["github p"]
    turns = itertools.zip_longest(
        [first.text[at : at + 5] for at in range(0, len(first.text), 5)],
        [second.text[at : at + 5] for at in range(0, len(second.text), 5)],
        fillvalue="",
    )
    body = b"".join(
        event(chat_chunk({"content": one})) + event(chat_chunk({"content": other}, index=1)) for one, other in turns
    )
    clean, _ = stream_without_keys("chat", body, [])
    assert first.core[5:20].encode() not in clean
    said = ["", ""]
    for _, data in events(clean):
        choice = data["choices"][0]
        said[choice["index"]] += choice["delta"]["content"]
    assert said == ["[REDACTED:anthropic-key]", "[REDACTED:github-token]"]


def test_a_response_that_is_told_twice() -> None:
    """The Responses API sends every text in deltas, and then whole."""
    secret = TOKENS["openai service account"]
    parts = [secret.text[at : at + 6] for at in range(0, len(secret.text), 6)]
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": secret.text}]}
    told = [
        STARTS["responses"],
        *(responses_delta("output_text", part) for part in parts),
        {"type": "response.output_text.done", "item_id": "i", "text": secret.text},
        {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [item]}},
    ]
    clean, _ = stream_without_keys("responses", b"".join(map(event, told)), [])
    assert text_of(clean, "delta") == "[REDACTED:openai-key]"
    assert text_of(clean, "text") == "[REDACTED:openai-key]"
    assert clean.count(b"[REDACTED:openai-key]") == 3
    assert not any(part.encode() in clean for part in parts[2:-1])


def test_a_stream_that_breaks_off_inside_a_key() -> None:
    secret = TOKENS["openai project"]
    parts = [secret.text[at : at + 10] for at in range(0, len(secret.text), 10)]
    body = b"".join(event(chat_chunk({"content": part})) for part in parts[:8])
    body += event(chat_chunk({"content": parts[8]})).partition(parts[8][-2:].encode())[0]
    clean, cuts = stream_without_keys("chat", body, [len(body)])
    assert cuts == [len(clean)]
    assert parts[8][:6].encode() not in clean
    assert text_of(clean, "choices", 0, "delta", "content") == "[REDACTED:openai-key]"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_split_anywhere(data: st.DataObject) -> None:
    """However a key is spread, none of it is left, every event is JSON, and the rest says what it said."""
    secret = data.draw(st.sampled_from(list(TOKENS.values())))
    prefix, suffix = data.draw(st.text(max_size=12)), data.draw(st.text(max_size=12))
    text = f"{prefix} {secret.text} {suffix}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    at = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    parts = [text[begin:end] for begin, end in itertools.pairwise([0, *at, len(text)])]
    frame = FRAMES[data.draw(st.sampled_from(["chat", "chat tool", "anthropic", "responses"]))]
    ascii_only = data.draw(st.booleans())
    chunks = [f"data: {json.dumps(frame(part), ensure_ascii=ascii_only)}\n\n".encode() for part in parts]
    body = b"".join(chunks)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    clean, moved = spread.scrub_stream(body, cuts, {})
    assert secret.core.encode() not in clean
    assert secret.core[2:-2] not in "".join(value for _, one in events(clean) for _, value in spread._strings(one))
    assert len(list(events(clean))) == len(parts)
    assert moved == sorted(moved)
    assert all(0 <= cut <= len(clean) for cut in moved)
    said = "".join(value for _, one in events(clean) for place, value in spread._strings(one) if place is not None)
    assert said.startswith(f"{prefix} ")
    assert said.endswith(f" {suffix}")
    assert spread.scrub_stream(clean, moved, {}) == (clean, moved)


# -- what is no secret -----------------------------------------------------------------------------------------------

CLEAN = {
    "prose": "The secret of a token is that its key, password and signature are never said; the bearer of news knows.",
    "task": "task-0123456789abcdefghijklmnopqrstuvwxyz risk-averse-investors-2024-2025-2026 desk-12345678901234567890",
    "uuids": " ".join(str(UUID(int=_random.getrandbits(128))) for _ in range(20)),
    "hashes": " ".join([some(32, HEX), some(40, HEX), some(64, HEX), "sha256:" + some(64, HEX)]),
    "ids": f"chatcmpl-{some(29)} call_{some(24)} toolu_01{some(22)} msg_{some(24)} resp_{some(48, HEX)} req_{some(32, HEX)}",
    "image": "data:image/png;base64," + b64encode(_random.randbytes(60_000)).decode(),
    "numbers": json.dumps([_random.random() for _ in range(500)]),
    "code": 'api_key=os.environ["OPENAI_API_KEY"], token: str | None = None, key=lambda row: row["key"]\n'
    "client = OpenAI(api_key=get_api_key_from_environment_v2())  # Authorization: Bearer $OPENAI_API_KEY",
    "names": "sk-learn sk-SK sk-learn-contributors-guide AKIAMORI hf_model gsk_ ghp_ xoxo-hugs eyJ ya29 AIza sess-1",
    "urls": "https://example.com/a:b@c http://localhost:8000/v1?key=1&page=2 mailto:a@b.c https://x.y/?token=next git@github.com:a/b",
    "public key": "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A\n-----END PUBLIC KEY-----",
    "about private keys": "A file that begins with -----BEGIN RSA PRIVATE" + " KEY----- is the one to keep.",
    "thinking": json.dumps({"type": "thinking", "thinking": "", "signature": some(300, _ALNUM + "+/")}),
}


@pytest.mark.parametrize("text", CLEAN.values(), ids=CLEAN)
def test_what_is_no_secret_stays(text: str) -> None:
    for written in (text, json.dumps(text), json.dumps({"a": json.dumps({"b": text})})):
        encoded = written.encode()
        assert redaction.scrub(encoded) is encoded


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_bytes_without_a_key_are_the_same_object(text: bytes, cuts: list[int]) -> None:
    clean, moved = redaction.scrub_with_cuts(text, cuts)
    assert clean is text
    assert moved == cuts


_mixed = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from([secret.text for secret in SECRETS.values()]),
        st.sampled_from(["task-", "://", "sk-", "key=", "api_key: ", "bearer ", '"', "\\n", "-----", "@"]),
    ),
    max_size=8,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(_mixed, st.data())
def test_scrubbing(text: str, data: st.DataObject) -> None:
    """Once is enough; cuts stay in order and inside; what is JSON stays JSON."""
    encoded = json.dumps({"a": text}).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=6)))
    clean, moved = redaction.scrub_with_cuts(encoded, cuts)
    assert isinstance(json.loads(clean)["a"], str)
    assert moved == sorted(moved)
    assert all(0 <= cut <= len(clean) for cut in moved)
    assert redaction.scrub(clean) is clean


@every_secret
def test_a_key_is_found_behind_whatever_ends_a_word(secret: Secret) -> None:
    for before in ("", "\n", "\t", '"', "'", "(", "=", "é", "\\n", "%3D", " "):
        for text in (f"{before}{secret.text}", json.dumps(f"{before}{secret.text}")):
            assert secret.core not in redaction.scrub_text(text)


def test_no_text_makes_it_slow() -> None:
    """The worst texts for each pattern, 300 KB each: searching must not be quadratic in them."""
    import time

    begin = "-----BEGIN PRIVATE" + " KEY-----\n"
    for piece in (
        "sk-",
        "-eyJ",
        ".eyJ",
        "://",
        "://a:",
        "api_key=",
        "bearer ",
        "authorization: ",
        "12345678:AA",
        "IQoJb3JpZ2lu",
        "gsk_",
        "xapp-",
        "ya29.",
        begin,
        begin + "A" * 16,
        "\\",
    ):
        text = piece.encode() * (300_000 // len(piece))
        before = time.perf_counter()
        redaction.scrub(text)
        assert time.perf_counter() - before < 2, piece

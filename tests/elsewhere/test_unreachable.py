"""What cannot be recorded: said once for each kind, and refused by a strict replay."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc.aio
import openai
import pytest
import websockets.sync.client
from google import genai
from websockets.sync.server import ServerConnection, serve

import escapement
from escapement.engine.family import VARIABLE
from escapement.words.errors import EscapementWarning, ReplayDivergenceError
from escapement_instrumentation.unreachable import model_program


def by_websockets() -> None:
    from websockets.sync.client import connect

    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        connect("ws://127.0.0.1:1/v1/realtime?model=gpt-realtime", proxy=None, sock=ours)


def by_aiohttp() -> None:
    import aiohttp

    async def program() -> None:
        async with aiohttp.ClientSession() as session:
            await session.ws_connect("http://127.0.0.1:1/v1/realtime")

    asyncio.run(program())


def by_websocket_client() -> None:
    import websocket

    websocket.create_connection("ws://127.0.0.1:1/v1/realtime?model=gpt-realtime")


def by_websocket_app() -> None:
    import websocket

    websocket.WebSocketApp("ws://127.0.0.1:1/v1/realtime").run_forever()


def by_grpc() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        channel.unary_unary(GENERATE)(b"")


def by_grpc_with_call() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        channel.unary_unary("/xai_api.Chat/GetCompletion").with_call(b"")


def by_grpc_future() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        channel.unary_unary(GENERATE).future(b"").result()


def by_grpc_stream() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        list(channel.unary_stream("/google.cloud.aiplatform.v1.PredictionService/StreamGenerateContent")(b""))


def by_grpc_streams() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        list(channel.stream_stream("/google.cloud.aiplatform.v1.PredictionService/StreamRawPredict")(iter(())))


def by_grpc_aio() -> None:
    async def program() -> None:
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            await channel.unary_unary(GENERATE)(b"")

    asyncio.run(program())


def by_grpc_aio_stream() -> None:
    async def program() -> None:
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            async for _ in channel.unary_stream(GENERATE.replace("Generate", "StreamGenerate"))(b""):
                pass

    asyncio.run(program())


GENERATE = "/google.ai.generativelanguage.v1beta.GenerativeService/GenerateContent"


def by_process() -> None:
    subprocess.run(["codex-that-is-not-installed/codex", "exec", "x"], check=False)


WAYS = {
    "websockets": by_websockets,
    "aiohttp": by_aiohttp,
    "websocket-client": by_websocket_client,
    "websocket-client's loop": by_websocket_app,
    "gRPC": by_grpc,
    "gRPC, with its metadata": by_grpc_with_call,
    "gRPC, later": by_grpc_future,
    "gRPC, a stream": by_grpc_stream,
    "gRPC, two streams": by_grpc_streams,
    "gRPC, async": by_grpc_aio,
    "gRPC, an async stream": by_grpc_aio_stream,
    "process": by_process,
}


def tried(way: Callable[[], None]) -> None:
    try:
        way()
    except ReplayDivergenceError:
        raise
    except Exception:
        return  # nobody is there, which is not the point


@pytest.mark.parametrize("name", WAYS)
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


Connect = Callable[[str], str]


def _events(connection: Any) -> str:
    connection.send({"type": "response.create"})
    return str(connection.recv().type)


async def _events_async(connection: Any) -> str:
    await connection.send({"type": "response.create"})
    return str((await connection.recv()).type)


def realtime(url: str) -> str:
    with openai.OpenAI(api_key="any", base_url=url).realtime.connect(model="gpt-realtime") as connection:
        return _events(connection)


def responses(url: str) -> str:
    with openai.OpenAI(api_key="any", base_url=url).responses.connect() as connection:
        return _events(connection)


def realtime_async(url: str) -> str:
    async def program() -> str:
        client = openai.AsyncOpenAI(api_key="any", base_url=url)
        async with client.realtime.connect(model="gpt-realtime") as connection:
            return await _events_async(connection)

    return asyncio.run(program())


def responses_async(url: str) -> str:
    async def program() -> str:
        async with openai.AsyncOpenAI(api_key="any", base_url=url).responses.connect() as connection:
            return await _events_async(connection)

    return asyncio.run(program())


@pytest.fixture
def socket_server() -> Iterator[tuple[str, list[str]]]:
    """An address, and what was received there; whatever is sent is answered with a response."""
    received: list[str] = []

    def answer(connection: ServerConnection) -> None:
        for message in connection:
            assert connection.request is not None
            received.append(connection.request.path.partition("?")[0])
            event = json.loads(message)["type"].replace("create", "created")
            connection.send(json.dumps({"type": event, "response": {"id": "resp_1"}}))

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}/v1", received
        server.shutdown()


@pytest.mark.filterwarnings("ignore:connect.. must be used:DeprecationWarning")  # as the SDK does not
@pytest.mark.parametrize("connect", [realtime, responses, realtime_async, responses_async])
def test_the_openai_sdk(connect: Connect, socket_server: tuple[str, list[str]], store: Path) -> None:
    """A run lets it pass and says so once; strict replay does not even connect."""
    url, received = socket_server
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EscapementWarning)
        with escapement.init(storage_dir=store) as trace:
            assert [connect(url) for _ in range(2)] == ["response.created"] * 2
    (told,) = [str(warning.message) for warning in caught if warning.category is EscapementWarning]
    assert "talk to a model by websocket (127.0.0.1)" in told
    path = "/v1/realtime" if "realtime" in connect.__name__ else "/v1/responses"
    assert (trace.steps, received) == (0, [path] * 2)
    nobody = "http://127.0.0.1:1/v1"
    with (
        escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store),
        pytest.raises(ReplayDivergenceError) as refused,
    ):
        connect(nobody)
    assert (refused.value.reason, refused.value.trace_id) == ("unreachable", trace.trace_id)
    with pytest.warns(EscapementWarning), escapement.replay(trace.trace_id, storage_dir=store):
        assert connect(url) == "response.created"
    assert connect(url) == "response.created"  # no run: nothing is said


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_googles_sdk(store: Path) -> None:
    async def program() -> None:
        client = genai.Client(api_key="any", http_options={"base_url": "http://127.0.0.1:1"})
        async with client.aio.live.connect(model="gemini-live"):
            pass

    with escapement.init(storage_dir=store) as trace:
        pass
    with (
        escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store),
        pytest.raises(ReplayDivergenceError) as refused,
    ):
        asyncio.run(program())
    assert refused.value.reason == "unreachable"


def test_other_websockets_are_nobodys_business(socket_server: tuple[str, list[str]], store: Path) -> None:
    """The very objects that the library makes, unwrapped."""
    url = socket_server[0].replace("http:", "ws:").replace("/v1", "/somewhere")

    def program() -> Any:
        with websockets.sync.client.connect(url) as connection:
            connection.send('{"type": "create"}')
            return type(connection), type(connection.protocol), connection.recv()

    without = program()
    with escapement.init(storage_dir=store) as trace:
        live = program()
    with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
        assert without == live == program()


def test_other_calls_by_grpc_are_nobodys_business(store: Path) -> None:
    """A stub that was made before a run, and called in it and after it."""
    served = grpc.unary_unary_rpc_method_handler(lambda request, context: request[::-1])
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", {"Find": served}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        find = channel.unary_unary("/shop.Orders/Find")
        with escapement.init(storage_dir=store) as trace:
            assert find(b"abc") == b"cba"
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            assert find(b"abc") == b"cba"
            assert find.future(b"abc").result() == b"cba"
        assert find(b"abc") == b"cba"
    server.stop(None).wait()


def test_other_programs_and_sockets_are_nobodys_business(store: Path) -> None:
    with warnings.catch_warnings(), escapement.init(storage_dir=store):
        warnings.simplefilter("error", EscapementWarning)
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        subprocess.run("true", shell=True, check=True)


def test_a_python_program_that_takes_part_is_no_stranger(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with escapement.init(storage_dir=store):
        with pytest.warns(EscapementWarning, match="run `llm`"), contextlib.suppress(FileNotFoundError):
            subprocess.run(["nowhere/llm"], check=False)
        monkeypatch.setenv(VARIABLE, "as under `escapement run`")
        with warnings.catch_warnings(), contextlib.suppress(FileNotFoundError):
            warnings.simplefilter("error", EscapementWarning)
            subprocess.run(["nowhere/aider"], check=False)
        with pytest.warns(EscapementWarning, match="run `aider`"), contextlib.suppress(FileNotFoundError):
            subprocess.run(["nowhere/aider"], check=False, env={})


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

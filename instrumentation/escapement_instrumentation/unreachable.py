"""What calls a model where nothing can be recorded: websockets, gRPC, and programs that bring their own client.

None of it goes by in silence. A run says so once for each kind; a strict replay refuses it before anything is sent.
"""

from __future__ import annotations

import os
import re
import shlex
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from escapement.engine import divergence, lanes
from escapement.engine.family import VARIABLE
from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch
from escapement.engine.recording import warn
from escapement.engine.session import Session
from escapement_instrumentation import hosts

_MODEL_PATH = re.compile(r"/(?:realtime|responses)/?$|BidiGenerateContent")

_MODEL_RPC = re.compile(
    r"/(?:google\.ai\.generativelanguage\.\w+\.(?:Generative|Text|Discuss|Prediction)Service"
    r"|google\.cloud\.aiplatform\.\w+\.PredictionService|xai_api\.\w+)/"
)
"""Methods of model APIs that are spoken by gRPC: Gemini, Vertex AI, xAI."""
_SYNC_RPCS = (
    "_UnaryUnaryMultiCallable", "_UnaryStreamMultiCallable", "_SingleThreadedUnaryStreamMultiCallable",
    "_StreamUnaryMultiCallable", "_StreamStreamMultiCallable",
)  # fmt: skip
_ASYNC_RPCS = tuple(name.removeprefix("_") for name in _SYNC_RPCS if "Single" not in name)

PROGRAMS = frozenset(
    {"aichat", "aider", "claude", "codex", "copilot", "cursor-agent", "gemini", "goose", "llm", "ollama", "opencode",
     "qwen"}
)  # fmt: skip
"""Programs that are known to call models."""
_IN_PYTHON = frozenset({"aider", "llm"})
"""Those that take part in a run of `escapement run`, as Python programs do."""

_PACKAGES = {
    "@anthropic-ai/claude-code": "claude",
    "@google/gemini-cli": "gemini",
    "@openai/codex": "codex",
    "@github/copilot": "copilot",
    "opencode-ai": "opencode",
    "@qwen-code/qwen-code": "qwen",
}
_RUNNERS = frozenset(
    {"bun", "bunx", "deno", "env", "node", "npm", "npx", "pipx", "pnpm", "sh", "bash", "uv", "uvx", "yarn"}
)
"""What starts other programs: those are looked for among its arguments."""


def hooks() -> Sequence[ModuleHooks]:
    """Hooks on `websockets` (which the OpenAI and Google SDKs use), aiohttp's websockets, `websocket-client`, gRPC, and
    `subprocess.Popen`, which asyncio's subprocesses stand on, too. (Of `Popen` it is `_execute_child`, because the
    engine has `__init__`.)

    The clients of `websockets` connect before they make the protocol, and read the address before they connect. The
    loop of `websocket-client` hands errors of connecting to a callback, so it has a hook of its own.
    """
    return (
        *(
            ModuleHooks(f"websockets.{kind}.client", lambda module: (Patch(module, "parse_uri", _parse_uri),))
            for kind in ("sync", "asyncio", "trio", "legacy")
        ),
        ModuleHooks("websockets.client", lambda module: (Patch(module.ClientProtocol, "__init__", _protocol),)),
        ModuleHooks("aiohttp.client", lambda module: (Patch(module.ClientSession, "_ws_connect", _ws_connect),)),
        ModuleHooks("websocket._core", lambda module: (Patch(module.WebSocket, "connect", _websocket),)),
        ModuleHooks("websocket._app", lambda module: (Patch(module.WebSocketApp, "run_forever", _websocket_app),)),
        ModuleHooks("grpc._channel", lambda module: _rpcs(module, _SYNC_RPCS)),
        ModuleHooks("grpc.aio._channel", lambda module: _rpcs(module, _ASYNC_RPCS)),
        ModuleHooks("subprocess", lambda module: (Patch(module.Popen, "_execute_child", _execute),)),
    )


_said: weakref.WeakKeyDictionary[Session, set[str]] = weakref.WeakKeyDictionary()


def _say(session: Session, kind: str, what: str) -> None:
    """The program is about to do `what`: said once a kind, refused in strict replay."""
    if session.mode == "replay" and session.settings.strict_replay:
        raise divergence.unreachable(session.trace_id, session.steps, what)
    said = _said.setdefault(session, set())
    if kind not in said:
        said.add(kind)
        warn(f"the program is about to {what}. It can neither be recorded nor replayed, and goes on.")


def _run() -> Session | None:
    scope = lanes.current()
    return scope.run if scope is not None and isinstance(scope.run, Session) else None


def _parse_uri(wrapped: Callable[..., Any], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    uri = wrapped(*args, **kwargs)
    session = _run()
    if session is not None:
        _say_websocket(session, str(uri.host), str(uri.path))
    return uri


def _protocol(wrapped: Callable[..., Any], protocol: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    uri = args[0] if args else kwargs.get("uri", kwargs.get("wsuri"))
    session = _run()
    if session is not None and uri is not None:
        _say_websocket(session, str(uri.host), str(uri.path))
    return wrapped(*args, **kwargs)


def _ws_connect(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    session = _run()
    if session is not None:
        address = urlsplit(str(client._build_url(args[0] if args else kwargs["url"])))
        _say_websocket(session, address.hostname or "", address.path)
    return wrapped(*args, **kwargs)


def _websocket(wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _say_url(args[0] if args else kwargs.get("url"))
    return wrapped(*args, **kwargs)


def _websocket_app(wrapped: Callable[..., Any], app: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _say_url(app.url)
    return wrapped(*args, **kwargs)


def _say_url(url: Any) -> None:
    session = _run()
    if session is not None and isinstance(url, str):
        address = urlsplit(url)
        _say_websocket(session, address.hostname or "", address.path)


def _rpcs(module: ModuleType, names: Sequence[str]) -> Sequence[Patch]:
    """What makes calls of gRPC, of each kind of method; `with_call` and `future` are not there everywhere."""
    return [
        Patch(kind, method, _rpc)
        for name in names
        if (kind := getattr(module, name, None)) is not None
        for method in ("__call__", "with_call", "future")
        if method in vars(kind)
    ]


def _rpc(wrapped: Callable[..., Any], callable_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    session = _run()
    if session is not None:
        method = getattr(callable_, "_method", "")
        name = method.decode("utf-8", "replace") if isinstance(method, bytes) else str(method)
        if _MODEL_RPC.match(name) is not None:
            _say(session, "grpc", f"call a model by gRPC ({name})")
    return wrapped(*args, **kwargs)


def _say_websocket(session: Session, host: str, path: str) -> None:
    if hosts.is_known(host) or _MODEL_PATH.search(path.partition("?")[0]):
        _say(session, "websocket", f"talk to a model by websocket ({host})")


_ENV = 6  # where the environment is among the arguments of `_execute_child`


def _execute(wrapped: Callable[..., Any], process: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    session = _run()
    if session is not None:
        program = model_program(args[0])
        taking_part = program in _IN_PYTHON and VARIABLE in (os.environ if args[_ENV] is None else args[_ENV])
        if program and not taking_part:
            _say(session, program, f"run `{program}`, a program that calls models by itself")
    return wrapped(*args, **kwargs)


def model_program(command: Any) -> str:
    """The program of a command line that is known to call models; empty where there is none."""
    words = _words(command)
    if not words:
        return ""
    name = _name(words[0])
    if name in PROGRAMS:
        return name
    if name not in _RUNNERS:
        return ""
    for word in words[1:]:
        package = word.rpartition("@")[0] or word  # without a version
        known = _PACKAGES.get(package, _name(word))
        if known in PROGRAMS:
            return known
        inside = next((program for package, program in _PACKAGES.items() if f"/{package}/" in word), "")
        if inside:
            return inside  # node …/node_modules/@openai/codex/bin/codex.js
    return ""


def _words(command: Any) -> list[str]:
    if isinstance(command, str | bytes | os.PathLike):
        text = os.fsdecode(command)
        try:
            return shlex.split(text)
        except ValueError:
            return text.split()
    try:
        words = [os.fsdecode(word) for word in command]
    except TypeError:
        return []
    if len(words) > 2 and _name(words[0]) in ("sh", "bash") and words[1] == "-c":
        return _words(words[2])
    return words


def _name(word: str) -> str:
    name = os.path.basename(word).lower()
    return name.removesuffix(".exe").removesuffix(".cmd").removesuffix(".js")

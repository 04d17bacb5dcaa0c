"""Hooks: put on and taken off cleanly, twice, late, or not at all; inert while no run is open."""

from __future__ import annotations

import asyncio
import concurrent.futures
import http.client
import importlib
import subprocess
import sys
import textwrap
import threading
import types
from importlib.metadata import distributions, entry_points
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import anthropic._base_client
import httpx
import httpx2
import openai
import openai._base_client
import pytest
import urllib3.connection
import urllib3.connectionpool
import websockets.asyncio.client
import websockets.client
import websockets.sync.client

import escapement
from escapement.engine import runs
from escapement.engine.hooks import ModuleHooks
from escapement.engine.patching import Patch
from tests.conftest import ask
from tests.provider import Provider


def hooked() -> dict[str, Any]:
    """Everything that a run wraps, as it is now."""
    wrapped: dict[Any, str] = dict.fromkeys(
        (httpx.Client, httpx.AsyncClient, httpx2.Client, httpx2.AsyncClient), "send"
    )
    wrapped |= {
        asyncio.BaseEventLoop: "create_task",
        threading.Thread: "start",
        concurrent.futures.ThreadPoolExecutor: "submit",
        aiohttp.ClientSession: "_request _ws_connect",
        http.client.HTTPConnection: "putrequest send getresponse connect",
        http.client.HTTPSConnection: "connect",
        urllib3.connectionpool.HTTPConnectionPool: "urlopen",
        urllib3.connection.HTTPConnection: "connect",
        urllib3.connection.HTTPSConnection: "connect",
        websockets.client.ClientProtocol: "__init__",
        websockets.sync.client: "parse_uri",
        websockets.asyncio.client: "parse_uri",
        subprocess.Popen: "_execute_child",
    }
    for sdk in (openai._base_client, anthropic._base_client):
        wrapped |= dict.fromkeys((sdk.SyncAPIClient, sdk.AsyncAPIClient), "request _process_response")
        wrapped[sdk.BaseClient] = "_should_retry"
    return {
        f"{getattr(owner, '__module__', '')}.{owner.__name__}.{name}": vars(owner)[name]
        for owner, names in wrapped.items()
        for name in names.split()
    }


def installed() -> set[str]:
    """The names of all distributions that are installed here."""
    return {distribution.name for distribution in distributions()}


def test_everything_is_put_back() -> None:
    before = hooked()
    assert len(before) == 4 + 3 + 2 * 5 + 14
    with escapement.init():  # entered, so that another may open inside
        during = hooked()
        assert all(during[name] is not before[name] for name in before)
        with escapement.init("inner", storage_dir="inner"):
            assert all(value is during[name] for name, value in hooked().items())
        assert all(value is during[name] for name, value in hooked().items()), "an inner run takes nothing with it"
    assert all(value is before[name] for name, value in hooked().items())


def test_the_instrumentors_are_found_by_opentelemetry() -> None:
    found = {
        point.name: point.value
        for point in entry_points(group="opentelemetry_instrumentor")
        if point.name.startswith("escapement-")
    }
    assert found == {
        "escapement-aiohttp": "escapement_instrumentation:AiohttpInstrumentor",
        "escapement-http-client": "escapement_instrumentation:HttpClientInstrumentor",
        "escapement-lm15": "escapement_instrumentation:Lm15Instrumentor",
        "escapement-unreachable": "escapement_instrumentation:UnreachableInstrumentor",
        "escapement-anthropic": "escapement_instrumentation:AnthropicInstrumentor",
        "escapement-cohere": "escapement_instrumentation:CohereInstrumentor",
        "escapement-gemini": "escapement_instrumentation:GeminiInstrumentor",
        "escapement-groq": "escapement_instrumentation:GroqInstrumentor",
        "escapement-httpx": "escapement_instrumentation:HttpxInstrumentor",
        "escapement-httpx2": "escapement_instrumentation:Httpx2Instrumentor",
        "escapement-mistral": "escapement_instrumentation:MistralInstrumentor",
        "escapement-openai": "escapement_instrumentation:OpenAIInstrumentor",
        "escapement-together": "escapement_instrumentation:TogetherInstrumentor",
    }
    for point in entry_points(group="opentelemetry_instrumentor"):
        if point.name in found:
            instrumentor = point.load()()
            packages = {needed.partition(" ")[0] for needed in instrumentor.requires}
            conflict = instrumentor._check_dependency_conflicts()
            assert conflict is None or not packages & installed(), conflict


def test_a_module_that_is_not_as_expected_is_imported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All its hooks or none, and the log says so."""
    (tmp_path / "of_tomorrow.py").write_text("class Client:\n    def send(self): return 'sent'\n")
    monkeypatch.syspath_prepend(tmp_path)
    hooks = ModuleHooks(
        "of_tomorrow",
        lambda module: (Patch(module.Client, "send", lambda *_: "seen"), Patch(module.Client, "gone", lambda *_: None)),
    )
    hooks.apply()
    module = importlib.import_module("of_tomorrow")
    assert module.Client().send() == "sent"
    assert type(vars(module.Client)["send"]) is types.FunctionType
    assert "cannot put its hooks on of_tomorrow" in caplog.text
    hooks.remove()


def test_instrumented_before_by_somebody_else(client: openai.OpenAI, provider: Provider) -> None:
    """As under `opentelemetry-instrument`: inert without a run, used by a run, and left alone by its end."""
    points = [
        point.load()()
        for point in entry_points(group="opentelemetry_instrumentor")
        if point.name.startswith("escapement-")
    ]
    for instrumentor in points:
        instrumentor.instrument()
    try:
        before = hooked()
        ask(client)
        with escapement.init() as trace:
            ask(client)
        assert (trace.steps, provider.count) == (1, 2)
        assert hooked() == before
    finally:
        for instrumentor in points:
            instrumentor.uninstrument()


def test_a_hook_under_somebody_elses_stays_harmless(
    client: openai.OpenAI, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx2.Client, "send", vars(httpx2.Client)["send"])  # put back at the end, whatever is on top
    with escapement.init() as trace:
        ours = httpx2.Client.send

        def theirs(self: Any, *arguments: Any, **keywords: Any) -> Any:
            return ours(self, *arguments, **keywords)

        monkeypatch.setattr(httpx2.Client, "send", theirs)
        ask(client)
    assert httpx2.Client.send is theirs
    ask(client)
    with escapement.init() as second:
        ask(client)
    assert (trace.steps, second.steps, provider.count) == (1, 1, 3)


@pytest.mark.parametrize("order", ["before", "after", "alias"])
def test_an_sdk_imported_after_init(provider: Provider, order: str) -> None:
    program = {
        "before": "import openai, escapement\ntrace = escapement.init()",
        "after": "import sys, escapement\ntrace = escapement.init()\nassert 'openai' not in sys.modules\nimport openai",
        "alias": "import httpx2\nhttpx2.alias_httpx()\nimport escapement, httpx\ntrace = escapement.init()\nimport openai",
    }[order]
    program += textwrap.dedent(
        f"""
        client = openai.OpenAI(api_key="k", base_url="{provider.base_url}/v1")
        client.chat.completions.create(model="flaky-429", messages=[{{"role": "user", "content": "Hello"}}])
        escapement.stop()
        print(trace.steps)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_without_any_sdk(tmp_path: Any) -> None:
    """Nothing of what could be hooked is installed: a run opens and ends all the same."""
    program = """
    import sys
    for name in ("openai", "anthropic", "httpx", "httpx2"):
        sys.modules[name] = None
    import escapement
    with escapement.init() as trace:
        pass
    print(trace.status)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "completed\n", "")


def test_an_instrumentor_is_named_by_its_package_where_several_share_a_name() -> None:
    chosen = [runs._package(*runs._chosen([name])[-1:]) for name in ("openai", "openinference-instrumentation-openai")]
    assert chosen == ["opentelemetry-instrumentation-openai", "openinference-instrumentation-openai"]


def test_beside_traceloops_instrumentor(client: openai.OpenAI, provider: Provider) -> None:
    """`instrumentors=["openai"]` switches it on beside ours; its spans land in the trace, and nothing counts twice."""
    program = textwrap.dedent(
        f"""
        import escapement, openai
        trace = escapement.init("both", instrumentors=["openai"])
        client = openai.OpenAI(api_key="k", base_url="{provider.base_url}/v1")
        answer = client.chat.completions.create(model="gpt-4o", messages=[{{"role": "user", "content": "Hello"}}])
        list(client.chat.completions.create(model="gpt-4o", messages=[{{"role": "user", "content": "Hello"}}], stream=True))
        assert trace.input_tokens == answer.usage.prompt_tokens, (trace.input_tokens, answer.usage)
        escapement.stop()
        from escapement.store.traces import SpanStore
        from pathlib import Path
        row = SpanStore(Path(".escapement")).load(trace.trace_id)
        print(len(row.steps), sorted({{span["scope"] for span in row.spans}}))
        parents = {{span["span_id"] for span in row.spans}}
        print([step.parent_span_id in parents for step in row.steps])
        with escapement.init("again", instrumentors=["openai"]) as again:
            client.chat.completions.create(model="gpt-4o", messages=[{{"role": "user", "content": "Hello"}}])
        print([span["name"] for span in SpanStore(Path(".escapement")).load(again.trace_id).spans])
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2 ['opentelemetry.instrumentation.openai.v1']", "[True, True]", "['openai.chat']",
    ], done.stdout  # fmt: skip

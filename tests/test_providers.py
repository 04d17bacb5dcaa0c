"""What is read out of the bodies of each provider: whole attributes and whole messages, streamed and not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from google import genai

import escapement
from escapement.cli.show import messages
from escapement.engine import spread
from escapement.engine.usage import cost_of, use_of
from escapement.providers import Message, ToolCall, answer_document, multipart, recognise, tail
from escapement.store.prices import Prices
from escapement.store.summaries import page, stats
from escapement.store.traces import SpanStore
from tests.provider import Provider

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
USER = [{"role": "user", "content": "Rain?"}]


def recorded(provider: Provider, store: Path, path: str, body: Any) -> tuple[bytes, dict[str, Any], Any, Any]:
    """A request by hand: the answer, the `gen_ai.*` attributes of its step, what was asked, and what was said."""
    with escapement.init(storage_dir=store) as trace, httpx.Client() as client:
        content = client.post(f"{provider.base_url}{path}", json=body).content
    row = SpanStore(store).load(trace.trace_id)
    (step,) = row.steps
    asked, said, error = messages(row, step)
    assert error == ""
    # What comes with the time of arrival, and ids of its own.
    attributes = {
        key.removeprefix("gen_ai."): value
        for key, value in step.attributes.items()
        if key.startswith("gen_ai.") and not key.endswith("time_to_first_chunk")
    }
    return content, attributes, list(asked), list(said)


@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent?alt=sse"])
def test_gemini(verb: str, provider: Provider, store: Path) -> None:
    call = {"functionCall": {"id": "f1", "name": "weather", "args": {"city": "Ulm"}}}
    result = {"functionResponse": {"id": "f1", "name": "weather", "response": {"result": "rain"}}}
    body = {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Rain?"}, {"inlineData": {"mimeType": "image/png", "data": "AA=="}}]},
            {"role": "model", "parts": [{"text": "Hm", "thought": True}, call]},
            {"role": "user", "parts": [result]},
        ],
        "generationConfig": {
            "temperature": 0.5,
            "maxOutputTokens": 9,
            "stopSequences": ["END"],
            "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"},
        },
    }
    content, attributes, asked, said = recorded(provider, store, f"/v1beta/models/gemini-2.5-pro:{verb}", body)
    streamed = verb != "generateContent"
    chunks = [json.loads(line[6:]) for line in content.split(b"\r\n") if line] if streamed else [json.loads(content)]
    usage = chunks[-1]["usageMetadata"]
    assert attributes == {
        "operation.name": "generate_content",
        "provider.name": "gcp.gemini",
        "request.model": "gemini-2.5-pro",
        "request.temperature": 0.5,
        "request.max_tokens": 9,
        "request.stop_sequences": ["END"],
        "request.reasoning.level": "low",
        "response.id": chunks[0]["responseId"],
        "response.model": "gemini-2.5-pro",
        "response.finish_reasons": ["STOP"],
        "usage.input_tokens": usage["promptTokenCount"],
        "usage.output_tokens": usage["candidatesTokenCount"] + usage["thoughtsTokenCount"],
        "usage.cache_read.input_tokens": usage["cachedContentTokenCount"],
        "usage.reasoning.output_tokens": usage["thoughtsTokenCount"],
    } | ({"request.stream": True} if streamed else {})
    assert asked == [
        Message("system", "Be brief."),
        Message("user", "Rain?\n[image/png]"),
        Message("assistant", "", (ToolCall("weather", '{"city":"Ulm"}', "f1"),)),
        Message("tool", '{"result":"rain"}', answers="f1"),
    ]
    assert asked[2].shown == "[thinking] Hm"
    parts = [part for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]
    text = "".join(part["text"] for part in parts if not part.get("thought"))
    assert said == [Message("assistant", text)]
    assert said[0].thought == "".join(part["text"] for part in parts if part.get("thought"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tools", [False, True])
def test_cohere(stream: bool, tools: bool, provider: Provider, store: Path) -> None:
    body = {"model": "command-a", "messages": USER, "p": 0.5, "stream": stream}
    body |= {"tools": [TOOL]} if tools else {"thinking": {"type": "enabled"}}
    content, attributes, asked, said = recorded(provider, store, "/v2/chat", body)
    if stream:
        events = [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
        assert events[-1]["type"] == "message-end"
        answer: dict[str, Any] = {"id": events[0]["id"], **events[-1]["delta"]}
        delta = [event["delta"]["message"] for event in events if event["type"].endswith("-delta")]
        plan = "".join(part.get("tool_plan", "") for part in delta)
        blocks = [part["content"] for part in delta if "content" in part]
        text, thought = ("".join(block.get(kind, "") for block in blocks) for kind in ("text", "thinking"))
        calls = [
            [event["delta"]["message"]["tool_calls"] for event in events if event.get("index") == index and "tool-call" in event["type"] and "delta" in event]
            for index in (0, 1)
        ]  # fmt: skip
        called = tuple(
            ToolCall(
                parts[0]["function"]["name"], "".join(part["function"]["arguments"] for part in parts), parts[0]["id"]
            )
            for parts in calls
            if parts
        )
    else:
        answer = json.loads(content)
        message = answer["message"]
        plan = message.get("tool_plan", "")
        text, thought = ("".join(b.get(kind, "") for b in message["content"]) for kind in ("text", "thinking"))
        functions = [(call["function"], call["id"]) for call in message["tool_calls"]]
        called = tuple(ToolCall(function["name"], function["arguments"], id) for function, id in functions)
    usage = answer["usage"]
    assert attributes == {
        "operation.name": "chat",
        "provider.name": "cohere",
        "request.model": "command-a",
        "request.top_p": 0.5,
        "response.id": answer["id"],
        "response.finish_reasons": [answer["finish_reason"]],
        "usage.input_tokens": usage["billed_units"]["input_tokens"],
        "usage.output_tokens": usage["billed_units"]["output_tokens"],
        "usage.cache_read.input_tokens": usage["cached_tokens"],
    } | ({"request.stream": True} if stream else {})
    assert asked == [Message("user", "Rain?")]
    assert said == [Message("assistant", plan if tools else text, called)]
    assert (said[0].thought, bool(called)) == (thought, tools)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tools", [False, True])
def test_ollama(stream: bool, tools: bool, provider: Provider, store: Path) -> None:
    options = {"temperature": 0.5, "num_predict": 9, "stop": "END"}
    body = {"model": "qwen3", "messages": USER, "options": options, "think": "low", "stream": stream}
    body |= {"tools": [TOOL]} if tools else {}
    content, attributes, asked, said = recorded(provider, store, "/api/chat", body)
    lines = [json.loads(line) for line in content.split(b"\n") if line] if stream else [json.loads(content)]
    assert attributes == {
        "operation.name": "chat",
        "provider.name": "ollama",
        "request.model": "qwen3",
        "request.temperature": 0.5,
        "request.max_tokens": 9,
        "request.stop_sequences": ["END"],
        "request.reasoning.level": "low",
        "response.model": "qwen3",
        "response.finish_reasons": ["stop"],
        "usage.input_tokens": lines[-1]["prompt_eval_count"],
        "usage.output_tokens": lines[-1]["eval_count"],
    } | ({"request.stream": True} if stream else {})
    spoken = [line["message"] for line in lines]
    calls = [call["function"] for message in spoken for call in message.get("tool_calls", ())]
    called = tuple(ToolCall(call["name"], orjson.dumps(call["arguments"]).decode()) for call in calls)
    assert asked == [Message("user", "Rain?")]
    assert said == [Message("assistant", "".join(message["content"] for message in spoken), called)]
    assert said[0].thought == "".join(message.get("thinking", "") for message in spoken)
    assert bool(called) is tools


def read(path: str, request: Any, answer: Any, content_type: str = "application/json") -> tuple[Any, Any, Any]:
    """Attributes of an answer, and the messages of both, of bodies as they are."""
    operation = recognise("POST", path, "")
    assert operation is not None
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    document = answer_document(operation, body, content_type)
    found = {key: value for key, value in operation.answer(document).items() if value is not None}
    return found, operation.asked(request), operation.said(document)


def test_groq_says_at_the_end_of_a_stream_what_it_used() -> None:
    chunks = [
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"reasoning": "Hm"}}], "x_groq": {"id": "r"}},
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]},
        {"id": "c", "model": "m", "choices": [], "x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}},
    ]
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    attributes, _, said = read("/openai/v1/chat/completions", {}, body, "text/event-stream")
    assert attributes == {
        "gen_ai.response.id": "c",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
    }
    assert (said, said[0].thought) == ([Message("assistant", "Hi")], "Hm")


def test_mistral_thinks_in_the_content() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Hi"}]
    deltas: list[Any] = [parts[:1], parts[1:], "!"]
    body = b"".join(
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": delta}}]}).encode() + b"\n\n"
        for delta in deltas
    )
    whole = {"choices": [{"message": {"role": "assistant", "content": parts}}]}
    _, _, streamed = read("/v1/chat/completions", {}, body, "text/event-stream")
    _, _, said = read("/v1/chat/completions", {}, whole)
    assert (streamed, streamed[0].thought) == ([Message("assistant", "Hi!")], "Hm")
    assert (said, said[0].thought) == ([Message("assistant", "Hi")], "Hm")


@pytest.mark.parametrize("stream", [False, True])
def test_openrouter_says_what_a_call_cost(stream: bool, provider: Provider, store: Path) -> None:
    body = {"model": "a/b", "messages": USER, "usage": {"include": True}, "stream": stream}
    with escapement.init(storage_dir=store) as trace, httpx.Client() as client:
        text = client.post(f"{provider.base_url}/api/v1/chat/completions", json=body).text
    (step,) = SpanStore(store).load(trace.trace_id).steps
    said = re.search(r'"cost": ?([^,}]+)', text)
    assert said is not None
    assert step.attributes["escapement.usage.cost"] == float(said[1]) > 0


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 0.25}, 0.25),
        ({"cost": 0}, 0.0),
        ({"cost": 0.25, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.2}}, 0.25),
        ({"cost": 0.25, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}}, 0.75),
        ({"cost": 0.25, "is_byok": True, "cost_details": None}, 0.25),
        ({"cost": {"input_tokens_cost": 0.1, "total_cost": 0.5}}, 0.5),
        ({"cost": "0.25"}, None),
        ({"cost": None}, None),
        ({"cost": {}}, None),
        ({}, None),
    ],
)
def test_what_answers_say_that_they_cost(usage: Any, cost: float | None) -> None:
    answer = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, **usage}}
    assert read("/v1/chat/completions", {}, answer)[0].get("escapement.usage.cost") == cost


@pytest.mark.parametrize("sealed", [False, True])
def test_what_a_call_says_that_it_cost_is_what_it_cost(sealed: bool, provider: Provider, store: Path) -> None:
    """In the run, its budget, lists, statistics, SQL, and by `cost_of`, which telemetry tells; list prices for who does
    not say it."""
    routed = {"model": "openai/gpt-4o", "messages": USER, "usage": {"include": True}}
    silent = {"model": "openai/gpt-4o", "messages": [*USER, *USER]}
    plain = {"model": "gpt-4o", "messages": USER}

    class Elsewhere(httpx.HTTPTransport):
        """To the provider at hand, whatever the address says."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            request.url = httpx.URL(f"{provider.base_url}{request.url.raw_path.decode()}")
            return super().handle_request(request)

    with (
        escapement.init(storage_dir=store, max_cost=1e9) as trace,
        httpx.Client(transport=Elsewhere()) as client,
    ):
        said = client.post("https://openrouter.ai/api/v1/chat/completions", json=routed).json()["usage"]["cost"]
        client.post("https://openrouter.ai/api/v1/chat/completions", json=silent)
        client.post("https://api.openai.com/v1/chat/completions", json=plain)
    if sealed:
        escapement.open_store(store).compact()
    reader = SpanStore(store)
    steps = reader.load(trace.trace_id).steps
    listed = [Prices().cost(*use_of(step.attributes, step.attributes, step.start)[:7]) for step in steps]
    costs = [said, *listed[1:]]
    assert said != listed[0]
    assert None not in costs
    together = pytest.approx(sum(costs))
    assert [cost_of(step.attributes, step.start, Prices()) for step in steps] == costs
    assert trace.cost == together
    assert [row[0] for row in reader.sql("SELECT cost_usd FROM llm_calls ORDER BY step").rows] == pytest.approx(costs)
    assert reader.sql("SELECT cost_usd FROM traces").rows == [(together,)]
    assert [found.cost for found in page(reader)] == [together]
    assert stats(reader)[0].cost == together
    by_model = reader.sql("SELECT model, sum(cost_usd) FROM llm_calls GROUP BY ALL ORDER BY ALL").rows
    assert by_model == [("gpt-4o", pytest.approx(costs[2])), ("openai/gpt-4o", pytest.approx(costs[0] + costs[1]))]
    routed["model"] = "of-nobody/knows-what"  # so that only the answer can say it
    with (
        pytest.raises(escapement.BudgetExceededError),
        escapement.init(storage_dir=store, max_cost=0.0001, on_guard="kill") as stopped,
        httpx.Client(transport=Elsewhere()) as client,
    ):
        for _ in range(2):
            client.post("https://openrouter.ai/api/v1/chat/completions", json=routed)
    assert stopped.calls == 1


OTHERS = {
    "embeddings of Gemini": (
        "/v1beta/models/e:batchEmbedContents",
        {"requests": [{"content": {"parts": [{"text": "one"}]}}, {"content": {"parts": [{"text": "two"}]}}]},
        {"embeddings": [{"values": [0.5]}, {"values": [0.5]}]},
        [Message("input", "one"), Message("input", "two")],
        [Message("output", "[2 embeddings]")],
    ),
    "tokens of Gemini": (
        "/v1/projects/p/locations/l/publishers/google/models/g:countTokens",
        {"contents": [{"role": "user", "parts": [{"text": "one"}]}]},
        {"totalTokens": 1},
        [Message("user", "one")],
        [Message("output", "[1 token]")],
    ),
    "reranking": (
        "/v2/rerank",
        {"query": "clocks", "documents": ["one", "two"]},
        {"results": [{"index": 1, "relevance_score": 0.5}]},
        [Message("user", "clocks"), Message("input", "one"), Message("input", "two")],
        [Message("output", "document 1: 0.5")],
    ),
    "Cohere's first chat": (
        "/v1/chat",
        {"preamble": "Be brief.", "chat_history": [{"role": "CHATBOT", "message": "Hello"}], "message": "Hi"},
        {"text": "Yes", "tool_calls": [{"name": "weather", "parameters": {"city": "Ulm"}}]},
        [Message("system", "Be brief."), Message("assistant", "Hello"), Message("user", "Hi")],
        [Message("assistant", "Yes", (ToolCall("weather", '{"city":"Ulm"}'),))],
    ),
    "a completion of Ollama": (
        "/api/generate",
        {"system": "Be brief.", "prompt": "Once"},
        {"response": "upon"},
        [Message("system", "Be brief."), Message("user", "Once")],
        [Message("assistant", "upon")],
    ),
    "images": (
        "/v1/images/generations",
        {"prompt": "A clock"},
        {"data": [{"b64_json": "AA=="}]},
        [Message("user", "A clock")],
        [Message("output", "[1 image]")],
    ),
    "speech": ("/v1/audio/speech", {"input": "Hello"}, b"\xff\xfb", [Message("input", "Hello")], []),
    "moderation": (
        "/v1/moderations",
        {"input": ["one", {"type": "image_url"}]},
        {"results": [{"categories": {"hate": True, "sexual": False}}, {"categories": {"hate": False}}]},
        [Message("input", "one"), Message("input", "[image_url]")],
        [Message("output", "flagged: hate"), Message("output", "not flagged")],
    ),
    "a search": (
        "/v1/vector_stores/vs_1/search",
        {"query": "clocks"},
        {"data": [{}, {}]},
        [Message("user", "clocks")],
        [Message("output", "[2 results]")],
    ),
    "tokens of a response": (
        "/v1/responses/input_tokens",
        {"model": "gpt-4o", "input": "Hello"},
        {"input_tokens": 3},
        [Message("user", "Hello")],
        [],
    ),
    "Claude on Vertex": (
        "/v1/projects/p/locations/l/publishers/anthropic/models/claude-any:streamRawPredict",
        {"messages": USER},
        {"content": [{"type": "text", "text": "Yes"}]},
        [Message("user", "Rain?")],
        [Message("assistant", "Yes")],
    ),
    "OCR": (
        "/v1/ocr",
        {"document": {"type": "document_url"}},
        {"pages": [{"markdown": "# One"}]},
        [Message("user", "[document_url]")],
        [Message("output", "# One")],
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_operations(name: str) -> None:
    path, request, answer, asked, said = OTHERS[name]
    assert read(path, request, answer)[1:] == (asked, said)


def test_a_response_that_is_fetched_is_not_counted_again(client: openai.OpenAI, store: Path) -> None:
    with escapement.init(storage_dir=store) as trace:
        fetched = client.responses.retrieve("resp_1")
    row = SpanStore(store).load(trace.trace_id)
    (step,) = row.steps
    assert step.name == "fetch_response"
    assert {name: value for name, value in step.attributes.items() if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "fetch_response",
        "gen_ai.provider.name": "openai",
        "gen_ai.response.id": fetched.id,
        "gen_ai.response.model": fetched.model,
        "gen_ai.response.finish_reasons": ["completed"],
    }
    assert messages(row, step) == ([], [Message("assistant", fetched.output_text)], "")
    operation = recognise("DELETE", "/v1/responses/resp_1", "openai")
    assert operation is not None
    assert operation.name == "responses"


def test_what_a_response_in_the_background_used_counts_when_it_is_first_told(
    client: openai.OpenAI, store: Path
) -> None:
    with escapement.init(storage_dir=store) as trace:
        job = client.responses.create(model="gpt-4o", input="Take your time", background=True)
        while job.status in ("queued", "in_progress"):
            job = client.responses.retrieve(job.id)
        assert client.responses.retrieve(job.id).usage == job.usage
    assert job.usage is not None
    assert (trace.input_tokens, trace.output_tokens) == (job.usage.input_tokens, job.usage.output_tokens)
    steps = SpanStore(store).load(trace.trace_id).steps
    told = [step.step for step in steps if "gen_ai.usage.input_tokens" in step.attributes]
    assert told == [len(steps) - 1]
    assert {step.name for step in steps[1:]} == {"fetch_response"}


def test_an_interaction_is_read(provider: Provider, store: Path) -> None:
    """Steps of the Interactions API, streamed: thoughts, calls, their results, and what was used."""
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    with escapement.init(storage_dir=store) as trace:
        made = genai.Client(api_key="any", http_options={"base_url": provider.base_url})
        asked: Any = {"model": "gemini-2.5-flash", "tools": [tool], "system_instruction": "Be brief."}
        events = list(made.interactions.create(**asked, input="Rain?", stream=True))
        started = [event.step for event in events if event.event_type == "step.start"]
        results = [
            {"type": "function_result", "call_id": step.id, "result": "no such city", "is_error": True}
            for step in started
            if step.type == "function_call"
        ]
        done = events[-1].interaction
        made.interactions.create(**asked, input=results, previous_interaction_id=done.id)
        made.close()
    row = SpanStore(store).load(trace.trace_id)
    first, second = row.steps
    usage = done.usage
    assert {name: value for name, value in first.attributes.items() if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini-2.5-flash",
        "gen_ai.request.stream": True,
        "gen_ai.response.id": done.id,
        "gen_ai.response.model": "gemini-2.5-flash",
        "gen_ai.response.finish_reasons": ["completed"],
        "gen_ai.response.time_to_first_chunk": first.attributes["gen_ai.response.time_to_first_chunk"],
        "gen_ai.usage.input_tokens": usage.total_input_tokens + usage.total_tool_use_tokens,
        "gen_ai.usage.output_tokens": usage.total_output_tokens + usage.total_thought_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.total_cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.total_thought_tokens,
    }
    asked_first, said, _ = messages(row, first)
    assert asked_first == [Message("system", "Be brief."), Message("user", "Rain?")]
    assert bool(said[0].thought)
    assert said[0].text == ""
    assert [call.name for message in said for call in message.tool_calls] == ["weather"] * len(results)
    asked_second, _, _ = messages(row, second)
    assert asked_second == [
        Message("system", "Be brief."),
        *(Message("tool", "no such city", answers=result["call_id"], failed=True) for result in results),
    ]
    assert second.attributes["gen_ai.request.previous_response.id"] == done.id
    assert second.attributes["escapement.tools.failed"] == ["weather"] * len(results)


def test_a_form_is_shown_and_names_its_model(provider: Provider, store: Path) -> None:
    with escapement.init(storage_dir=store) as trace, httpx.Client() as client:
        text = client.post(
            f"{provider.base_url}/v1/audio/transcriptions",
            data={"model": "whisper-1", "prompt": "Names"},
            files={"file": ("a.mp3", b"\x00\r\n--\xff")},
        ).json()["text"]
    row = SpanStore(store).load(trace.trace_id)
    assert row.steps[0].name == "transcription whisper-1"
    assert messages(row, row.steps[0]) == (
        [Message("user", "[a.mp3]"), Message("user", "Names")],
        [Message("output", text)],
        "",
    )
    again = httpx.Request("POST", "http://host", data={"model": "whisper-1"}, files={"file": ("a.mp3", b"1")})
    assert multipart.fields(again.read(), again.headers["content-type"]) == {"model": "whisper-1", "file": "[a.mp3]"}
    assert multipart.fields(b"{}", "application/json") == {}


def test_a_form_is_the_same_request_whatever_its_boundary(provider: Provider, store: Path) -> None:
    def ask(boundary: str) -> bytes:
        kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
        files = {"file": ("a.mp3", b"\x00\r\n--\xff")}
        url = f"{provider.base_url}/v1/audio/transcriptions"
        return client.post(url, data={"model": "whisper-1"}, files=files, headers=kind).content

    with httpx.Client() as client:
        with escapement.init(storage_dir=store) as trace:
            live = ask("one")
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            assert ask("another") == live
    assert provider.count == 1


def test_a_path_that_names_the_model() -> None:
    same = {
        "/v1beta/models/g:generateContent",
        "/v1beta1/publishers/google/models/g:generateContent",
        "/v1/projects/p/locations/l/publishers/google/models/g:generateContent",
    }
    assert {tail(path) for path in same} == {"models/g:generateContent"}
    found = {
        path: (operation.name, operation.model) if (operation := recognise("POST", path, "")) else None
        for path in (
            *same,
            "/v1/projects/p/locations/l/endpoints/7:predict",
            "/openai/deployments/my%20gpt/chat/completions",
            "/v1/projects/p/locations/l/publishers/anthropic/models/c:rawPredict",
            "/v1/projects/p/locations/l/publishers/anthropic/models/count-tokens:rawPredict",
            "/v1/messages/batches/b/results",
            "/v1beta/models/g:operate",
            "/v1beta/models/g",
        )
    }
    assert found == {
        **dict.fromkeys(same, ("generate_content", "g")),
        "/v1/projects/p/locations/l/endpoints/7:predict": ("predict", "7"),
        "/openai/deployments/my%20gpt/chat/completions": ("chat", "my gpt"),
        "/v1/projects/p/locations/l/publishers/anthropic/models/c:rawPredict": ("chat", "c"),
        "/v1/projects/p/locations/l/publishers/anthropic/models/count-tokens:rawPredict": ("count_tokens", ""),
        "/v1/messages/batches/b/results": ("batches", ""),
        "/v1beta/models/g:operate": None,
        "/v1beta/models/g": None,
    }


def test_the_query_key_of_gemini_does_not_count(provider: Provider, store: Path) -> None:
    def ask(model: str, key: str) -> bytes:
        url = f"{provider.base_url}/v1beta/models/{model}:generateContent?key={key}"
        return client.post(url, json={"contents": [{"parts": [{"text": "Hi"}]}]}).content

    with httpx.Client() as client:
        with escapement.init(storage_dir=store) as trace:
            live = ask("one", "first")
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            assert ask("one", "second") == live
            with pytest.raises(escapement.ReplayDivergenceError, match="generate_content other"):
                ask("other", "first")
    assert provider.count == 1


def test_paths_that_others_use_too_pass_untouched(provider: Provider, store: Path) -> None:
    with escapement.init(storage_dir=store) as trace, httpx.Client() as client:
        for path in ("/api/chat", "/v1/chat", "/v1/conversations", "/v1/agents/completions"):
            client.post(f"{provider.base_url}{path}", json={"message": "Hi"})
    assert (trace.steps, provider.count) == (0, 4)


SECRET = "sk-proj-" + "aB3dE6gH9k" * 6
FRAMES = {
    "Gemini": (
        "/v1beta/models/g:streamGenerateContent",
        "text/event-stream",
        lambda part: {"candidates": [{"content": {"parts": [{"text": part}], "role": "model"}, "index": 0}]},
    ),
    "Cohere": (
        "/v2/chat",
        "text/event-stream",
        lambda part: {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": part}}}},
    ),
    "Cohere's first": (
        "/v1/chat",
        "application/stream+json",
        lambda part: {"event_type": "text-generation", "text": part},
    ),
    "Ollama": ("/api/chat", "application/x-ndjson", lambda part: {"message": {"role": "assistant", "content": part}}),
    "Ollama thinking": ("/api/chat", "application/x-ndjson", lambda part: {"message": {"thinking": part}}),
    "Ollama completion": ("/api/generate", "application/x-ndjson", lambda part: {"response": part}),
    "Mistral thinking": (
        "/v1/chat/completions",
        "text/event-stream",
        lambda part: {
            "choices": [
                {"index": 0, "delta": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": part}]}]}}
            ]
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("cut_off", [False, True])
def test_a_key_spread_over_a_stream(name: str, cut_off: bool) -> None:
    path, content_type, frame = FRAMES[name]
    text = f"It is {SECRET}, keep it."
    frames = [json.dumps(frame(text[at : at + 7])).encode() for at in range(0, len(text), 7)]
    lines = content_type != "text/event-stream"
    chunks = [line + b"\n" if lines else b"data: " + line + b"\n\n" for line in frames]
    if cut_off:
        chunks[-1] = chunks[-1].rstrip()[:-4]
    operation = recognise("POST", path, "")
    assert operation is not None
    body = b"".join(chunks)
    cuts = [sum(map(len, chunks[: at + 1])) for at in range(len(chunks))]
    clean, moved = spread.scrub_stream(body, cuts, answer_document(operation, body, content_type))
    assert moved[-1] == len(clean)
    said = str(answer_document(operation, clean, content_type))
    assert "It is [REDACTED:openai-key], " in said
    assert SECRET[:20] not in said
    assert not cut_off or b"keep it." not in clean

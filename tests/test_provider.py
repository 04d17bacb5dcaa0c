"""The provider, driven by the real SDKs: every answer is one they accept, and no two are alike."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, cast

import anthropic
import openai
import pytest
from pydantic import BaseModel, Field

from .provider import Provider
from .provider.fixed import _TEXT as FIXED
from .provider.schema import sample

USER: Any = [{"role": "user", "content": "Hello, you"}]
CALL: Any = {"model": "gpt-4o", "messages": USER}
ASK: Any = {"model": "claude-any", "max_tokens": 999, "messages": USER}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    size: int
    colour: Colour
    note: str | None


class Place(BaseModel):
    city: str


class Tree(BaseModel):
    name: str
    tall: bool
    height: float
    leaves: list[Leaf]
    best: Leaf | None
    children: list[Tree]


class Picky(Tree):
    """What only full JSON schema can say."""

    age: int = Field(ge=18, lt=21)
    share: float = Field(gt=0, le=1)
    code: str = Field(min_length=30, max_length=40)
    planted: datetime
    marks: dict[str, int]
    pair: tuple[int, str]
    few: list[int] = Field(min_length=2, max_length=2)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def openai_options(provider: Provider, **options: Any) -> dict[str, Any]:
    # Strict validation makes the SDK raise where it would otherwise take any answer whatever.
    url = f"{provider.base_url}/v1"
    return {"base_url": url, "api_key": "k", "max_retries": 0, "_strict_response_validation": True, **options}


def anthropic_options(provider: Provider, **options: Any) -> dict[str, Any]:
    return {**openai_options(provider), "base_url": provider.base_url, **options}


@pytest.fixture(scope="module")
def gpt(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**openai_options(provider)) as client:
        yield client


@pytest.fixture(scope="module")
def claude(provider: Provider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(**anthropic_options(provider)) as client:
        yield client


def differ(ask: Callable[[], Any]) -> Any:
    """An answer, after seeing that asking again gives another."""
    first, second = ask(), ask()
    assert first.to_dict() != second.to_dict()
    return first


def test_chat(gpt: openai.OpenAI) -> None:
    answer = differ(lambda: gpt.chat.completions.create(**CALL, n=2, logprobs=True, top_logprobs=2))
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
    assert not answer.choices[0].message.content.isascii()
    tokens = answer.choices[1].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[1].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens is not None
    assert answer.model_extra["x_provider_extra"]["note"]
    assert answer.choices[0].message.model_extra["x_provider_extra"]["note"]
    assert answer._request_id.startswith("req_")


def test_chat_stream(gpt: openai.OpenAI) -> None:
    options: Any = {"stream": True, "n": 2, "logprobs": True, "stream_options": {"include_usage": True}}
    chunks = list(gpt.chat.completions.create(**CALL, **options))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices].count("stop") == 2
    assert chunks[-1].usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_stream_helper(gpt: openai.OpenAI) -> None:
    with gpt.chat.completions.stream(**CALL, response_format=Tree) as stream:
        done = [event for event in stream if event.type == "content.done"]
        assert stream.get_final_completion().choices[0].message.parsed == done[0].parsed
    assert isinstance(done[0].parsed, Tree)


def test_chat_tools(gpt: openai.OpenAI) -> None:
    tool: Any = openai.pydantic_function_tool(Place)
    answer = gpt.chat.completions.parse(**CALL, tools=[tool])
    message = answer.choices[0].message
    assert message.tool_calls
    assert isinstance(message.tool_calls[0].function.parsed_arguments, Place)
    with gpt.chat.completions.stream(**CALL, tools=[tool]) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert calls
    assert all(isinstance(call.function.parsed_arguments, Place) for call in calls)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "1"}
    after: Any = [*USER, message.to_dict(), result]
    told = gpt.chat.completions.create(model="gpt-4o", messages=after, tools=[tool])
    assert told.choices[0].finish_reason == "stop"


def test_parse(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    for _ in range(5):
        assert gpt.chat.completions.parse(**CALL, response_format=Tree).choices[0].message.parsed
        assert gpt.responses.parse(model="gpt-4o", input="x", text_format=Tree).output_parsed
        if hasattr(claude.messages, "parse"):
            assert isinstance(claude.messages.parse(**ASK, output_format=Leaf).parsed_output, Leaf)
            # The beta endpoint's parameter was deprecated for a while.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                assert isinstance(claude.beta.messages.parse(**ASK, output_format=Leaf).parsed_output, Leaf)


def test_schema() -> None:
    for _ in range(50):
        Picky.model_validate(sample(Picky.model_json_schema()))


def test_legacy_completions(provider: Provider, gpt: openai.OpenAI) -> None:
    call: Any = {"model": "gpt-3.5-turbo-instruct", "prompt": ["a", "b"]}
    assert len(differ(lambda: gpt.completions.create(**call)).choices) == 2
    # The SDK's type denies the null `finish_reason` that live streams have in all chunks but the last.
    with openai.OpenAI(**openai_options(provider, _strict_response_validation=False)) as lenient:
        chunks = list(lenient.completions.create(**call, stream=True, stream_options={"include_usage": True}))
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}
    assert chunks[-1].usage


def test_responses(gpt: openai.OpenAI) -> None:
    answer = differ(lambda: gpt.responses.create(model="gpt-4o", input="Hello", instructions="Be brief"))
    assert answer.output_text
    assert answer.usage.total_tokens
    assert answer.model_extra["x_provider_extra"]["note"]
    assert gpt.responses.retrieve(answer.id).id == answer.id
    events = list(gpt.responses.create(model="gpt-4o", input=USER, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    last = events[-1]
    assert last.type == "response.completed"
    assert "".join(deltas) == last.response.output_text


def test_responses_tools(gpt: openai.OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "name": "weather",
        "parameters": Place.model_json_schema(),
        "strict": True,
    }
    with gpt.responses.stream(model="gpt-4o", input="Hello", tools=[tool]) as stream:
        response = stream.get_final_response()
    called = response.output[0]
    assert called.type == "function_call"
    assert cast(Any, called.parsed_arguments)["city"]
    result: Any = {"type": "function_call_output", "call_id": called.call_id, "output": "1"}
    assert gpt.responses.create(model="gpt-4o", input=[result], tools=[tool]).output_text


def test_embeddings(provider: Provider, gpt: openai.OpenAI) -> None:
    call: Any = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 3}
    floats = differ(lambda: gpt.embeddings.create(**call, encoding_format="float"))
    # The SDK asks for base64 unless told, which its own strict validation does not take.
    with openai.OpenAI(**openai_options(provider, _strict_response_validation=False)) as lenient:
        packed = lenient.embeddings.create(**call)
    for answer in (floats, packed):
        assert [len(entry.embedding) for entry in answer.data] == [3, 3]
        assert answer.data[0].embedding != answer.data[1].embedding


def test_other_endpoints(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    assert len(differ(lambda: gpt.moderations.create(input=["a", "b"])).results) == 2
    assert len(list(gpt.models.list())) == 3
    assert differ(lambda: gpt.models.retrieve("gpt-4o")).id == "gpt-4o"
    assert len(list(claude.models.list())) == 3
    assert claude.models.retrieve("claude-x").id == "claude-x"
    assert claude.messages.count_tokens(model="claude-x", messages=USER).input_tokens


def test_messages(claude: anthropic.Anthropic) -> None:
    answer = differ(lambda: claude.messages.create(**ASK, thinking=THINKING))
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.usage.cache_creation_input_tokens is not None
    assert answer.model_extra["x_provider_extra"]["note"]
    assert answer._request_id.startswith("req_")


def test_messages_stream(claude: anthropic.Anthropic) -> None:
    events = list(claude.messages.create(**ASK, stream=True))
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    with claude.messages.stream(**ASK, thinking=THINKING) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    thought, told = final.content
    assert thought.type == "thinking"
    assert thought.signature
    assert told.type == "text"
    assert told.text == text
    assert final.stop_reason == "end_turn"


def test_messages_tools(provider: Provider, claude: anthropic.Anthropic) -> None:
    cities: list[str] = []

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        cities.append(city)
        return "fine"

    for stream in (False, True):
        before, called = provider.count, len(cities)
        runner: Any = claude.beta.messages.tool_runner(**ASK, tools=[weather], stream=stream)
        final = runner.until_done()
        assert final.stop_reason == "end_turn"
        assert provider.count == before + 2
        assert len(cities) > called


def test_messages_threads(provider: Provider, claude: anthropic.Anthropic) -> None:
    def turn(**thread: str) -> Any:
        call: Any = {"model": "echo", "max_tokens": 9, "messages": USER, "extra_body": {"thread": thread}}
        return claude.messages.create(**call)

    first = turn(type="create")
    assert turn(type="continue", previous_message_id=first.id).content[0].text == "Hello, you"
    for name, code in ((first.id, "thread_already_continued"), ("msg_other", "thread_not_found")):
        with pytest.raises(anthropic.APIStatusError) as raised:
            turn(type="continue", previous_message_id=name)
        assert cast(Any, raised.value.body)["error"]["details"] == {"error_code": code}

    if hasattr(claude.beta.messages, "thread"):
        thread = claude.beta.messages.thread(model="claude-any", max_tokens=9)
        thread.send(USER[0])
        with Provider() as other:
            # A server that knows nothing of the thread is sent all of it anew.
            thread._client = claude.with_options(base_url=other.base_url)
            thread.send(USER[0])
            assert [b'"continue"' in request.body for request in other.requests] == [True, False]


def test_async(provider: Provider) -> None:
    async def drive() -> None:
        async with openai.AsyncOpenAI(**openai_options(provider)) as gpt:
            first, second = await asyncio.gather(*(gpt.chat.completions.create(**CALL) for _ in range(2)))
            assert first.to_dict() != second.to_dict()
            assert [chunk async for chunk in await gpt.chat.completions.create(**CALL, stream=True)]
            assert (await gpt.chat.completions.parse(**CALL, response_format=Tree)).choices[0].message.parsed
            async with gpt.responses.stream(model="gpt-4o", input="x") as stream:
                assert (await stream.get_final_response()).output_text
        async with anthropic.AsyncAnthropic(**anthropic_options(provider)) as claude:
            assert (await claude.messages.create(**ASK)).content
            async with claude.messages.stream(**ASK) as told:
                assert await told.get_final_text()

    asyncio.run(drive())


def test_azure(provider: Provider) -> None:
    url = provider.base_url
    with openai.AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key="k") as azure:
        assert azure.chat.completions.create(**CALL).choices[0].message.content
    request = provider.requests[-1]
    assert request.path == "/openai/deployments/gpt-4o/chat/completions"
    assert (request.query, request.headers["api-key"]) == ("api-version=2024-10-21", "k")
    assert b'"Hello, you"' in request.body


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 529])
def test_errors(gpt: openai.OpenAI, claude: anthropic.Anthropic, status: int) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: gpt.chat.completions.create(model=f"error-{status}", messages=USER),
        lambda: gpt.responses.create(model=f"error-{status}", input="x", stream=True),
        lambda: claude.messages.create(model=f"error-{status}", max_tokens=9, messages=USER),
    ]
    for call in calls:
        with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as raised:
            call()
        error = cast(openai.APIStatusError, raised.value)
        assert error.status_code == status
        assert "Refused: " in error.message
        assert error.request_id
        assert error.response.headers.get("retry-after-ms") == ("10" if status >= 429 else None)


def test_flaky(provider: Provider) -> None:
    with (
        openai.OpenAI(**openai_options(provider, max_retries=2)) as gpt,
        anthropic.Anthropic(**anthropic_options(provider, max_retries=2)) as claude,
    ):
        for model, attempts in (("flaky-429", 2), ("flaky-500-2", 3), ("flaky-drop", 2)):
            for create in (gpt.chat.completions.create, partial(claude.messages.create, max_tokens=9)):
                for expected in (attempts, 1):
                    before = provider.count
                    cast(Any, create)(model=model, messages=USER)
                    assert provider.count - before == expected


def test_broken_connections(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.APIConnectionError):
        gpt.chat.completions.create(model="drop", messages=USER)
    with pytest.raises(anthropic.APIConnectionError):
        claude.messages.create(model="drop-midstream", max_tokens=9, messages=USER)
    # Which error it is differs by SDK: its own, or that of the HTTP library beneath.
    streams: list[Callable[[], Any]] = [
        lambda: gpt.chat.completions.create(model="drop-midstream", messages=USER, stream=True),
        lambda: gpt.responses.create(model="drop-midstream", input="x", stream=True),
        lambda: claude.messages.create(model="drop-midstream", max_tokens=9, messages=USER, stream=True),
    ]
    for stream in streams:
        told: list[Any] = []
        with pytest.raises(Exception, match=r"incomplete chunked read|Connection error"):
            told.extend(stream())
        assert told


def test_stream_errors(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.APIError, match="Refused: "):
        list(gpt.chat.completions.create(model="stream-error", messages=USER, stream=True))
    with pytest.raises(openai.APIError, match="Refused: "):
        list(gpt.responses.create(model="stream-error", input="x", stream=True))
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        list(claude.messages.create(model="stream-error", max_tokens=9, messages=USER, stream=True))


def test_slow(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.APITimeoutError):
        gpt.chat.completions.create(model="slow", messages=USER, timeout=0.1)
    with pytest.raises(anthropic.APITimeoutError):
        claude.messages.create(model="slow", max_tokens=9, messages=USER, timeout=0.1)


def test_echo(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    said = 'Grüße, 👩‍👩‍👧 "quoted" \u2028 \\ \n '
    messages: Any = [{"role": "user", "content": said}]
    assert gpt.chat.completions.create(model="echo", messages=messages).choices[0].message.content == said
    with gpt.chat.completions.stream(model="echo", messages=messages) as stream:
        assert stream.get_final_completion().choices[0].message.content == said
    assert gpt.responses.create(model="echo", input=said).output_text == said
    assert gpt.completions.create(model="echo", prompt=said).choices[0].text == said
    with claude.messages.stream(model="echo", max_tokens=9, messages=messages) as told:
        assert told.get_final_text() == said


def test_headers(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    raw = gpt.chat.completions.with_raw_response.create(model="gzip-gpt", messages=USER)
    assert raw.parse().choices
    assert raw.headers["content-encoding"] == "gzip"
    for name in ("x-request-id", "openai-processing-ms", "x-ratelimit-limit-tokens", "date", "set-cookie"):
        assert raw.headers[name]
    other = claude.messages.with_raw_response.create(**ASK)
    for name in ("request-id", "anthropic-organization-id", "anthropic-ratelimit-requests-reset"):
        assert other.headers[name]


def test_stop() -> None:
    with (
        Provider(latency=0.05, chunk_delay=0.01) as provider,
        openai.OpenAI(**openai_options(provider)) as gpt,
    ):
        gpt.chat.completions.create(**CALL)
        stream = gpt.chat.completions.create(**CALL, stream=True)
        assert provider.count == len(provider.requests) == 2
        next(iter(stream))
        provider.stop()
        provider.stop()
        with pytest.raises(Exception, match=r"incomplete chunked read|Connection error"):
            list(stream)
        with pytest.raises(openai.APIConnectionError):
            gpt.chat.completions.create(**CALL)
    assert provider.count == 2


@pytest.mark.parametrize("arguments", [[], ["--fixed"], ["--fixed", "--chunk-delay", "0.0001"]])
def test_own_process(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "tests.provider", *arguments]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            drive_own_process(process.stdout.readline().strip(), fixed=bool(arguments))
        finally:
            process.terminate()


def drive_own_process(url: str, fixed: bool) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k") as gpt:
        texts = [gpt.chat.completions.create(**CALL).choices[0].message.content]
        chunks = list(gpt.chat.completions.create(**CALL, stream=True))
        texts += ["".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip()]
        with gpt.responses.stream(model="x", input="x") as stream:
            texts += [stream.get_final_response().output_text]
    with anthropic.Anthropic(base_url=url, api_key="k") as claude, claude.messages.stream(**ASK) as told:
        texts += [told.get_final_text().strip()]
    assert [text == FIXED for text in texts] == [fixed] * 4
    with urllib.request.urlopen(f"{url}/_count") as count:
        assert count.read() == b"4"

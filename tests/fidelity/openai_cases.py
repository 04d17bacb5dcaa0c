"""The calls of the OpenAI SDK."""

from __future__ import annotations

from functools import partial
from typing import Any

import openai
from pydantic import BaseModel

from tests.fidelity.cases import ASYNC, SYNC, case, drained, entered, http_library, is_async, lacks_aiohttp, settle

USER: Any = [{"role": "user", "content": "Grüße: what is the weather like? 🙂"}]
CHAT: Any = {"model": "gpt-4o", "messages": USER}
CITY: Any = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
CITY |= {"required": ["city", "days"], "additionalProperties": False}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}
FUNCTION: Any = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}

openai_case = partial(case, "openai")


class Place(BaseModel):
    city: str
    height: float
    names: list[str]


# -- chat completions ------------------------------------------------------------------------------------------------


@openai_case()
async def create(client: Any) -> Any:
    return await settle(client.chat.completions.create(**CHAT))


@openai_case()
async def create_again_and_again(client: Any) -> Any:
    return [await settle(client.chat.completions.create(**CHAT)) for _ in range(3)]


@openai_case()
async def create_choices_with_logprobs(client: Any) -> Any:
    return await settle(client.chat.completions.create(**CHAT, n=3, logprobs=True, top_logprobs=2))


@openai_case()
async def create_with_tools(client: Any) -> Any:
    first = await settle(client.chat.completions.create(**CHAT, tools=[TOOL]))
    message = first.choices[0].message
    told = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
    messages = [*USER, message.to_dict(), *told]
    return [first, await settle(client.chat.completions.create(model="gpt-4o", messages=messages, tools=[TOOL]))]


@openai_case()
async def create_with_extras(client: Any) -> Any:
    extras: Any = {"extra_headers": {"x-tenant": "7"}, "extra_query": {"trial": "1"}, "extra_body": {"x_mode": "quick"}}
    return await settle(client.chat.completions.create(**CHAT, **extras))


@openai_case()
async def stream(client: Any) -> Any:
    return await drained(await settle(client.chat.completions.create(**CHAT, stream=True)))


@openai_case()
async def stream_with_usage(client: Any) -> Any:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    return await drained(await settle(client.chat.completions.create(**CHAT, **options)))


@openai_case()
async def stream_choices_with_logprobs(client: Any) -> Any:
    return await drained(await settle(client.chat.completions.create(**CHAT, stream=True, n=2, logprobs=True)))


@openai_case()
async def stream_tool_calls(client: Any) -> Any:
    return await drained(await settle(client.chat.completions.create(**CHAT, stream=True, tools=[TOOL])))


@openai_case()
async def stream_in_with(client: Any) -> Any:
    async with entered(await settle(client.chat.completions.create(**CHAT, stream=True))) as events:
        return [await drained(events), events.response]


@openai_case(needs="chat.completions.stream")
async def stream_helper(client: Any) -> Any:
    async with entered(client.chat.completions.stream(**CHAT)) as events:
        return [await drained(events), await settle(events.get_final_completion())]


@openai_case(needs="chat.completions.stream")
async def stream_helper_with_tools(client: Any) -> Any:
    async with entered(client.chat.completions.stream(**CHAT, tools=[TOOL])) as events:
        return [await drained(events), await settle(events.get_final_completion())]


@openai_case(needs="chat.completions.stream")
async def stream_helper_with_format(client: Any) -> Any:
    async with entered(client.chat.completions.stream(**CHAT, response_format=Place)) as events:
        return [await drained(events), await settle(events.get_final_completion())]


@openai_case(needs="beta.chat.completions.stream")
async def stream_helper_of_beta(client: Any) -> Any:
    async with entered(client.beta.chat.completions.stream(**CHAT)) as events:
        return [await drained(events), await settle(events.get_final_completion())]


@openai_case(needs="chat.completions.parse")
async def parse(client: Any) -> Any:
    return await settle(client.chat.completions.parse(**CHAT, response_format=Place))


@openai_case(needs="beta.chat.completions.parse")
async def parse_of_beta(client: Any) -> Any:
    return await settle(client.beta.chat.completions.parse(**CHAT, response_format=Place))


# -- raw and streaming responses -------------------------------------------------------------------------------------


@openai_case()
async def raw(client: Any) -> Any:
    response = await settle(client.chat.completions.with_raw_response.create(**CHAT))
    return [response, response.parse(), response.text]


@openai_case()
async def raw_stream(client: Any) -> Any:
    response = await settle(client.chat.completions.with_raw_response.create(**CHAT, stream=True))
    return [await drained(response.parse()), response]


@openai_case(needs="chat.completions.with_raw_response.parse")
async def raw_parse(client: Any) -> Any:
    response = await settle(client.chat.completions.with_raw_response.parse(**CHAT, response_format=Place))
    return [response, response.parse()]


@openai_case()
async def raw_gzip(client: Any) -> Any:
    response = await settle(client.chat.completions.with_raw_response.create(model="gzip-gpt", messages=USER))
    assert response.headers["content-encoding"] == "gzip"
    return [response, response.parse()]


@openai_case()
async def gzip(client: Any) -> Any:
    return await settle(client.chat.completions.create(model="gzip-gpt", messages=USER))


READINGS = ("iter_bytes", "iter_lines", "iter_text", "read", "json", "parse")


async def read(response: Any, reading: str) -> Any:
    result = getattr(response, reading)()
    return await drained(result) if reading.startswith("iter") else await settle(result)


def streaming_response(reading: str, **options: Any) -> Any:
    async def program(client: Any) -> Any:
        streaming = client.chat.completions.with_streaming_response
        async with entered(streaming.create(**{**CHAT, **options})) as response:
            result = await read(response, reading)
            if options.get("stream") and reading == "parse":
                result = await drained(result)
            return [result, response]

    return program


for reading in READINGS:
    openai_case(f"streaming_response_{reading}")(streaming_response(reading))
for reading in ("iter_bytes", "iter_lines", "iter_text", "parse"):
    openai_case(f"streaming_response_of_stream_{reading}")(streaming_response(reading, stream=True))
for reading in ("iter_bytes", "read", "json"):
    openai_case(f"streaming_response_of_gzip_{reading}")(streaming_response(reading, model="gzip-gpt"))


# -- errors ----------------------------------------------------------------------------------------------------------


def refused(status: int, **options: Any) -> Any:
    async def program(client: Any) -> Any:
        return await settle(client.chat.completions.create(model=f"error-{status}", messages=USER, **options))

    return program


for status in (400, 401, 404, 422, 429, 500, 529):
    openai_case(f"error_{status}")(refused(status))
for status in (404, 429):
    openai_case(f"error_{status}_of_stream")(refused(status, stream=True))


@openai_case()
async def error_of_raw(client: Any) -> Any:
    return await settle(client.chat.completions.with_raw_response.create(model="error-422", messages=USER))


@openai_case()
async def error_of_streaming_response(client: Any) -> Any:
    streaming = client.chat.completions.with_streaming_response
    async with entered(streaming.create(model="error-429", messages=USER)) as response:
        return response


@openai_case()
async def error_and_then_an_answer(client: Any) -> Any:
    try:
        error = await settle(client.chat.completions.create(model="error-400", messages=USER))
    except openai.BadRequestError as caught:
        error = caught
    return [error, await settle(client.chat.completions.create(**CHAT))]


for model in ("flaky-429", "flaky-500-2", "flaky-529"):

    @openai_case(f"{model.replace('-', '_')}_raw")
    async def flaky_raw(client: Any, model: str = model) -> Any:
        response = await settle(client.chat.completions.with_raw_response.create(model=model, messages=USER))
        assert response.retries_taken in (0, int(model[-1]) if model.endswith("-2") else 1)
        return [response, response.parse()]


@openai_case()
async def flaky_429(client: Any) -> Any:
    return await settle(client.chat.completions.create(model="flaky-429", messages=USER))


@openai_case()
async def flaky_429_stream(client: Any) -> Any:
    response = client.chat.completions.with_raw_response.create(model="flaky-429", messages=USER, stream=True)
    response = await settle(response)
    return [await drained(response.parse()), response]


@openai_case()
async def flaky_429_streaming_response(client: Any) -> Any:
    streaming = client.chat.completions.with_streaming_response
    async with entered(streaming.create(model="flaky-429", messages=USER)) as response:
        return [await settle(response.json()), response]


@openai_case()
async def flaky_drop(client: Any) -> Any:
    response = await settle(client.chat.completions.with_raw_response.create(model="flaky-drop", messages=USER))
    return [response, response.parse()]


@openai_case(varies=False)
async def dropped(client: Any) -> Any:
    once = client.with_options(max_retries=0)
    return await settle(once.chat.completions.create(model="drop", messages=USER))


@openai_case(varies=False)
async def dropped_twice(client: Any) -> Any:
    twice = client.with_options(max_retries=1)
    return await settle(twice.chat.completions.create(model="drop", messages=USER))


@openai_case(varies=None)
async def dropped_in_the_body(client: Any) -> Any:
    once = client.with_options(max_retries=0)
    return await settle(once.chat.completions.create(model="drop-midstream", messages=USER))


@openai_case(varies=False)
async def timeout(client: Any) -> Any:
    hasty = client.with_options(timeout=0.2, max_retries=0)
    return await settle(hasty.chat.completions.create(model="slow", messages=USER))


@openai_case(varies=False)
async def timeout_of_raw(client: Any) -> Any:
    hasty = client.with_options(timeout=0.2, max_retries=0)
    return await settle(hasty.chat.completions.with_raw_response.create(model="slow", messages=USER))


@openai_case()
async def stream_dropped(client: Any) -> Any:
    return await drained(
        await settle(client.chat.completions.create(model="drop-midstream", messages=USER, stream=True))
    )


@openai_case()
async def stream_dropped_iter_bytes(client: Any) -> Any:
    streaming = client.chat.completions.with_streaming_response
    async with entered(streaming.create(model="drop-midstream", messages=USER, stream=True)) as response:
        return [await drained(response.iter_bytes()), response]


@openai_case()
async def stream_error(client: Any) -> Any:
    return await drained(await settle(client.chat.completions.create(model="stream-error", messages=USER, stream=True)))


@openai_case(needs="chat.completions.stream")
async def stream_error_of_helper(client: Any) -> Any:
    async with entered(client.chat.completions.stream(model="stream-error", messages=USER)) as events:
        return await drained(events)


# -- responses -------------------------------------------------------------------------------------------------------

TALK: Any = {"model": "gpt-4o", "input": "Hello"}


@openai_case()
async def responses_create(client: Any) -> Any:
    return await settle(client.responses.create(**TALK, instructions="Be brief"))


@openai_case()
async def responses_raw(client: Any) -> Any:
    response = await settle(client.responses.with_raw_response.create(**TALK))
    return [response, response.parse()]


@openai_case()
async def responses_stream(client: Any) -> Any:
    return await drained(await settle(client.responses.create(**TALK, stream=True)))


@openai_case()
async def responses_stream_helper(client: Any) -> Any:
    async with entered(client.responses.stream(**TALK)) as events:
        return [await drained(events), await settle(events.get_final_response())]


@openai_case()
async def responses_stream_helper_with_format(client: Any) -> Any:
    async with entered(client.responses.stream(**TALK, text_format=Place)) as events:
        return [await drained(events), await settle(events.get_final_response())]


@openai_case()
async def responses_stream_helper_with_tools(client: Any) -> Any:
    async with entered(client.responses.stream(**TALK, tools=[FUNCTION])) as events:
        return [await drained(events), await settle(events.get_final_response())]


@openai_case()
async def responses_tools(client: Any) -> Any:
    first = await settle(client.responses.create(**TALK, tools=[FUNCTION]))
    told = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in first.output]
    then = {"model": "gpt-4o", "input": told, "previous_response_id": first.id, "tools": [FUNCTION]}
    return [first, await settle(client.responses.create(**then))]


@openai_case()
async def responses_parse(client: Any) -> Any:
    answer = await settle(client.responses.parse(**TALK, text_format=Place))
    return [answer, answer.output_parsed]


@openai_case()
async def responses_retrieve(client: Any) -> Any:
    return await settle(client.responses.retrieve("resp_0123456789"))


@openai_case()
async def responses_retrieve_stream(client: Any) -> Any:
    return await drained(await settle(client.responses.retrieve("resp_0123456789", stream=True)))


@openai_case()
async def responses_error(client: Any) -> Any:
    return await settle(client.responses.create(model="error-404", input="Hello"))


@openai_case()
async def responses_stream_error(client: Any) -> Any:
    return await drained(await settle(client.responses.create(model="stream-error", input="Hello", stream=True)))


@openai_case()
async def responses_stream_dropped(client: Any) -> Any:
    return await drained(await settle(client.responses.create(model="drop-midstream", input="Hello", stream=True)))


# -- everything else -------------------------------------------------------------------------------------------------

WORDS: Any = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 4}


@openai_case()
async def embeddings(client: Any) -> Any:
    return await settle(client.embeddings.create(**WORDS))


@openai_case()
async def embeddings_as_floats(client: Any) -> Any:
    return await settle(client.embeddings.create(**WORDS, encoding_format="float"))


@openai_case()
async def embeddings_raw(client: Any) -> Any:
    response = await settle(client.embeddings.with_raw_response.create(**WORDS))
    return [response, response.parse()]


@openai_case()
async def models_list(client: Any) -> Any:
    return [await settle(client.models.list()), await drained(client.models.list())]


@openai_case()
async def models_retrieve(client: Any) -> Any:
    return await settle(client.models.retrieve("gpt-4o"))


@openai_case()
async def moderations(client: Any) -> Any:
    return await settle(client.moderations.create(input=["a", "b"]))


@openai_case()
async def completions(client: Any) -> Any:
    return await settle(client.completions.create(model="gpt-3.5-turbo-instruct", prompt=["a", "b"]))


@openai_case()
async def completions_stream(client: Any) -> Any:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    return await drained(await settle(client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a", **options)))


@openai_case()
async def post_for_a_plain_response(client: Any) -> Any:
    kind = http_library(client).Response
    return await settle(client.post("/chat/completions", body=CHAT, cast_to=kind))


# -- clients ---------------------------------------------------------------------------------------------------------


def azure_client(client: Any) -> Any:
    kind: Any = openai.AsyncAzureOpenAI if is_async(client) else openai.AzureOpenAI
    endpoint = str(client.base_url).removesuffix("/v1/")
    return kind(azure_endpoint=endpoint, api_version="2024-10-21", api_key="any")


@openai_case()
async def azure(client: Any) -> Any:
    async with entered(azure_client(client)) as azure:
        response = await settle(azure.chat.completions.with_raw_response.create(**CHAT))
        return [response, response.parse(), await settle(azure.embeddings.create(**WORDS))]


@openai_case()
async def azure_stream(client: Any) -> Any:
    async with entered(azure_client(client)) as azure:
        return await drained(await settle(azure.chat.completions.create(**CHAT, stream=True)))


@openai_case()
async def azure_error(client: Any) -> Any:
    async with entered(azure_client(client)) as azure:
        return await settle(azure.chat.completions.create(model="error-401", messages=USER))


@openai_case()
async def with_options(client: Any) -> Any:
    other = client.with_options(timeout=30, max_retries=1, default_headers={"x-tenant": "7"})
    response = await settle(other.chat.completions.with_raw_response.create(**CHAT))
    return [response, response.parse()]


async def through(client: Any, http_client: Any) -> Any:
    """A few calls through an HTTP client of the program's own."""
    async with entered(client.with_options(http_client=http_client, max_retries=0)) as own:
        response = await settle(own.chat.completions.with_raw_response.create(**CHAT))
        told = await drained(await settle(own.chat.completions.create(**CHAT, stream=True)))
        try:
            error = await settle(own.chat.completions.create(model="error-404", messages=USER))
        except openai.NotFoundError as caught:
            error = caught
        return [response, response.parse(), told, error]


def counted(client: Any, library: Any) -> tuple[Any, list[Any]]:
    """An HTTP client whose hooks note every request and response."""
    notes: list[Any] = []

    async def note(message: Any) -> None:
        notes.append((type(message).__name__, str(message.url), getattr(message, "status_code", None)))

    def note_at_once(message: Any) -> None:
        notes.append((type(message).__name__, str(message.url), getattr(message, "status_code", None)))

    hook: Any = note if is_async(client) else note_at_once
    kind = library.AsyncClient if is_async(client) else library.Client
    return kind(event_hooks={"request": [hook], "response": [hook]}), notes


@openai_case()
async def http_client_with_hooks(client: Any) -> Any:
    own, notes = counted(client, http_library(client))
    result = await through(client, own)
    assert len(notes) == 6
    return [result, notes]


def lacks_other_httpx(sdk: str) -> str:
    """Why the SDK takes no clients of the elder httpx besides its own; empty where it does."""
    if hasattr(openai._base_client, "is_legacy_httpx_sync_client"):
        return ""
    return f"{sdk} {openai.__version__} takes the clients of one HTTP library"


@openai_case(needs=lacks_other_httpx)
async def http_client_of_the_other_httpx(client: Any) -> Any:
    import httpx

    own, notes = counted(client, httpx)
    result = await through(client, own)
    assert len(notes) == 6
    return [result, notes]


@openai_case(modes=(ASYNC,), needs=lacks_aiohttp)
async def aiohttp(client: Any) -> Any:
    return await through(client, openai.DefaultAioHttpClient())


@openai_case(modes=(ASYNC,), needs=lacks_aiohttp, varies=None)
async def aiohttp_faults(client: Any) -> Any:
    async with client.with_options(http_client=openai.DefaultAioHttpClient(), max_retries=0) as own:
        told: list[Any] = []
        for model in ("drop", "drop-midstream"):
            try:
                told.append(await own.chat.completions.create(model=model, messages=USER))
            except openai.APIConnectionError as error:
                told.append(error)
        try:
            told.append(await own.chat.completions.create(model="slow", messages=USER, timeout=0.2))
        except openai.APITimeoutError as error:
            told.append(error)
        stream = await own.chat.completions.create(model="drop-midstream", messages=USER, stream=True)
        return [*told, await drained(stream)]


@openai_case(modes=(SYNC,))
async def module_level_client(client: Any) -> Any:
    module: Any = openai
    with openai.DefaultHttpxClient() as module.http_client:
        module.api_key, module.base_url = "any", str(client.base_url)
        try:
            return openai.chat.completions.create(**CHAT)
        finally:
            module.api_key = module.base_url = module.http_client = None

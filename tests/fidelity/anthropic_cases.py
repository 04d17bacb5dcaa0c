"""The calls of the Anthropic SDK."""

from __future__ import annotations

from functools import partial
from typing import Any

import anthropic
from pydantic import BaseModel

from tests.fidelity.cases import ASYNC, case, drained, entered, http_library, is_async, lacks_aiohttp, settle
from tests.fidelity.openai_cases import CITY, READINGS, USER, counted, read

ASK: Any = {"model": "claude-any", "max_tokens": 999, "messages": USER}
TOOL: Any = {"name": "weather", "input_schema": CITY}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}

anthropic_case = partial(case, "anthropic")


class Place(BaseModel):
    city: str
    height: float
    names: list[str]


def faulty(model: str) -> Any:
    return {**ASK, "model": model}


# -- messages --------------------------------------------------------------------------------------------------------


@anthropic_case()
async def create(client: Any) -> Any:
    return await settle(client.messages.create(**ASK))


@anthropic_case()
async def create_again_and_again(client: Any) -> Any:
    return [await settle(client.messages.create(**ASK)) for _ in range(3)]


@anthropic_case()
async def create_with_thinking(client: Any) -> Any:
    return await settle(client.messages.create(**ASK, thinking=THINKING))


@anthropic_case()
async def create_with_tools(client: Any) -> Any:
    first = await settle(client.messages.create(**ASK, tools=[TOOL]))
    calls = [block for block in first.content if block.type == "tool_use"]
    told = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls]
    turns = [{"role": "assistant", "content": first.to_dict()["content"]}, {"role": "user", "content": told}]
    return [first, await settle(client.messages.create(**{**ASK, "messages": [*USER, *turns]}, tools=[TOOL]))]


@anthropic_case()
async def stream(client: Any) -> Any:
    return await drained(await settle(client.messages.create(**ASK, stream=True)))


@anthropic_case()
async def stream_with_tools(client: Any) -> Any:
    return await drained(await settle(client.messages.create(**ASK, stream=True, tools=[TOOL])))


@anthropic_case()
async def stream_in_with(client: Any) -> Any:
    async with entered(await settle(client.messages.create(**ASK, stream=True))) as events:
        return [await drained(events), events.response]


@anthropic_case()
async def stream_helper(client: Any) -> Any:
    async with entered(client.messages.stream(**ASK, thinking=THINKING)) as events:
        return [await drained(events), await settle(events.get_final_message()), events.response]


@anthropic_case()
async def stream_helper_text(client: Any) -> Any:
    async with entered(client.messages.stream(**ASK)) as events:
        return [await drained(events.text_stream), await settle(events.get_final_text())]


@anthropic_case()
async def stream_helper_with_tools(client: Any) -> Any:
    async with entered(client.messages.stream(**ASK, tools=[TOOL])) as events:
        return [await drained(events), await settle(events.get_final_message())]


@anthropic_case(needs="beta.messages.stream")
async def stream_helper_of_beta(client: Any) -> Any:
    async with entered(client.beta.messages.stream(**ASK)) as events:
        return [await drained(events), await settle(events.get_final_message())]


@anthropic_case(needs="messages.parse")
async def parse(client: Any) -> Any:
    answer = await settle(client.messages.parse(**ASK, output_format=Place))
    return [answer, answer.parsed_output]


@anthropic_case(needs="messages.parse")
async def stream_helper_with_format(client: Any) -> Any:
    async with entered(client.messages.stream(**ASK, output_format=Place)) as events:
        return [await drained(events), await settle(events.get_final_message())]


@anthropic_case()
async def count_tokens(client: Any) -> Any:
    return await settle(client.messages.count_tokens(model="claude-any", messages=USER))


def weather_tool(client: Any) -> Any:
    if is_async(client):

        @anthropic.beta_async_tool
        async def weather(city: str) -> str:
            """The weather of a city."""
            return f"rain in {city}"
    else:

        @anthropic.beta_tool
        def weather(city: str) -> str:
            """The weather of a city."""
            return f"rain in {city}"

    return weather


@anthropic_case(needs="beta.messages.tool_runner")
async def tool_runner(client: Any) -> Any:
    runner = client.beta.messages.tool_runner(**ASK, tools=[weather_tool(client)])
    return await drained(runner)


@anthropic_case(needs="beta.messages.tool_runner")
async def tool_runner_until_done(client: Any) -> Any:
    runner = client.beta.messages.tool_runner(**ASK, tools=[weather_tool(client)])
    return await settle(runner.until_done())


@anthropic_case(needs="beta.messages.tool_runner")
async def tool_runner_streaming(client: Any) -> Any:
    runner: Any = client.beta.messages.tool_runner(**ASK, tools=[weather_tool(client)], stream=True)
    if is_async(client):
        return [await drained(events) async for events in runner]
    return [await drained(events) for events in runner]


@anthropic_case(needs="beta.messages.thread")
async def thread(client: Any) -> Any:
    held = client.beta.messages.thread(model="claude-any", max_tokens=99)
    return [await settle(held.send(USER[0])), await settle(held.send(USER[0]))]


# -- raw and streaming responses -------------------------------------------------------------------------------------


@anthropic_case()
async def raw(client: Any) -> Any:
    response = await settle(client.messages.with_raw_response.create(**ASK))
    return [response, await settle(response.parse())]


@anthropic_case()
async def raw_stream(client: Any) -> Any:
    response = await settle(client.messages.with_raw_response.create(**ASK, stream=True))
    return [await drained(await settle(response.parse())), response]


@anthropic_case()
async def raw_gzip(client: Any) -> Any:
    response = await settle(client.messages.with_raw_response.create(**faulty("gzip-claude")))
    assert response.headers["content-encoding"] == "gzip"
    return [response, await settle(response.parse())]


def streaming_response(reading: str, **options: Any) -> Any:
    async def program(client: Any) -> Any:
        async with entered(client.messages.with_streaming_response.create(**{**ASK, **options})) as response:
            result = await read(response, reading)
            if options.get("stream") and reading == "parse":
                result = await drained(result)
            return [result, response]

    return program


for reading in READINGS:
    anthropic_case(f"streaming_response_{reading}")(streaming_response(reading))
for reading in ("iter_bytes", "iter_lines", "iter_text", "parse"):
    anthropic_case(f"streaming_response_of_stream_{reading}")(streaming_response(reading, stream=True))
for reading in ("iter_bytes", "read", "json"):
    anthropic_case(f"streaming_response_of_gzip_{reading}")(streaming_response(reading, model="gzip-claude"))


# -- errors ----------------------------------------------------------------------------------------------------------


def refused(status: int, **options: Any) -> Any:
    async def program(client: Any) -> Any:
        return await settle(client.messages.create(**faulty(f"error-{status}"), **options))

    return program


for status in (400, 401, 404, 422, 429, 500, 529):
    anthropic_case(f"error_{status}")(refused(status))
for status in (404, 529):
    anthropic_case(f"error_{status}_of_stream")(refused(status, stream=True))


@anthropic_case()
async def error_of_raw(client: Any) -> Any:
    return await settle(client.messages.with_raw_response.create(**faulty("error-422")))


@anthropic_case()
async def error_of_streaming_response(client: Any) -> Any:
    async with entered(client.messages.with_streaming_response.create(**faulty("error-429"))) as response:
        return response


@anthropic_case()
async def error_of_stream_helper(client: Any) -> Any:
    async with entered(client.messages.stream(**faulty("error-400"))) as events:
        return await drained(events)


for model in ("flaky-429", "flaky-500-2", "flaky-529"):

    @anthropic_case(f"{model.replace('-', '_')}_raw")
    async def flaky_raw(client: Any, model: str = model) -> Any:
        response = await settle(client.messages.with_raw_response.create(**faulty(model)))
        assert response.retries_taken in (0, int(model[-1]) if model.endswith("-2") else 1)
        return [response, await settle(response.parse())]


@anthropic_case()
async def flaky_429_stream_helper(client: Any) -> Any:
    async with entered(client.messages.stream(**faulty("flaky-429"))) as events:
        return [await drained(events), events.response]


@anthropic_case()
async def flaky_drop(client: Any) -> Any:
    response = await settle(client.messages.with_raw_response.create(**faulty("flaky-drop")))
    return [response, await settle(response.parse())]


@anthropic_case(varies=False)
async def dropped(client: Any) -> Any:
    return await settle(client.with_options(max_retries=0).messages.create(**faulty("drop")))


@anthropic_case(varies=None)
async def dropped_in_the_body(client: Any) -> Any:
    return await settle(client.with_options(max_retries=0).messages.create(**faulty("drop-midstream")))


@anthropic_case(varies=False)
async def timeout(client: Any) -> Any:
    return await settle(client.with_options(timeout=0.2, max_retries=0).messages.create(**faulty("slow")))


@anthropic_case()
async def stream_dropped(client: Any) -> Any:
    return await drained(await settle(client.messages.create(**faulty("drop-midstream"), stream=True)))


@anthropic_case()
async def stream_helper_dropped(client: Any) -> Any:
    async with entered(client.messages.stream(**faulty("drop-midstream"))) as events:
        return await drained(events)


@anthropic_case()
async def stream_error(client: Any) -> Any:
    return await drained(await settle(client.messages.create(**faulty("stream-error"), stream=True)))


@anthropic_case()
async def stream_helper_error(client: Any) -> Any:
    async with entered(client.messages.stream(**faulty("stream-error"))) as events:
        return await drained(events)


# -- everything else -------------------------------------------------------------------------------------------------


@anthropic_case()
async def models_list(client: Any) -> Any:
    return [await settle(client.models.list()), await drained(client.models.list())]


@anthropic_case()
async def models_retrieve(client: Any) -> Any:
    return await settle(client.models.retrieve("claude-any"))


@anthropic_case()
async def post_for_a_plain_response(client: Any) -> Any:
    kind = http_library(client).Response
    return await settle(client.post("/v1/messages", body=ASK, cast_to=kind))


@anthropic_case()
async def with_options(client: Any) -> Any:
    other = client.with_options(timeout=30, max_retries=1, default_headers={"x-tenant": "7"})
    response = await settle(other.messages.with_raw_response.create(**ASK))
    return [response, await settle(response.parse())]


async def through(client: Any, http_client: Any) -> Any:
    """A few calls through an HTTP client of the program's own."""
    async with entered(client.with_options(http_client=http_client, max_retries=0)) as own:
        response = await settle(own.messages.with_raw_response.create(**ASK))
        told = await drained(await settle(own.messages.create(**ASK, stream=True)))
        try:
            error = await settle(own.messages.create(**faulty("error-404")))
        except anthropic.NotFoundError as caught:
            error = caught
        return [response, await settle(response.parse()), told, error]


@anthropic_case()
async def http_client_with_hooks(client: Any) -> Any:
    own, notes = counted(client, http_library(client))
    result = await through(client, own)
    assert len(notes) == 6
    return [result, notes]


@anthropic_case(modes=(ASYNC,), needs=lacks_aiohttp)
async def aiohttp(client: Any) -> Any:
    return await through(client, anthropic.DefaultAioHttpClient())


@anthropic_case(needs="middleware")
async def middleware(client: Any) -> Any:
    notes: list[Any] = []

    async def note(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        notes.append((response.status_code, response.retries_taken))
        return response

    def note_at_once(request: Any, call_next: Any) -> Any:
        response = call_next(request)
        notes.append((response.status_code, response.retries_taken))
        return response

    noting = client.with_options(middleware=[note if is_async(client) else note_at_once])
    response = await settle(noting.messages.with_raw_response.create(**ASK))
    told = await drained(await settle(noting.messages.create(**ASK, stream=True)))
    try:
        error = await settle(noting.messages.create(**faulty("error-404")))
    except anthropic.NotFoundError as caught:
        error = caught
    assert len(notes) == 3
    return [response, await settle(response.parse()), told, error, notes]

"""Clients of many kinds: Azure, OpenRouter, compressed answers, several clients and places in one run."""

from __future__ import annotations

import itertools
from typing import Any

import anthropic
import openai

from tests.fidelity.anthropic_cases import ASK, anthropic_case
from tests.fidelity.cases import ASYNC, drained, entered, http_library, is_async, lacks_aiohttp, settle
from tests.fidelity.openai_cases import CHAT, TALK, USER, WORDS, counted, lacks_other_httpx, openai_case
from tests.fidelity.openai_surface_cases import SOUND

# -- Azure -----------------------------------------------------------------------------------------------------------


def azure(client: Any, **options: Any) -> Any:
    kind: Any = openai.AsyncAzureOpenAI if is_async(client) else openai.AzureOpenAI
    endpoint = str(client.base_url).removesuffix("/v1/")
    return kind(azure_endpoint=endpoint, api_version="2024-10-21", **options)


def tokens(client: Any) -> Any:
    """What gives a token of Entra ID, another one each time."""
    number = itertools.count(1)

    async def token() -> str:
        return f"token-of-entra-{next(number)}"

    return token if is_async(client) else lambda: f"token-of-entra-{next(number)}"


@openai_case()
async def azure_with_tokens(client: Any) -> Any:
    async with entered(azure(client, azure_ad_token_provider=tokens(client))) as made:
        told = [await settle(made.chat.completions.create(**CHAT)) for _ in range(2)]
        return [told, await drained(await settle(made.chat.completions.create(**CHAT, stream=True)))]


@openai_case()
async def azure_deployment(client: Any) -> Any:
    """One deployment for all that the client asks, whatever the model is called."""
    async with entered(azure(client, api_key="any", azure_deployment="my-gpt")) as made:
        told = [await settle(made.chat.completions.create(**CHAT)), await settle(made.embeddings.create(**WORDS))]
        heard = await settle(made.audio.transcriptions.create(file=SOUND, model="whisper"))
        return [told, heard, await settle(made.images.generate(model="dall-e", prompt="a clock"))]


@openai_case()
async def azure_responses(client: Any) -> Any:
    async with entered(azure(client, api_key="any")) as made:
        answer = await settle(made.responses.create(**TALK))
        return [answer, await settle(made.responses.retrieve(answer.id))]


@openai_case()
async def azure_files(client: Any) -> Any:
    async with entered(azure(client, api_key="any")) as made:
        file = await settle(made.files.create(file=("in.jsonl", b"{}"), purpose="batch"))
        return [file, await drained(made.files.list()), await drained(made.models.list())]


@openai_case()
async def azure_with_another_version(client: Any) -> Any:
    """The version of the API does not make it another request."""
    async with entered(azure(client, api_key="any")) as made:
        query = {"api-version": "2025-03-01-preview"}
        raw = made.with_options(default_query=query).chat.completions.with_raw_response
        response = await settle(raw.create(**CHAT))
        return [response, response.parse()]


# -- OpenRouter ------------------------------------------------------------------------------------------------------


def openrouter(client: Any) -> Any:
    headers = {"HTTP-Referer": "https://example.com", "X-Title": "A test"}
    return client.with_options(base_url=str(client.base_url).replace("/v1/", "/api/v1"), default_headers=headers)


ROUTED: Any = {
    "model": "anthropic/claude-any",
    "messages": USER,
    "extra_body": {
        "usage": {"include": True},
        "models": ["anthropic/claude-any", "openai/gpt-4o"],
        "reasoning": {"effort": "high"},
        "provider": {"order": ["one", "two"]},
    },
}


@openai_case()
async def openrouter_create(client: Any) -> Any:
    answer = await settle(openrouter(client).chat.completions.create(**ROUTED))
    assert answer.usage.cost > 0
    assert answer.model in ROUTED["extra_body"]["models"]
    asked = {"id": answer.id}
    after = await settle(openrouter(client).get("/generation", cast_to=object, options={"params": asked}))
    return [answer, answer.provider, answer.choices[0].message.reasoning, after]


@openai_case()
async def openrouter_stream(client: Any) -> Any:
    told = await drained(await settle(openrouter(client).chat.completions.create(**ROUTED, stream=True)))
    assert told[-1]["fields"]["usage"]["extra"]["cost"] > 0
    return told


@openai_case()
async def openrouter_stream_raw(client: Any) -> Any:
    """With the comments that keep the connection open."""
    streaming = openrouter(client).chat.completions.with_streaming_response
    async with entered(streaming.create(**ROUTED, stream=True)) as response:
        return [await drained(response.iter_bytes()), response]


# -- compressed ------------------------------------------------------------------------------------------------------


def codings(client: Any) -> list[str]:
    """Those that the HTTP client takes here; zstd and br need packages of their own."""
    taken = client._client.headers["accept-encoding"]
    return [coding for coding in ("gzip", "deflate", "br", "zstd") if coding in taken]


async def compressed(client: Any) -> Any:
    told: list[Any] = []
    chat = client.chat.completions
    for coding in codings(client):
        asked: Any = {"model": f"{coding}-gpt", "messages": USER}
        response = await settle(chat.with_raw_response.create(**asked))
        assert response.headers["content-encoding"] == coding
        told += [response, response.parse(), await drained(await settle(chat.create(**asked, stream=True)))]
        async with entered(chat.with_streaming_response.create(**asked, stream=True)) as streamed:
            assert streamed.headers["content-encoding"] == coding
            told += [await drained(streamed.iter_lines()), streamed]
        cut = {**asked, "model": f"drop-midstream-{coding}"}
        told.append(await drained(await settle(chat.create(**cut, stream=True))))
    return told


@openai_case("compressed")
async def compressed_as_usual(client: Any) -> Any:
    return await compressed(client)


@openai_case("compressed_for_the_other_httpx", needs=lacks_other_httpx)
async def compressed_for_the_other_httpx(client: Any) -> Any:
    import httpx

    kind: Any = httpx.AsyncClient if is_async(client) else httpx.Client
    async with entered(client.with_options(http_client=kind())) as made:
        return await compressed(made)


# -- several in one run ----------------------------------------------------------------------------------------------


@openai_case()
async def several_clients(client: Any) -> Any:
    """The same request to several places, one after the other: each gets the answer of its place again."""
    own, notes = counted(client, http_library(client))
    other: Any = anthropic.AsyncAnthropic if is_async(client) else anthropic.Anthropic
    place = str(client.base_url).removesuffix("/v1/")
    async with (
        entered(client.with_options(base_url=f"{place}/proxy/one/v1", api_key="one", http_client=own)) as one,
        entered(azure(client, api_key="any")) as two,
        entered(other(base_url=f"{place}/proxy/three", api_key="three")) as three,
    ):
        told: list[Any] = []
        for _ in range(2):
            for made in (client, one, two):
                response = await settle(made.chat.completions.with_raw_response.create(**CHAT))
                told += [response, response.parse()]
            told.append(await settle(three.messages.create(**ASK)))
        return [told, notes]


@openai_case(modes=(ASYNC,), needs=lacks_aiohttp)
async def aiohttp_with_forms_and_sound(client: Any) -> Any:
    async with client.with_options(http_client=openai.DefaultAioHttpClient()) as made:
        heard = await made.audio.transcriptions.create(file=SOUND, model="flaky-429")
        file = await made.files.create(file=("a.bin", b"\x00\xff\r\n"), purpose="user_data")
        content = await made.files.content(file.id)
        asked: Any = {"model": "tts-1", "voice": "alloy", "input": "Hello"}
        async with made.audio.speech.with_streaming_response.create(**asked) as response:
            return [heard, file, content, await drained(response.iter_bytes()), response]


@openai_case()
async def options_of_a_call(client: Any) -> Any:
    options: Any = {"timeout": 20, "extra_headers": {"x-tenant": "7"}, "extra_query": {"trial": "1"}}
    hasty = client.with_options(max_retries=0, timeout=30).with_options(default_query={"team": "x"})
    response = await settle(hasty.chat.completions.with_raw_response.create(**CHAT, **options))
    try:
        error = await settle(hasty.chat.completions.create(model="flaky-429", messages=USER))
    except openai.RateLimitError as caught:
        error = caught
    return [response, response.parse(), error]


@openai_case()
async def http_client_with_a_base_url_and_limits(client: Any) -> Any:
    library = http_library(client)
    kind = library.AsyncClient if is_async(client) else library.Client
    own = kind(
        limits=library.Limits(max_connections=1),
        headers={"x-team": "x"},
        cookies={"session": "7"},
        follow_redirects=False,
        timeout=library.Timeout(9.0),
    )
    async with entered(client.with_options(http_client=own)) as made:
        response = await settle(made.chat.completions.with_raw_response.create(**CHAT))
        return [
            response,
            response.parse(),
            await drained(await settle(made.chat.completions.create(**CHAT, stream=True))),
        ]


@anthropic_case("options_of_a_call")
async def options_of_a_call_of_anthropic(client: Any) -> Any:
    hasty = client.with_options(max_retries=0, timeout=30, default_query={"team": "x"})
    raw = hasty.messages.with_raw_response
    response = await settle(raw.create(**ASK, timeout=20, extra_headers={"x-tenant": "7"}, extra_body={"x_mode": 1}))
    return [response, await settle(response.parse())]

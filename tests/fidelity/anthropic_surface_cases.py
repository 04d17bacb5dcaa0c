"""The rest of the Anthropic API: batches and their results, files; and its models on Bedrock and Vertex."""

from __future__ import annotations

from typing import Any

import anthropic

from tests.fidelity.anthropic_cases import ASK, THINKING, TOOL, anthropic_case, faulty
from tests.fidelity.cases import drained, entered, is_async, lacks, settle
from tests.fidelity.openai_cases import USER
from tests.fidelity.openai_surface_cases import TEXT

REQUESTS: Any = [{"custom_id": name, "params": {**ASK, "system": name}} for name in ("one", "zwei", "三")]


async def ended(client: Any, batches: Any) -> list[Any]:
    """A batch, each time that it was asked for."""
    told = [await settle(batches.create(requests=REQUESTS))]
    while told[-1].processing_status != "ended":
        told.append(await settle(batches.retrieve(told[0].id)))
    assert len(told) == 13
    return told


@anthropic_case()
async def batches(client: Any) -> Any:
    """Polled twelve times: the same request each time, and another answer; the results come as lines of JSON."""
    told = await ended(client, client.messages.batches)
    results = await drained(await settle(client.messages.batches.results(told[0].id)))
    assert len(results) == 3
    other = await settle(client.messages.batches.create(requests=REQUESTS[:1]))
    cancelled = await settle(client.messages.batches.cancel(other.id))
    listed = [await settle(client.messages.batches.list(limit=1)), await drained(client.messages.batches.list(limit=1))]
    return [told, results, cancelled, listed, await settle(client.messages.batches.delete(told[0].id))]


@anthropic_case()
async def batches_of_beta(client: Any) -> Any:
    told = await ended(client, client.beta.messages.batches)
    return [told, await drained(await settle(client.beta.messages.batches.results(told[0].id)))]


@anthropic_case()
async def batches_raw(client: Any) -> Any:
    response = await settle(client.messages.batches.with_raw_response.create(requests=REQUESTS))
    return [response, await settle(response.parse())]


@anthropic_case()
async def count_tokens_of_beta(client: Any) -> Any:
    return await settle(client.beta.messages.count_tokens(model="claude-any", messages=USER, tools=[TOOL]))


@anthropic_case()
async def files(client: Any) -> Any:
    made = [await settle(client.beta.files.upload(file=TEXT)) for _ in range(3)]
    listed = [await settle(client.beta.files.list(limit=2)), await drained(client.beta.files.list(limit=2))]
    again = await settle(client.beta.files.retrieve_metadata(made[0].id))
    content = await settle(client.beta.files.download(made[0].id))
    read = await settle(content.read())
    assert read == TEXT[1]
    gone = await settle(client.beta.files.delete(made[0].id))
    try:
        error = await settle(client.beta.files.retrieve_metadata(made[0].id))
    except anthropic.NotFoundError as caught:
        error = caught
    return [made, listed, again, content, read, gone, error]


@anthropic_case()
async def files_streamed(client: Any) -> Any:
    made = await settle(client.beta.files.upload(file=TEXT))
    async with entered(client.beta.files.with_streaming_response.download(made.id)) as response:
        return [await drained(response.iter_bytes()), response]


# -- elsewhere -------------------------------------------------------------------------------------------------------


def bedrock(client: Any) -> Any:
    kind: Any = anthropic.AsyncAnthropicBedrock if is_async(client) else anthropic.AnthropicBedrock
    keys = {"aws_access_key": "AKIAIOSFODNN7EXAMPLE", "aws_secret_key": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"}
    return kind(**keys, aws_session_token="session", aws_region="eu-central-1", base_url=str(client.base_url))


def vertex(client: Any) -> Any:
    kind: Any = anthropic.AsyncAnthropicVertex if is_async(client) else anthropic.AnthropicVertex
    where = {"project_id": "my-project", "region": "europe-west1", "base_url": f"{str(client.base_url).rstrip('/')}/v1"}
    return kind(access_token="ya29.token-of-google", **where)


for name, make, needs in (
    ("bedrock", bedrock, lambda sdk: lacks("boto3")),
    ("vertex", vertex, lambda sdk: lacks("google.auth")),
):

    @anthropic_case(f"{name}_create", needs=needs)
    async def create(client: Any, make: Any = make) -> Any:
        async with entered(make(client)) as made:
            first = await settle(made.messages.create(**ASK, tools=[TOOL], thinking=THINKING))
            response = await settle(made.messages.with_raw_response.create(**ASK))
            return [first, response, await settle(response.parse())]

    @anthropic_case(f"{name}_stream", needs=needs)
    async def stream(client: Any, make: Any = make) -> Any:
        async with entered(make(client)) as made:
            return await drained(await settle(made.messages.create(**ASK, stream=True, tools=[TOOL])))

    @anthropic_case(f"{name}_stream_helper", needs=needs)
    async def stream_helper(client: Any, make: Any = make) -> Any:
        async with entered(make(client)) as made, entered(made.messages.stream(**ASK)) as events:
            return [await drained(events), await settle(events.get_final_message())]

    @anthropic_case(f"{name}_errors", needs=needs)
    async def errors(client: Any, make: Any = make) -> Any:
        told: list[Any] = []
        # Older Bedrock clients do not share their HTTP client with their copies.
        async with entered(make(client)) as whole, entered(whole.with_options(max_retries=1)) as made:
            for model in ("error-400", "error-429", "flaky-529"):
                try:
                    told.append(await settle(made.messages.create(**faulty(model))))
                except anthropic.APIStatusError as error:
                    told.append(error)
            told.append(await drained(await settle(made.messages.create(**faulty("stream-error"), stream=True))))
            told.append(await drained(await settle(made.messages.create(**faulty("drop-midstream"), stream=True))))
        return told


@anthropic_case(needs=lambda sdk: lacks("google.auth"))
async def vertex_count_tokens(client: Any) -> Any:
    async with entered(vertex(client)) as made:
        return await settle(made.messages.count_tokens(model="claude-any", messages=USER))

"""Amazon Bedrock by botocore: answers and binary streams, and keys in them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

import escapement
from escapement.engine import payloads
from escapement.providers import eventstream
from escapement.store.traces import SpanStore
from escapement.words import semconv
from tests.elsewhere.conftest import Check
from tests.elsewhere.server import Server, frame


def bedrock(url: str) -> Any:
    return boto3.client("bedrock-runtime", endpoint_url=url)


CLAUDE = "anthropic.claude-3-5-sonnet-20240620-v1:0"
ASKED: Any = [{"role": "user", "content": [{"text": "Hello"}]}]


def test_bedrock(same: Check) -> None:
    def program(url: str) -> Any:
        client = bedrock(url)
        found = [client.converse(modelId=CLAUDE, messages=ASKED, inferenceConfig={"maxTokens": 9})]
        found.append(list(client.converse_stream(modelId=CLAUDE, messages=ASKED)["stream"]))
        answer = client.invoke_model(modelId=CLAUDE, body=json.dumps({"max_tokens": 7, "messages": []}))
        found.append(answer["body"].read())
        client.close()
        return found

    trace = same(program, 3)
    names = (semconv.PROVIDER_NAME, semconv.REQUEST_MODEL, semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS)
    assert [[step.attributes.get(name) for name in names] for step in trace.steps] == [
        ["aws.bedrock", CLAUDE, 5, 6],
        ["aws.bedrock", CLAUDE, 5, 6],
        ["aws.bedrock", CLAUDE, 8, 9],
    ]
    assert trace.steps[0].attributes[semconv.REQUEST_MAX_TOKENS] == 9
    assert trace.steps[1].attributes[semconv.RESPONSE_FINISH_REASONS] == ["end_turn"]


def test_a_bedrock_stream_left_half_read(same: Check) -> None:
    def program(url: str) -> Any:
        client = bedrock(url)
        stream = client.converse_stream(modelId=CLAUDE, messages=ASKED)["stream"]
        found = [event for event, _ in zip(stream, range(2), strict=False)]
        stream.close()
        client.close()
        return found

    same(program, 1)


KEY = "sk-proj-Tq7Zr2Yb5Nc8Mv1Xw4Lk9Jh3Gf6Ds0Pa"
PLACEHOLDER = "[REDACTED:openai-key]"


def asking_for(text: str) -> Any:
    return [{"role": "user", "content": [{"text": f"say {text}"}]}]


def converse_stream(url: str) -> list[str]:
    client = bedrock(url)
    stream = client.converse_stream(modelId=CLAUDE, messages=asking_for(f"the key is {KEY}, so keep it"))["stream"]
    texts = [event["contentBlockDelta"]["delta"]["text"] for event in stream if "contentBlockDelta" in event]
    client.close()
    return texts


def invoke_stream(url: str) -> list[str]:
    client = bedrock(url)
    asked = {"max_tokens": 7, "messages": [{"role": "user", "content": f"say the key is {KEY}, so keep it"}]}
    answer = client.invoke_model_with_response_stream(modelId=CLAUDE, body=json.dumps(asked))
    events = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
    client.close()
    return [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]


@pytest.mark.parametrize("program", [converse_stream, invoke_stream])
def test_a_key_is_taken_out_of_a_stream_that_is_still_one(program: Any, store: Path, reader: SpanStore) -> None:
    """botocore checks every frame; the key is spread over several of them."""
    with Server() as server:
        with escapement.init(storage_dir=store) as trace:
            live = program(server.url)
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store) as replay:
            again = program(server.url)
        assert len(server.bodies) == 1
    assert (replay.hits, replay.misses) == (1, 0)
    assert "".join(live) == f"the key is {KEY}, so keep it"
    assert "".join(again) == f"the key is {PLACEHOLDER}, so keep it"
    assert len(again) == len(live)
    step = reader.load(trace.trace_id).steps[0]
    assert KEY.encode() not in step.body()
    files = [path.read_bytes() for path in store.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in data for data in files)


def test_a_stream_without_keys_is_kept_as_it_came(same: Check) -> None:
    def program(url: str) -> Any:
        client = bedrock(url)
        answer = client.invoke_model_with_response_stream(modelId=CLAUDE, body=json.dumps({"messages": []}))
        found = list(answer["body"])
        client.close()
        return found

    step = same(program, 1).steps[0]
    names = (semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS, semconv.REQUEST_STREAM, semconv.RESPONSE_MODEL)
    assert [step.attributes.get(name) for name in names] == [8, 9, True, "claude"]
    assert [semconv.RESPONSE_BODY_BASE64 in step.attributes, semconv.RESPONSE_BODY in step.attributes] == [True, False]


def carried(body: bytes) -> Iterator[str]:
    """The texts of the frames, as botocore reads them: it raises where a length or a checksum is wrong."""
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    for event in buffer:
        document = json.loads(event.payload)
        if "bytes" in document:
            document = json.loads(base64.b64decode(document["bytes"]))
        yield document["delta"]["text"]


def delta(text: str, in_base64: bool) -> bytes:
    event: dict[str, Any] = {"contentBlockIndex": 0, "delta": {"text": text}}
    if not in_base64:
        return frame("contentBlockDelta", event)
    return frame("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abcd"})


@given(st.text(max_size=30), st.text(max_size=30), st.lists(st.integers(0, 110), max_size=8), st.booleans(), st.data())
def test_frames_stay_frames_wherever_the_key_is_cut(
    before: str, after: str, cuts: list[int], in_base64: bool, data: st.DataObject
) -> None:
    text = f"{before} {KEY} {after}"
    at = [0, *sorted(cuts), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(at)]
    body = b"".join(delta(piece, in_base64) for piece in pieces)
    arrived = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    clean, ends = payloads.scrub_stream(body, [*arrived, len(body)], {})
    assert "".join(carried(clean)) == f"{before} {PLACEHOLDER} {after}"
    assert len(list(carried(clean))) == len(pieces)
    assert (ends, ends[-1]) == (sorted(ends), len(clean))
    assert payloads.scrub_stream(clean, ends, {}) == (clean, ends)
    short = data.draw(st.integers(0, len(body)))  # hung up
    clean, ends = payloads.scrub_stream(body[:short], [short], {})
    kept = "".join(carried(clean))
    assert KEY not in kept
    assert KEY.encode() not in clean
    assert ends == [len(clean)]


@given(st.text(max_size=40), st.booleans(), st.binary(max_size=20))
def test_frames_without_keys_are_the_very_same(text: str, in_base64: bool, payload: bytes) -> None:
    body = delta(text, in_base64) + eventstream.framed(b"", payload) + eventstream.framed(b"", b"")
    assert payloads.scrub_stream(body, [3, len(body)], {})[0] is body


def test_a_frame_is_as_others_make_it() -> None:
    made = frame("contentBlockDelta", {"a": 1})
    (read,) = eventstream.frames(made)
    assert eventstream.framed(read.headers, read.payload) == made
    assert (read.event, read.begin, read.end) == ("contentBlockDelta", 0, len(made))


@given(st.binary(max_size=200))
def test_anything_can_be_looked_at(body: bytes) -> None:
    clean, ends = payloads.scrub_stream(body, [len(body)], {})
    assert ends == [len(clean)]
    list(eventstream.events(body))

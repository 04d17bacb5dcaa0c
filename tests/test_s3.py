"""A store whose tables are on object storage: moto's server stands in for S3, on loopback, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import escapement
from escapement.store import layout, sealing, summaries, upkeep
from escapement.store.traces import SpanStore
from tests.conftest import ask
from tests.provider import Provider

URL = "s3://traces/team/a"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "moto does not answer"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket, and the environment that says where it is. The store's URL."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "ESCAPEMENT_STORAGE_DIR": URL,
    }.items():
        monkeypatch.setenv(name, value)
    made = boto3.resource("s3", region_name="us-east-1", endpoint_url=endpoint).create_bucket(Bucket="traces")
    yield URL
    made.objects.all().delete()
    made.delete()


def keys(endpoint: str) -> list[str]:
    import boto3

    client = boto3.client("s3", region_name="us-east-1", endpoint_url=endpoint)
    return [found["Key"] for found in client.list_objects_v2(Bucket="traces").get("Contents", ())]


def seal(url: str) -> sealing.Sealed:
    place = layout.create(url)
    with sealing.upkeep(place):
        return sealing.seal(place, grace=0)


def test_journals_are_local_and_tables_remote(client: openai.OpenAI, bucket: str, endpoint: str) -> None:
    local = Path(".escapement", "s3", "traces", "team", "a")
    with escapement.init("first", tags=["x"]) as trace:
        answers = [ask(client, "one"), ask(client, "two")]
    (journal,) = (local / "journal").iterdir()
    assert journal.stat().st_mode & 0o777 == 0o600
    assert keys(endpoint) == []
    assert SpanStore(bucket).trace_ids() == [trace.trace_id]  # not sealed yet, and there
    assert seal(bucket).journals == 1
    assert list((local / "journal").iterdir()) == []
    assert {key.split("/")[2] for key in keys(endpoint)} == {"spans", "parts"}
    (row,) = summaries.page(SpanStore(bucket), name="first", tags=["x"], model="gpt")
    assert (row.trace_id, row.calls, row.status) == (trace.trace_id, 2, "completed")
    assert (
        SpanStore(bucket).sql("SELECT direction, role FROM messages ORDER BY step, position").rows
        == [
            ("sent", "user"),
            ("received", "assistant"),
        ]
        * 2
    )
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert [ask(client, "one"), ask(client, "two")] == answers


def test_compacting_and_deleting(client: openai.OpenAI, bucket: str, endpoint: str) -> None:
    ids = []
    for number in range(3):
        with escapement.init(f"run {number}") as trace:
            ask(client, f"text {number}")
        ids.append(trace.trace_id)
        seal(bucket)
    place = layout.create(bucket)
    with sealing.upkeep(place):
        assert upkeep.compact(place).merged["spans"] == (3, 1)
        assert upkeep.delete(place, [ids[1]]) == 1
    reader = SpanStore(bucket)
    assert reader.trace_ids() == [ids[2], ids[0]]
    assert [len(reader.load(trace_id).steps) for trace_id in reader.trace_ids()] == [1, 1]
    with pytest.raises(escapement.TraceNotFoundError):
        reader.load(ids[1])
    assert sum(key.endswith(".parquet") for key in keys(endpoint)) == 2


def test_it_is_sealed_when_a_run_ends(
    client: openai.OpenAI, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESCAPEMENT_SEALING", "background")
    with escapement.init() as trace:
        ask(client)
    deadline = time.monotonic() + 60
    while not any("/spans/date=" in key for key in keys(endpoint)):
        assert time.monotonic() < deadline, "nothing was sealed"
        time.sleep(0.1)
    assert SpanStore(bucket).trace_ids() == [trace.trace_id]


def test_a_bucket_that_is_not_there_is_named(
    client: openai.OpenAI, provider: Provider, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESCAPEMENT_STORAGE_DIR", "s3://nowhere/x")
    with escapement.init():
        assert ask(client)  # recording goes on: the journal is here
    with pytest.raises(escapement.StoreError, match="s3://nowhere/x/spans cannot be"):
        seal("s3://nowhere/x")
    assert len(list(Path(".escapement/s3/nowhere/x/journal").iterdir())) == 1


def test_what_is_no_url_of_a_bucket_is_refused() -> None:
    for wrong in ("s3://", "ftp://host/path", "s3://UPPER_case/x"):
        with pytest.raises(escapement.ConfigError, match="storage_dir takes a directory, or s3://bucket/prefix"):
            escapement.init(storage_dir=wrong)
    assert not os.path.exists(".escapement")

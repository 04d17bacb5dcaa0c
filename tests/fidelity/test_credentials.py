"""Who asks is not kept, and does not matter: other keys, tokens and signatures make the same request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import escapement
from tests.fidelity.anthropic_cases import ASK
from tests.fidelity.cases import lacks
from tests.fidelity.openai_cases import CHAT
from tests.provider import Provider

FIRST, SECOND = "5e10f6b2-first", "5e10f6b2-second"
"""What stands for a secret, of no known shape: only where it is found gives it away."""


def azure_key(url: str, secret: str) -> Any:
    return openai.AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key=secret)


def azure_token(url: str, secret: str) -> Any:
    return openai.AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", azure_ad_token=secret)


def azure_token_provider(url: str, secret: str) -> Any:
    return openai.AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", azure_ad_token_provider=lambda: secret)


def openai_key(url: str, secret: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=secret, organization=secret, project=secret)


def openrouter_key(url: str, secret: str) -> Any:
    return openai.OpenAI(base_url=f"{url}/api/v1", api_key=secret, default_headers={"X-Secret": secret})


def anthropic_key(url: str, secret: str) -> Any:
    return anthropic.Anthropic(base_url=url, api_key=secret)


def anthropic_token(url: str, secret: str) -> Any:
    return anthropic.Anthropic(base_url=url, auth_token=secret)


def bedrock_keys(url: str, secret: str) -> Any:
    keys: Any = {"aws_access_key": secret, "aws_secret_key": secret, "aws_session_token": secret}
    return anthropic.AnthropicBedrock(**keys, aws_region="eu-central-1", base_url=url)


def vertex_token(url: str, secret: str) -> Any:
    where: Any = {"project_id": "my-project", "region": "europe-west1", "base_url": f"{url}/v1"}
    return anthropic.AnthropicVertex(access_token=secret, **where)


NEEDS = {"bedrock_keys": "boto3", "vertex_token": "google.auth"}
CLIENTS: tuple[Callable[[str, str], Any], ...] = (
    azure_key, azure_token, azure_token_provider, openai_key, openrouter_key, anthropic_key, anthropic_token,
    bedrock_keys, vertex_token,
)  # fmt: skip


@pytest.mark.parametrize("make", CLIENTS, ids=lambda make: make.__name__)
def test_who_asks_is_not_kept_and_does_not_matter(make: Callable[[str, str], Any], store: Path) -> None:
    if reason := lacks(NEEDS.get(make.__name__, "openai")):
        pytest.skip(reason)

    def program(secret: str) -> str:
        with make(provider.base_url, secret) as client:
            if hasattr(client, "chat"):
                return str(client.chat.completions.create(**CHAT))
            return str(client.messages.create(**ASK))

    with Provider() as provider:
        with escapement.init(storage_dir=store) as trace:
            live = program(FIRST)
        assert FIRST in str(provider.requests)
        with escapement.replay(trace.trace_id, strict_replay=True, storage_dir=store):
            assert program(SECOND) == live
        assert provider.count == 1
    kept = b"".join(file.read_bytes() for file in store.rglob("*") if file.is_file())
    assert (trace.trace_id.encode() in kept, FIRST.encode() in kept, SECOND.encode() in kept) == (True, False, False)

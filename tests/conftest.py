"""What every test stands on: a span store of its own, no settings from outside, and nothing left switched on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import escapement
from escapement.engine.frames import Frame
from escapement.engine.spans import StepSpan
from escapement.store.traces import SpanStore
from escapement.words import semconv
from tests import conventions
from tests.provider import Provider


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory without a pyproject.toml; afterwards no run is open."""
    for name in list(os.environ):
        if name.startswith(("ESCAPEMENT_", "OTEL_")) and name != "ESCAPEMENT_TEST_MODEL":
            monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("ESCAPEMENT_SEALING", "manual")  # the tests that seal say so
    monkeypatch.chdir(tmp_path)
    yield
    left = escapement.current()
    while escapement.stop() is not None:
        pass
    assert left is None, f"the test left a run open: {left!r}"


@pytest.fixture(autouse=True)
def conventional(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every span of ours that a test makes in this process is one that the GenAI conventions allow."""
    found: list[str] = []
    end_step, end_frame = StepSpan.end, Frame.end

    def step(span: StepSpan, answered: Mapping[str, Any], end: int) -> None:
        found.extend(conventions.of_call(span._name, {**span.asked, **answered}))
        end_step(span, answered, end)

    def frame(span: Frame, attributes: Mapping[str, Any], error: BaseException | None = None) -> None:
        ended = span.ended
        end_frame(span, attributes, error)
        known = {**span._attributes, **attributes}
        if not ended and semconv.OPERATION_NAME in known:
            found.extend(
                f"{span._name}: {complaint}" for complaint in conventions.complaints(span._name, "INTERNAL", known)
            )

    monkeypatch.setattr(StepSpan, "end", step)
    monkeypatch.setattr(Frame, "end", frame)
    yield
    if found:
        pytest.fail("spans against the conventions:\n" + "\n".join(sorted(set(found))), pytrace=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The directory of the span store."""
    return tmp_path / ".escapement"


@pytest.fixture
def reader(store: Path) -> SpanStore:
    return SpanStore(store)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def client(provider: Provider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="sk-test-0123456789abcdefghij", base_url=f"{provider.base_url}/v1") as made:
        yield made


@pytest.fixture
def claude(provider: Provider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="sk-ant-test-0123456789abcdefghij", base_url=provider.base_url) as made:
        yield made


def ask(client: openai.OpenAI, text: str = "Hello", model: str = "gpt-4o") -> str:
    """One chat call; its text."""
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content or ""

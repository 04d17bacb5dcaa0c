"""LangChain's events as spans around the calls that are made in them, and replays that need no handler at all."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

import escapement
from escapement.integrations import EscapementCallbackHandler
from escapement.store.traces import SpanStore
from tests.provider import Provider


def model(provider: Provider) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o", api_key="k", base_url=f"{provider.base_url}/v1", max_retries=0)


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@tool
def broken(city: str) -> str:
    """Never works."""
    raise ValueError("no such city")


class Library(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
        return []


def tree(store: Path, trace_id: str) -> list[tuple[str, str]]:
    """Frames and steps by name, each with the name of what it lies in ("" for the run)."""
    row = SpanStore(store).load(trace_id)
    names = {span["span_id"]: span["name"] for span in row.spans if span["scope"] == "escapement"}
    frames = [(span["name"], names.get(span["parent"], "")) for span in row.spans if span["scope"] == "escapement"]
    return [*frames, *((step.name, names.get(step.parent_span_id, "")) for step in row.steps)]


def chain(provider: Provider) -> Any:
    ask = ChatPromptTemplate.from_template("Say something about {thing}.") | model(provider) | StrOutputParser()
    return ask | RunnableLambda(lambda text: weather.invoke({"city": text[:5]}), name="look")


CHAIN = [
    ("invoke_workflow RunnableSequence", ""),
    ("invoke_workflow ChatPromptTemplate", "invoke_workflow RunnableSequence"),
    ("invoke_workflow StrOutputParser", "invoke_workflow RunnableSequence"),
    ("invoke_workflow look", "invoke_workflow RunnableSequence"),
    ("execute_tool weather", "invoke_workflow look"),
    ("chat gpt-4o", "invoke_workflow RunnableSequence"),
]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_chain_is_around_its_calls(provider: Provider, store: Path, kind: str) -> None:
    def program(*callbacks: Any) -> str:
        made, config = chain(provider), {"callbacks": list(callbacks)}
        if kind == "sync":
            return str(made.invoke({"thing": "clocks"}, config=config))
        return str(asyncio.run(made.ainvoke({"thing": "clocks"}, config=config)))

    with escapement.init() as trace:
        live = program(EscapementCallbackHandler())
    assert tree(store, trace.trace_id) == CHAIN
    (called,) = (span for span in SpanStore(store).load(trace.trace_id).spans if span["name"] == "execute_tool weather")
    assert called["attributes"] == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "weather",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.description": "The weather in a city.",
        "gen_ai.tool.call.arguments": str({"city": live.removeprefix("sunny in ")}),
        "gen_ai.tool.call.result": live,
    }
    before = provider.count
    for callbacks in ([], [EscapementCallbackHandler()]):
        with escapement.replay(trace.trace_id, strict_replay=True):
            assert program(*callbacks) == live
    assert provider.count == before


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_branches_lie_in_their_own_frames(provider: Provider, store: Path, kind: str) -> None:
    def named(name: str) -> Any:
        return (ChatPromptTemplate.from_template("Hello {thing}.") | model(provider)).with_config(run_name=name)

    both = RunnableParallel(one=named("one"), two=named("two")).with_config(run_name="both")
    config: Any = {"callbacks": [EscapementCallbackHandler()]}
    with escapement.init() as trace:
        if kind == "sync":
            both.invoke({"thing": "you"}, config=config)
        else:
            asyncio.run(both.ainvoke({"thing": "you"}, config=config))
    found = tree(store, trace.trace_id)
    assert sorted(found) == sorted(
        [
            ("invoke_workflow both", ""),
            ("invoke_workflow one", "invoke_workflow both"),
            ("invoke_workflow two", "invoke_workflow both"),
            ("invoke_workflow ChatPromptTemplate", "invoke_workflow one"),
            ("invoke_workflow ChatPromptTemplate", "invoke_workflow two"),
            ("chat gpt-4o", "invoke_workflow one"),
            ("chat gpt-4o", "invoke_workflow two"),
        ]
    )


def test_an_agent_with_a_tool(provider: Provider, store: Path) -> None:
    agent = create_agent(model(provider), [weather], name="helper")
    asked: Any = {"messages": [{"role": "user", "content": "the weather, please"}]}
    config: Any = {"callbacks": [EscapementCallbackHandler()], "recursion_limit": 6}

    def program() -> list[str]:
        try:
            return [str(message.content) for message in agent.invoke(asked, config=config)["messages"]]
        except Exception as error:  # a model that asks for the tool again and again is stopped
            return [type(error).__name__]

    with escapement.init() as trace:
        live = program()
    found = tree(store, trace.trace_id)
    assert found[0] == ("invoke_agent helper", "")
    assert {above for name, above in found if name == "chat gpt-4o"} == {"invoke_workflow model"}
    before = provider.count
    with escapement.replay(trace.trace_id, strict_replay=True):
        assert program() == live
    assert provider.count == before


def test_retrievers_and_tools_that_fail(provider: Provider, store: Path) -> None:
    handler: Any = {"callbacks": [EscapementCallbackHandler()]}
    with escapement.init() as trace:
        Library().invoke("where is it", config=handler)
        with pytest.raises(ValueError, match="no such city"):
            broken.invoke({"city": "Atlantis"}, config=handler)
    retrieval, failed = SpanStore(store).load(trace.trace_id).spans
    assert (retrieval["name"], retrieval["attributes"]["gen_ai.retrieval.query.text"]) == (
        "retrieval Library",
        "where is it",
    )
    assert (failed["name"], failed["status"], failed["description"]) == ("execute_tool broken", "ERROR", "no such city")
    assert failed["attributes"]["error.type"] == "ValueError"


def test_a_model_that_makes_no_request_is_reported_once(store: Path) -> None:
    fake = FakeListChatModel(responses=["one", "two"])
    handler: Any = {"callbacks": [EscapementCallbackHandler()]}
    with escapement.init(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fake.invoke("hello", config=handler)
        fake.invoke("hello", config=handler)
    (only,) = (warning for warning in said if issubclass(warning.category, escapement.EscapementWarning))
    assert "the model FakeListChatModel answered without a request over HTTP" in str(only.message)


def test_without_a_run_it_does_nothing(store: Path) -> None:
    fake = FakeListChatModel(responses=["one"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", escapement.EscapementWarning)
        assert fake.invoke("hello", config={"callbacks": [EscapementCallbackHandler()]}).content == "one"
    assert not store.exists()


def test_secrets_do_not_get_into_frames(store: Path) -> None:
    key = "sk-proj-" + "a1B2" * 12
    with escapement.init() as trace:
        weather.invoke({"city": key}, config={"callbacks": [EscapementCallbackHandler()]})
    (span,) = SpanStore(store).load(trace.trace_id).spans
    assert key not in str(span)
    assert "[REDACTED:openai-key]" in span["attributes"]["gen_ai.tool.call.arguments"]

"""LangChain's events as spans: `chain.invoke(…, config={"callbacks": [EscapementCallbackHandler()]})`.

Chains, agents, tools and retrievers become spans around the calls that are made in them. A model that answers without
a request (one of LangChain's fake models, one that runs in this process, a cache) is reported: what it said is not in
the trace, and a replay would ask it again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

try:
    from langchain_core.callbacks import BaseCallbackHandler
except ImportError as error:  # pragma: no cover - said to whoever has no LangChain
    raise ImportError("EscapementCallbackHandler needs LangChain: pip install langchain-core") from error

from escapement.engine import runs
from escapement.engine.frames import Frame
from escapement.engine.session import Session
from escapement.words import semconv
from escapement.words.errors import EscapementWarning

_TEXT = 20_000  # characters of a tool's arguments or result that are kept


class EscapementCallbackHandler(BaseCallbackHandler):  # type: ignore[misc,unused-ignore]  # may not be installed
    """Give it to any LangChain object as a callback; one can serve many runs, threads and tasks at once.

    It does nothing while no run of Escapement is open, and never raises into the program.
    """

    run_inline = True
    """Events of async code come in the task that they are about."""
    raise_error = False

    def __init__(self) -> None:
        super().__init__()
        self._frames: dict[UUID, Frame] = {}
        self._asked: dict[UUID, tuple[Session, int, str]] = {}
        self._reported: set[str] = set()

    # -- chains and agents ---------------------------------------------------------------------------------------

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        name = _name(serialized, kwargs, "chain")
        agent = (metadata or {}).get("lc_agent_name")
        if agent and agent == name:
            attributes = {semconv.OPERATION_NAME: "invoke_agent", semconv.AGENT_NAME: agent}
        else:
            attributes = {semconv.OPERATION_NAME: "invoke_workflow", semconv.WORKFLOW_NAME: name}
        self._start(run_id, parent_run_id, attributes, name)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error=error)

    # -- tools ---------------------------------------------------------------------------------------------------

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tool_call_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        name = _name(serialized, kwargs, "tool")
        attributes = {
            semconv.OPERATION_NAME: "execute_tool",
            semconv.TOOL_NAME: name,
            semconv.TOOL_TYPE: "function",
            semconv.TOOL_CALL_ARGUMENTS: input_str[:_TEXT],
        }
        if tool_call_id:
            attributes[semconv.TOOL_CALL_ID] = tool_call_id
        if description := (serialized or {}).get("description"):
            attributes[semconv.TOOL_DESCRIPTION] = str(description)
        self._start(run_id, parent_run_id, attributes, name)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        said = getattr(output, "content", output)
        self._end(run_id, {semconv.TOOL_CALL_RESULT: str(said)[:_TEXT]})

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error=error)

    # -- retrievers ----------------------------------------------------------------------------------------------

    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        attributes = {semconv.OPERATION_NAME: "retrieval", semconv.RETRIEVAL_QUERY_TEXT: str(query)[:_TEXT]}
        self._start(run_id, parent_run_id, attributes, _name(serialized, kwargs, "retriever"))

    def on_retriever_end(self, documents: Sequence[Any], *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error=error)

    # -- models --------------------------------------------------------------------------------------------------

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        self._ask(serialized, run_id, parent_run_id, kwargs)

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        self._ask(serialized, run_id, parent_run_id, kwargs)

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        session, before, name = self._asked.pop(run_id, (None, 0, ""))
        if session is None or session.steps > before or name in self._reported:
            return
        self._reported.add(name)
        warnings.warn(
            f"Escapement: the model {name} answered without a request over HTTP (a model in this process, or a cache): "
            "its answers are not in the trace, and a replay asks it again",
            EscapementWarning,
            stacklevel=2,
        )

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._asked.pop(run_id, None)

    # -- frames --------------------------------------------------------------------------------------------------

    def _ask(
        self, serialized: dict[str, Any] | None, run_id: UUID, parent_run_id: UUID | None, more: Mapping[str, Any]
    ) -> None:
        """A model is about to be called, from where its parent is: another frame may have ended here meanwhile."""
        session = runs.current()
        if session is None:
            return
        if parent_run_id is not None and (above := self._frames.get(parent_run_id)) is not None:
            above.enter()
        self._asked[run_id] = session, session.steps, _name(serialized, more, "model")

    def _start(self, run_id: UUID, parent_run_id: UUID | None, attributes: Mapping[str, Any], name: str) -> None:
        session = runs.current()
        if session is None:
            return
        above = self._frames.get(parent_run_id) if parent_run_id is not None else None
        title = f"{attributes[semconv.OPERATION_NAME]} {name}"
        frame = self._frames[run_id] = Frame(session, session.root_context, title, attributes, above)
        frame.enter()

    def _end(
        self, run_id: UUID, attributes: Mapping[str, Any] | None = None, error: BaseException | None = None
    ) -> None:
        frame = self._frames.pop(run_id, None)
        if frame is not None:
            frame.end(attributes or {}, error)
            if frame.above is not None:
                frame.above.enter()


def _name(serialized: Mapping[str, Any] | None, more: Mapping[str, Any], otherwise: str) -> str:
    """What LangChain calls the thing that an event is about."""
    named = more.get("name") or (serialized or {}).get("name")
    return str(named or ((serialized or {}).get("id") or [otherwise])[-1])

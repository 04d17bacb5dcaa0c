"""Frameworks that tell what they are doing: their chains, agents and tools as spans around the calls they make.

    from escapement.integrations import EscapementCallbackHandler     # LangChain and LangGraph

Calls are recorded and replayed without any of this; it adds structure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from escapement.integrations.langchain import EscapementCallbackHandler

__all__ = ["EscapementCallbackHandler"]


def __getattr__(name: str) -> Any:
    if name != "EscapementCallbackHandler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from escapement.integrations.langchain import EscapementCallbackHandler

    return EscapementCallbackHandler

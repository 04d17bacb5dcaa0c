"""Cases of the matrix: small programs that call a model API, each written once for sync and async clients.

A program is an `async def` that is given a client. With a sync client nothing in it ever waits, so it is run without an
event loop, and what it does is what a sync program does.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import anthropic
import openai

from tests.fidelity.snapshot import snapshot

Program = Callable[[Any], Awaitable[Any]]
_Result = TypeVar("_Result")

SYNC, ASYNC = "sync", "async"
SDKS = {"openai": openai, "anthropic": anthropic}
CASES: list[Case] = []


@dataclass(frozen=True)
class Case:
    """One kind of call."""

    sdk: str
    name: str
    program: Program
    needs: str | Callable[[str], str] = ""
    """What the client must have, as a dotted name; or what says for an SDK why it cannot."""
    varies: bool | None = True
    """Whether two live runs differ; None where chance decides."""
    modes: tuple[str, ...] = (SYNC, ASYNC)

    @property
    def missing(self) -> str:
        """Why the case cannot be run here; empty where it can."""
        if callable(self.needs):
            return self.needs(self.sdk)
        found: Any = _probe(self.sdk)
        for part in filter(None, self.needs.split(".")):
            found = getattr(found, part, None)
            if found is None:
                return f"{self.sdk} {SDKS[self.sdk].__version__} has no {self.needs}"
        return ""


def case(sdk: str, name: str = "", **options: Any) -> Callable[[Program], Program]:
    """Make a program a case, named as it is unless told otherwise."""

    def add(program: Program) -> Program:
        CASES.append(Case(sdk, name or program.__name__, program, **options))
        return program

    return add


@cache
def _probe(sdk: str) -> Any:
    """A client to look at."""
    return client(sdk, SYNC, "http://127.0.0.1")


def client(sdk: str, mode: str, url: str, **options: Any) -> Any:
    """A client as a user would make it; `url` is the provider's."""
    if sdk == "openai":
        kind: Any = openai.OpenAI if mode == SYNC else openai.AsyncOpenAI
        return kind(base_url=f"{url}/v1", api_key="any", **options)
    kind = anthropic.Anthropic if mode == SYNC else anthropic.AsyncAnthropic
    return kind(base_url=url, api_key="any", **options)


def is_async(client: Any) -> bool:
    return isinstance(client, (openai.AsyncOpenAI, anthropic.AsyncAnthropic))


def http_library(client: Any) -> ModuleType:
    """The HTTP library that the client's SDK makes its own clients with."""
    return library_of(type(client).__module__.partition(".")[0])


def library_of(sdk: str) -> ModuleType:
    """The HTTP library that an SDK makes its own clients with."""
    base = SDKS[sdk]._base_client
    library: ModuleType = getattr(base, "httpx2", None) or base.httpx
    return library


def lacks_aiohttp(sdk: str) -> str:
    """Why the SDK cannot use aiohttp here; empty where it can."""
    make = getattr(SDKS[sdk], "DefaultAioHttpClient", None)
    if make is None:
        return f"{sdk} {SDKS[sdk].__version__} does not know aiohttp"
    try:
        make()
    except RuntimeError as error:
        return str(error)
    return ""


def lacks(package: str) -> str:
    """Why a case that needs this package cannot be run here; empty where it can."""
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # the package that it is in
        found = None
    return "" if found else f"{package} is not installed"


def drive(mode: str, program: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a program to its end, in an event loop only if it is for async clients."""
    if mode == ASYNC:
        return asyncio.run(program)
    try:
        program.send(None)
    except StopIteration as done:
        result: _Result = done.value
        return result
    raise RuntimeError("a program waited with a sync client")


async def settle(value: Any) -> Any:
    """The result of a call, of either client."""
    return await value if inspect.isawaitable(value) else value


async def each(items: Any) -> AsyncIterator[Any]:
    """The items of a stream, of either client."""
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    """`with` or `async with`."""
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def drained(items: Any) -> list[Any]:
    """Each item as it was when it came (helpers go on writing to theirs); an exception is the last of them."""
    told: list[Any] = []
    try:
        async for item in each(items):
            told.append(snapshot(item))
    except Exception as error:  # which one it is, the snapshot says
        told.append(snapshot(error))
    return told

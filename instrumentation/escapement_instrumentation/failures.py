"""Exceptions of the standard library (and the causes of aiohttp's), made again from what was kept of them."""

from __future__ import annotations

import asyncio
import builtins
import http.client
import re
import socket
import ssl
import sys
import textwrap
from contextlib import suppress
from itertools import pairwise
from types import ModuleType
from typing import Any

from escapement.words.http import Failure

_STATUS = re.compile(r"\d+, message:\n(.*)", re.DOTALL)
_ERRNO = re.compile(r"\[Errno (-?\d+)\] (.*)", re.DOTALL)


def made(kind: Any, message: str) -> BaseException | None:
    """An exception from its message; None for one that takes more to make."""
    if not (isinstance(kind, type) and issubclass(kind, (Exception, asyncio.CancelledError))):
        return None
    numbered = _ERRNO.fullmatch(message)
    with suppress(Exception):
        if numbered is not None and issubclass(kind, OSError):
            return kind(int(numbered[1]), numbered[2])
        if issubclass(kind, ssl.SSLError):
            return kind(int(ssl.SSL_ERROR_SSL), message)
        return kind(message) if message else kind()
    return None


def standard(failure: Failure) -> BaseException | None:
    """The exception of the standard library that a failure was; None where it was somebody else's."""
    return made(_known(failure.type), failure.message)


def cause(failure: Failure) -> BaseException | None:
    """The nearest cause of a failure, with its own, as far as they were of the standard library or aiohttp's parser."""
    causes = [_cause(name, message) for name, message in failure.causes]
    for effect, its_cause in pairwise(causes):
        if effect is None:
            break
        effect.__cause__ = its_cause
    return causes[0] if causes else None


def _cause(name: str, message: str) -> BaseException | None:
    module, _, kind = name.rpartition(".")
    if module == "aiohttp.http_exceptions":
        told = _STATUS.fullmatch(message)
        return made(getattr(sys.modules.get(module), kind, None), textwrap.dedent(told[1]) if told else message)
    return made(_known(kind), message)


def _known(name: str) -> Any:
    places: tuple[ModuleType, ...] = (builtins, http.client, ssl, socket, asyncio)
    return next((found for place in places if (found := getattr(place, name, None)) is not None), None)

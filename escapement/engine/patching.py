"""One wrapped attribute of somebody else's class, put on and taken off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import wrapt

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""wrapt's form: the wrapped callable (bound), its instance, positional and keyword arguments."""


class Hook(Protocol):
    """Something that is put on and taken off again."""

    def apply(self) -> None: ...

    def remove(self) -> None: ...


class Patch:
    """Wraps `owner.name` while it is on. Safe to put on twice, and on an attribute that is inherited."""

    def __init__(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        self._owner = owner
        self._name = name
        self._wrapper = wrapper
        self._installed: Any = None
        self._original: Any = None

    def apply(self) -> None:
        current = self._owner.__dict__.get(self._name)
        if self._installed is not None or getattr(current, "_self_escapement", False):
            return  # ours already: this very class under another name (`httpx2.alias_httpx()`), or applied twice
        self._original = current
        wrapped = current if current is not None else getattr(self._owner, self._name)
        self._installed = wrapt.FunctionWrapper(wrapped, self._wrapper)
        self._installed._self_escapement = True
        setattr(self._owner, self._name, self._installed)

    def remove(self) -> None:
        if self._installed is None:
            return
        # Where somebody wrapped what we had wrapped, theirs stays and ours stays inside, doing nothing.
        if self._owner.__dict__.get(self._name) is self._installed:
            if self._original is not None:
                setattr(self._owner, self._name, self._original)
            else:
                delattr(self._owner, self._name)
        self._installed = None

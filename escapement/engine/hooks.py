"""Hooks on a module that may not be imported yet."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import wrapt

from escapement.engine.patching import Hook

_log = logging.getLogger("escapement")


class ModuleHooks:
    """Patches of one module: put on at once where it is imported, else when it is, as long as they are wanted."""

    def __init__(self, module: str, patches: Callable[[ModuleType], Sequence[Hook]]) -> None:
        self._module = module
        self._make = patches
        self._patches: Sequence[Hook] = ()
        self._wanted = False
        self._waiting = False

    def apply(self) -> None:
        self._wanted = True
        module = sys.modules.get(self._module)
        if module is not None:
            self._put_on(module)
        elif not self._waiting:
            # An import hook cannot be taken back, so it is registered once and asks whether it is still wanted.
            self._waiting = True
            wrapt.register_post_import_hook(self._imported, self._module)

    def remove(self) -> None:
        self._wanted = False
        for patch in self._patches:
            patch.remove()
        self._patches = ()

    def _imported(self, module: ModuleType | None) -> None:
        self._waiting = False
        if self._wanted and module is not None:  # None: an import that somebody forbade
            self._put_on(module)

    def _put_on(self, module: ModuleType) -> None:
        """All patches or none: a module that has not what they stand on is imported all the same."""
        if self._patches:
            return
        try:
            self._patches = self._make(module)
            for patch in self._patches:
                patch.apply()
        except Exception:
            _log.exception(
                "Escapement cannot put its hooks on %s: is this version of it supported? What is called through it may "
                "be neither recorded nor replayed",
                self._module,
            )
            for patch in self._patches:
                patch.remove()
            self._patches = ()

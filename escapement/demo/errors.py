"""What goes wrong in the demo, in words for the person who ran it."""

from __future__ import annotations

from escapement.words.errors import EscapementError


class DemoError(EscapementError):
    """The demo cannot go on. The message says what happened and what to do."""


INSTALL = 'Install what the demo needs: pip install "escapement[demo]" (in a checkout: make demo)'

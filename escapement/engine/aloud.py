"""Saying something to the user while their program goes on."""

from __future__ import annotations

import logging
import warnings

from escapement.engine import divergence
from escapement.words.errors import EscapementWarning

_log = logging.getLogger("escapement")


def warn(message: str) -> None:
    """Say something loudly, at the user's line. Where warnings are errors it is logged: ours never stop the program."""
    file, line = divergence.user_frame() or (__file__, 0)
    try:
        warnings.warn_explicit(f"Escapement: {message}", EscapementWarning, file, line)
    except EscapementWarning as warning:
        _log.warning("%s", warning)

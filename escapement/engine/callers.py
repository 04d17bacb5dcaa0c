"""Whose line it was: the frame of the user's program that a call came from."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from types import FrameType

_LIBRARY = tuple(
    os.path.realpath(sysconfig.get_path(kind)) + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")
)
_OURS = tuple(
    os.path.dirname(spec.origin) + os.sep
    for name in ("escapement", "escapement_instrumentation")
    if (spec := importlib.util.find_spec(name)) is not None and spec.origin is not None
)


def user_frame() -> tuple[str, int] | None:
    """File and line of the innermost frame that is neither a library's nor ours; None where there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        users = _users.get(file)  # a call has some thirty frames below the user's: look, do not call
        if users is None:
            users = _users[file] = _is_users(file)
        if users:
            return file, frame.f_lineno
        frame = frame.f_back
    return None


def user_code() -> str:
    """The user's frame as `file.py:line`, a file below the working directory by its path; empty where there is none."""
    found = user_frame()
    if found is None:
        return ""
    file, line = found
    try:
        below = os.path.relpath(file)
    except (OSError, ValueError):  # the working directory is gone
        below = os.pardir
    return f"{os.path.basename(file) if below.startswith(os.pardir) else below}:{line}"


_users: dict[str, bool] = {}


def _is_users(file: str) -> bool:
    return not (file.startswith("<frozen") or os.path.realpath(file).startswith((*_LIBRARY, *_OURS)))

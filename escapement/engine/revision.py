"""The git commit that a program stands at, read from files: nothing is started for it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def of_program() -> str:
    """The commit of the repository that the program was started in, else that it is in; empty where there is none.

    The layout is that of https://git-scm.com/docs/gitrepository-layout.
    """
    places: list[str] = []
    with suppress(OSError):  # the directory was deleted
        places.append(os.getcwd())
    if sys.argv and os.path.isfile(sys.argv[0]):
        places.append(os.path.dirname(os.path.abspath(sys.argv[0])))
    return next((commit for place in places if (commit := of_directory(Path(place)))), "")


def of_directory(place: Path) -> str:
    """The commit that is checked out there; empty where there is none."""
    with suppress(OSError, UnicodeDecodeError):  # a repository that cannot be read is none
        for folder in (place, *place.parents):
            if (folder / ".git").exists():
                return _head(folder / ".git")
    return ""


def _head(git: Path) -> str:
    if git.is_file():  # a worktree, or a submodule
        git = git.parent / git.read_text().partition("gitdir:")[2].strip()
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return head
    name = head.partition(":")[2].strip()
    common = git / "commondir"
    shared = git / common.read_text().strip() if common.is_file() else git
    for folder in (git, shared):
        if (folder / name).is_file():
            return (folder / name).read_text().strip()
    for line in (shared / "packed-refs").read_text().splitlines():
        commit, _, ref = line.partition(" ")
        if ref == name:
            return commit
    return ""

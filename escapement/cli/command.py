"""A command that is run: the program that is meant, what its processes are told, its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import typer

from escapement.engine.family import Membership

HOOK = Path(__file__).parent.parent / "startup"
umask = os.umask(0o077)
"""What files of the program are to be made with; ours are made private."""
os.umask(umask)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def found(command: list[str]) -> str:
    """The program that is meant. Ends as shells do where there is none."""
    program = shutil.which(command[0])
    if program is None:
        there = os.path.exists(command[0])
        what = "is not a program that can be run" if there else "no such command"
        print(f"escapement: {command[0]}: {what}", file=sys.stderr)
        raise typer.Exit(126 if there else 127)
    return program


def environment_of(member: Membership) -> dict[str, str]:
    """What makes every Python below take part in the run."""
    paths = os.environ.get("PYTHONPATH", "")
    return member.environment() | {"PYTHONPATH": os.pathsep.join([str(HOOK), paths] if paths else [str(HOOK)])}


def execute(program: str, command: list[str], environment: dict[str, str], *, quiet: bool = False) -> int:
    """Run the command to its end, with our stdin, stdout and stderr, or (`quiet`) none. As `Popen.returncode`: negative
    for a signal."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGINT:  # a terminal sends that one to both of us
            process.send_signal(number)

    sys.stdout.flush()
    sys.stderr.flush()
    stream = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(
        command,
        executable=program,
        env=os.environ | environment,
        stdin=stream,
        stdout=stream,
        stderr=stream,
        close_fds=False,
        umask=umask,
    )
    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(returned: int) -> int:
    """As shells have it: 128 and the number of the signal."""
    return 128 - returned if returned < 0 else returned

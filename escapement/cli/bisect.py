"""`escapement bisect`: the commit at which a program stopped doing what a trace says."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from escapement.cli import output
from escapement.cli.command import environment_of, execute, found
from escapement.cli.run import Command, Reference
from escapement.store.rows import TraceRow
from escapement.words.config import Settings, resolve
from escapement.words.errors import ConfigError, EscapementError

_SKIP, _STOP = 125, 128
"""Exit codes that `git bisect run` takes for "cannot be tested" and "give up"."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a replay at one commit has shown."""

    code: int
    """0 the same, 1 another, 125 it cannot be said: as `git bisect run` takes them."""
    reason: str

    @property
    def word(self) -> str:
        return {0: "good", 1: "bad"}.get(self.code, "skip")


def bisect(
    trace: Reference,
    command: Command,
    good: Annotated[
        str,
        typer.Option(metavar="REV", help="A commit (or trace) that is as recorded.", show_default="the trace's own"),
    ] = "",
    bad: Annotated[str, typer.Option(metavar="REV", help="A commit (or trace) that is not.")] = "HEAD",
    once: Annotated[
        bool, typer.Option("--once", help="Only what is checked out: 0, 1 or 125, for `git bisect run`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was found, as one JSON document.")] = False,
) -> None:
    """Find the commit at which a command first does something else than a trace says, by replaying it."""
    program = found(command)
    settings = resolve(None, {"strict_replay": True})
    if once:
        verdict = _try(trace, settings, program, command)
        typer.echo(f"escapement: {verdict.word}: {verdict.reason}", err=True)
        raise typer.Exit(verdict.code)
    row = _row(trace, settings)
    with _Repository() as repository:
        first = repository.commit((good and _revision(good, settings)) or _of_trace(row))
        last = repository.commit(_revision(bad, settings))
        verdicts: dict[str, Verdict] = {}

        def judge(commit: str) -> Verdict:
            verdict = verdicts[commit] = _try(trace, settings, program, command)
            typer.echo(f"escapement: {repository.title(commit)}: {verdict.word}, {_first_line(verdict)}", err=True)
            return verdict

        for commit, wanted, option in ((first, "good", "--good"), (last, "bad", "--bad")):
            repository.check_out(commit)
            verdict = judge(commit)
            if verdict.word != wanted:
                raise ConfigError(
                    f"{option} {repository.title(commit)} is not {wanted}: {verdict.reason}. "
                    f"Name {'an older' if wanted == 'good' else 'another'} commit"
                )
        culprit = repository.search(first, last, judge)
        title = repository.title(culprit)
        reason = verdicts[culprit].reason
    if as_json:
        output.print_json({"trace": row.trace_id, "commit": culprit, "title": title, "reason": reason})
    else:
        print(output.plain(f"{title}\n\n{reason}"))


def _try(trace: str, settings: Settings, program: str, command: list[str]) -> Verdict:
    """Replay the command as it is checked out now. Nothing can go live: the replay is strict."""
    from escapement.engine.conducting import Replayed

    try:
        replayed = Replayed(settings, trace)
    except EscapementError as error:
        typer.echo(f"escapement: {error}", err=True)
        raise typer.Exit(_STOP) from None
    returned = execute(program, command, environment_of(replayed.member), quiet=True)
    outcome = replayed.end(returned)
    if returned == -signal.SIGINT:
        raise KeyboardInterrupt
    recorded = replayed.source.row.status
    if outcome.divergence is not None:
        return Verdict(1, str(outcome.divergence["message"]))
    if not outcome.served and replayed.steps:
        return Verdict(_SKIP, f"it came to no step of the trace (exit code {outcome.code})")
    if outcome.served < replayed.steps:
        return Verdict(1, f"it ended with step {outcome.served} of {replayed.steps} (exit code {outcome.code})")
    if outcome.status != recorded:
        return Verdict(1, f"it ended as {outcome.status} (exit code {outcome.code}), recorded was {recorded}")
    return Verdict(0, f"all {replayed.steps} steps as recorded")


def _first_line(verdict: Verdict) -> str:
    return output.plain(verdict.reason.partition("\n")[0])


def _row(trace: str, settings: Settings) -> TraceRow:
    from escapement.engine import sources

    return sources.find(trace, settings).row


def _revision(name: str, settings: Settings) -> str:
    return _of_trace(_row(name, settings)) if re.fullmatch(r"tr_[0-9a-f]+|@(last|-\d+)", name) else name


def _of_trace(row: TraceRow) -> str:
    commit = str(row.origin.get("commit") or "")
    if not commit:
        raise ConfigError(f"{row.trace_id} was not recorded in a git repository: name a good commit with --good")
    return commit


class _Repository:
    """The git repository around, put back to where it stood in the end."""

    def __enter__(self) -> _Repository:
        top = self._git("rev-parse", "--show-toplevel")
        if self._git("status", "--porcelain", "--untracked-files=no"):
            raise ConfigError(f"{top} has changes that are not committed: commit or stash them, then bisect")
        if "bisect" in self._git("rev-parse", "--git-path", "BISECT_LOG") and self._ok("bisect", "log"):
            raise ConfigError(f"a bisection of {top} is under way: `git bisect reset` ends it")
        self._before = self._git("rev-parse", "--abbrev-ref", "HEAD")
        if self._before == "HEAD":
            self._before = self._git("rev-parse", "HEAD")
        return self

    def __exit__(self, *error: object) -> None:
        if self._ok("bisect", "log"):
            self._git("bisect", "reset", self._before)
        self._git("checkout", "--quiet", self._before)

    def commit(self, revision: str) -> str:
        """Its id. Raises ConfigError for what is none."""
        return self._git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")

    def check_out(self, commit: str) -> None:
        self._git("checkout", "--quiet", "--detach", commit)

    def title(self, commit: str) -> str:
        return self._git("show", "--no-patch", "--format=%h %s", commit)

    def search(self, good: str, bad: str, judge: Callable[[str], Verdict]) -> str:
        """The first bad commit between them. Raises ConfigError where commits that cannot be tested hide it."""
        self._git("bisect", "start", bad, good)
        while True:
            commit = self._git("rev-parse", "HEAD")
            said = self._git("bisect", judge(commit).word)
            found = re.search(r"^([0-9a-f]{40,64}) is the first .*bad.* commit", said, re.MULTILINE)
            if found is not None:
                return found.group(1)
            if "only 'skip'ped commits left" in said.lower():
                raise ConfigError(f"commits that cannot be tested hide it:\n{said}")

    def _git(self, *words: str) -> str:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise ConfigError("git is not installed") from None
        # `git bisect skip` ends with 2 where nothing else is left, and says so.
        if done.returncode and not (words[0] == "bisect" and done.stdout):
            raise ConfigError(f"git {words[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _ok(self, *words: str) -> bool:
        return subprocess.run(["git", *words], capture_output=True, check=False).returncode == 0

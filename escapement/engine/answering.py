"""What a replay answers its program with: the steps of a trace, until it goes live or asks for something new."""

from __future__ import annotations

from escapement.engine import divergence, redaction
from escapement.engine.matching import Matcher
from escapement.engine.normalising import Normalising
from escapement.engine.sources import Source
from escapement.providers import Operation
from escapement.store.pieces import Body
from escapement.store.rows import StepRow
from escapement.words.config import Settings
from escapement.words.errors import ReplayDivergenceError
from escapement.words.http import Request

Served = tuple[int, str, StepRow]
"""A step of the run and its lane, and the recorded step that answered it."""


class Answering:
    """The answers of one replay. Whoever calls holds the lock of the run, but for the order of answers."""

    def __init__(self, source: Source, settings: Settings, normalising: Normalising) -> None:
        self.trace = source.row
        self.reference = source.reference
        self.until = source.until
        self.leaves = source.leaves
        self.edited = source.edited
        self.strict = settings.strict_replay
        self.served: list[Served] = []
        """In a process that takes part in a run: those of this process."""
        self.expected = False
        """Whether what is not in the trace goes live without a warning: the program was told something else."""
        self._adopt = source.adopt
        self._redacts = settings.redact
        self._normalising = normalising
        self._matcher: Matcher | None = source.matcher(normalising, settings.redact)

    @property
    def over(self) -> bool:
        """Whether nothing is answered any more."""
        return self._matcher is None

    @property
    def remaining(self) -> int:
        """Recorded steps that the replay has not come to."""
        return self._matcher.total - self._matcher.served if self._matcher is not None else 0

    def fingerprint_of(self, exact: str) -> str | None:
        """The fingerprint of a recorded request with these very bytes."""
        return self._matcher.fingerprint_of(exact) if self._matcher is not None else None

    def take(self, lane: str, fingerprint: str) -> StepRow | None:
        """The step that answers a request, if any (still) does."""
        return self._matcher.take(lane, fingerprint) if self._matcher is not None else None

    def comes_before(self, row: StepRow) -> StepRow | None:
        """A step that was answered before this one in the recording, and has not been answered yet in the replay."""
        return self._matcher.comes_before(row) if self._matcher is not None else None

    def hand_out(self, row: StepRow) -> None:
        """The answer goes to the program now, or never will."""
        if self._matcher is not None:
            self._matcher.hand_out(row)

    def adopt(self) -> object:
        """Bring the trace into the store, for a run that goes on from it. Raises EscapementError."""
        return self._adopt()

    def stop(self) -> None:
        """Answer nothing more."""
        self._matcher = None

    def is_to_go_live(self, fingerprint: str, step: int, live: bool) -> bool:
        """Whether a request that no step answers is what the replay was to go live for; else it is a miss. `live`:
        whether the run has gone live already."""
        if self.expected or self._matcher is None:
            return True
        return bool(self.until) and (step >= (self.until or 0) or live or self._matcher.is_beyond(fingerprint))

    def miss(
        self, fingerprint: str, request: Request, operation: Operation, lane: str, step: int, body: Body
    ) -> ReplayDivergenceError:
        """Why no step answers a request."""
        assert self._matcher is not None
        model = operation.model or body.fields.get("model", (0, ""))[1]
        return divergence.explain(
            trace=self.trace,
            matcher=self._matcher,
            fingerprint=fingerprint,
            request=redaction.scrub(request.body) if self._redacts else request.body,
            title=f"{operation.name} {model}".strip(),
            lane=lane,
            step=step,
            normalising=self._normalising,
            strict=self.raises,
        )

    @property
    def raises(self) -> bool:
        """Whether a miss is an error."""
        return self.strict and not self.leaves

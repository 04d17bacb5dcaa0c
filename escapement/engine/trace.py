"""`Trace`: what the user holds of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from escapement.engine.session import Session


class Trace:
    """A run under way or ended: one recording, replay, or fork. Also a context manager, sync and async.

    Entered with `with`, the run belongs to that block (and the tasks and threads started in it) alone; otherwise it
    is the process's.
    """

    def __init__(self, session: Session | None, name: str, tags: tuple[str, ...], metadata: Mapping[str, Any]) -> None:
        self._session = session
        self._name = name
        self._tags = tags
        self._metadata = dict(metadata)

    @property
    def trace_id(self) -> str:
        """`tr_` and 12 hex digits: the trace that is written or, while nothing is, the one that is replayed.

        The empty string where Escapement is switched off.
        """
        return self._session.trace_id if self._session is not None else ""

    @property
    def parent_id(self) -> str | None:
        """The trace that this one was forked from."""
        session = self._session
        return session.source.trace_id if session is not None and session.source and session.mode == "fork" else None

    @property
    def name(self) -> str:
        return self._name

    @property
    def tags(self) -> tuple[str, ...]:
        return self._tags

    @property
    def metadata(self) -> dict[str, Any]:
        return self._metadata

    @property
    def mode(self) -> str:
        """`record`, `replay`, `fork`; `disabled` where Escapement is switched off."""
        return self._session.mode if self._session is not None else "disabled"

    @property
    def status(self) -> str:
        """`running`, `completed`, `failed` or `killed`; `disabled` where Escapement is switched off."""
        return self._session.status if self._session is not None else "disabled"

    @property
    def steps(self) -> int:
        """Steps so far, served and live."""
        return self._session.steps if self._session is not None else 0

    @property
    def hits(self) -> int:
        """Requests that were answered from a trace."""
        return self._session.hits if self._session is not None else 0

    @property
    def misses(self) -> int:
        """Requests of a replay that its trace held no answer for."""
        return self._session.misses if self._session is not None else 0

    @property
    def calls(self) -> int:
        """Calls that went live, whatever came of them."""
        return self.steps - self.hits if self._session is not None else 0

    @property
    def input_tokens(self) -> int:
        """Tokens that live calls sent."""
        return self._total("input")

    @property
    def output_tokens(self) -> int:
        """Tokens that live calls received."""
        return self._total("output")

    @property
    def tokens(self) -> int:
        """Tokens of live calls, in both directions."""
        return self.input_tokens + self.output_tokens

    @property
    def cost(self) -> float | None:
        """US dollars for the live calls, at list prices or those of `prices_file`; None where one is not known."""
        return self._session.ledger.cost() if self._session is not None else 0.0

    @property
    def incomplete(self) -> bool:
        """Whether steps could not be written."""
        return self._session is not None and self._session.lost > 0

    @property
    def exported(self) -> dict[str, int]:
        """What became of the run's spans where they are exported, so far: `sent`, `spooled` (on disk, to be sent
        later), `slimmed` (too large for a receiver, sent without their longest attributes) and `dropped`."""
        return dict(sum((outlet.counts() for outlet in self._session.outlets), Counter()) if self._session else {})

    def summary(self) -> str:
        """One line for people: what happened, and what it took."""
        session = self._session
        if session is None:
            return "Escapement is switched off (enabled=False)"
        parts = [f"{self.trace_id} {self.name}".strip(), f"{self.mode} {self.status}", _count(self.steps, "step")]
        if session.source is not None:
            parts.append(f"{self.hits} served, {_count(self.misses, 'miss', 'misses')}")
            if session.remaining:
                parts.append(f"{session.remaining} recorded steps not reached")
        if self.calls:
            cost = self.cost
            parts.append(f"{self.tokens} tokens, {'cost unknown' if cost is None else f'${cost:.4f}'}")
        if session.lost:
            parts.append(f"INCOMPLETE: {_count(session.lost, 'step')} lost")
        return " · ".join(parts)

    def __repr__(self) -> str:
        return f"<Trace {self.summary()}>"

    def __enter__(self) -> Self:
        if self._session is not None:
            from escapement.engine import runs

            runs.enter(self._session)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            from escapement.engine import runs

            runs.stop(self._session, error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _total(self, field: str) -> int:
        if self._session is None:
            return 0
        return sum(getattr(usage, field) for usage in self._session.ledger.values())


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"

"""Guards: rules over the steps of a run that stop what runs away. Pure: they see fingerprints, they touch nothing."""

from __future__ import annotations

from collections.abc import Sequence


def only_reads(method: str) -> bool:
    """Whether a request just looks (RFC 9110's safe methods): a job is polled until it is done, and that is no loop."""
    return method in ("GET", "HEAD", "OPTIONS")


class IdenticalCalls:
    """Trips when one request is made for the `limit`-th time.

    Requests that only read are not shown to it. Retries inside a call do not count, and requests that are made while
    the same one is under way count as one: asking ten times at once and taking the best answer is no loop.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._steps: dict[str, list[int]] = {}

    def see(self, fingerprint: str, step: int, beside: bool) -> Sequence[int] | None:
        """Take note of a request, made `beside` the same one or not.

        The steps that made it, this one last, when it was one too many.
        """
        steps = self._steps.setdefault(fingerprint, [])
        if not beside:
            steps.append(step)
        return steps if len(steps) >= self.limit else None

    def explain(self, steps: Sequence[int], trace_id: str) -> str:
        where = f"steps {steps[0]} to {steps[-1]}" if len(steps) > 4 else f"steps {', '.join(map(str, steps))}"
        return (
            f"the same request was made {len(steps)} times ({where}), so the run was stopped before it was sent again. "
            f"Trace {trace_id} is saved: `escapement show {trace_id} --content` shows what repeats. "
            f"If this is meant: max_identical_calls={self.limit * 10}, or loop_detection_enabled=False."
        )

"""What rules see of a step, and what they find. Plain values, the same of a run under way and of a recorded one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Use(NamedTuple):
    """A tool that was used: `arguments` in canonical form, `failed` if its result is an error."""

    name: str
    arguments: str
    result: str
    failed: bool = False


class Asked(NamedTuple):
    """A step when it is asked for, before anything is sent.

    `after` is the step whose request it goes on from (0: none); `uses` and `news` are only what is new since then:
    tools that were used, and what was said by others than the model. `read` says that it is a chat whose messages
    could be read, so that these mean something, `beside` that it repeats nothing, because the same request is under
    way already or because it only reads, `at` when it is (nanoseconds since the run began), `size` how many bytes are
    sent.
    """

    step: int
    lane: str
    fingerprint: str
    at: int = 0
    size: int = 0
    beside: bool = False
    read: bool = False
    after: int = 0
    uses: tuple[Use, ...] = ()
    news: str = ""


class Answered(NamedTuple):
    """A step when it has ended. `read` says that there is a whole answer of a chat: its `text`, and how many `calls`
    of tools it asks for. `cost` is in US dollars, None where it is not known.
    """

    step: int
    lane: str
    at: int = 0
    read: bool = False
    text: str = ""
    calls: int = 0
    tokens: int = 0
    cost: float | None = 0.0


Level = Literal["warn", "stop"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule found. `on_guard` functions are given it.

    `level` is `warn` below the limit at which a run is stopped, `stop` from there on. `steps` are those that it is
    about, the one that is asked for now among them. `calls`, `tokens` and `cost` (US dollars; None: not known) are what
    those steps used, of a budget what the run used.
    """

    rule: str
    level: Level
    what: str
    count: float
    limit: float
    steps: tuple[int, ...] = ()
    subject: int | str = ""
    """What repeats, as far as it must be told from other things that do."""
    calls: int = 0
    tokens: int = 0
    cost: float | None = None
    trace_id: str = ""

    @property
    def where(self) -> str:
        """The steps in words."""
        if not self.steps:
            return ""
        if len(self.steps) == 1:
            return f"step {self.steps[0]}"
        if len(self.steps) > 4:
            return f"steps {self.steps[0]} to {self.steps[-1]}"
        return f"steps {', '.join(map(str, self.steps))}"

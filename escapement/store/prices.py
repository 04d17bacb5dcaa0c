"""What calls cost: list prices by genai-prices, and prices of the user's own, which win over them.

Costs are never written down but computed when read, one call at a time: a rate may depend on the size of the call, on
the day and on the hour. Of the providers in `REPORTING` the answer says what a call cost, and that counts.
What is not known is None (NULL in SQL), never 0. Own prices stand in a TOML file:

    [models."my-model"]           # US dollars per million tokens; also "provider/my-model", and patterns like "llama*"
    input = 1.0
    output = 4.0
    cache_read = 0.1              # without it: as input
    cache_write = 1.25            # without it: as input
    per_call = 0.005              # US dollars a call, beside its tokens

    [[models."my-model".tiers]]   # for the whole of a call with more input tokens than this; what is not here stays
    above = 200_000
    input = 2.0

A model is called what the answer calls it, which may be longer than what was asked for; a provider is called by its
`gen_ai.provider.name`. An exact name goes before a pattern, the first pattern before the next.
"""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from escapement.store.layout import Layout
from escapement.words.config import Settings
from escapement.words.errors import ConfigError

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

BESIDE: Final = "prices.toml"
"""The file in the storage directory that is read where `prices_file` is not set."""


def amount(value: object) -> float | None:
    """US dollars as somebody else writes them; None for what is no amount."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < math.inf else None


REPORTING: Final = frozenset({"openrouter", "perplexity"})
"""Providers whose answers say what the call cost (values of `gen_ai.provider.name`)."""

COST_SQL: Final = """CASE
  WHEN coalesce(s.input_tokens, 0) = 0 AND coalesce(s.output_tokens, 0) = 0 THEN 0.0
  WHEN least(coalesce(s.input_tokens, 0) - coalesce(s.cache_read_tokens, 0) - coalesce(s.cache_write_tokens, 0),
             coalesce(s.output_tokens, 0), coalesce(s.cache_read_tokens, 0), coalesce(s.cache_write_tokens, 0)) >= 0
  THEN (coalesce(s.input_tokens, 0) - coalesce(s.cache_read_tokens, 0) - coalesce(s.cache_write_tokens, 0)) * p.input
     + coalesce(s.cache_read_tokens, 0) * p.cache_read
     + coalesce(s.cache_write_tokens, 0) * p.cache_write
     + coalesce(s.output_tokens, 0) * p.output
     + p.per_call
END"""
"""US dollars for a call `s` (a row of the spans) with its row `p` of `sql_rows`; what `Prices.cost` says in Python."""

MODEL_SQL: Final = "coalesce(nullif(s.response_model, ''), s.model, '')"
"""The model that a call `s` is priced by."""

MATCH_SQL: Final = f"""p.provider = coalesce(s.provider, '') AND p.model = {MODEL_SQL} AND p.date = s.date
  AND p.since <= s.start_unix_nano AND s.start_unix_nano < p.until
  AND p.above < coalesce(s.input_tokens, 0) AND (p.up_to IS NULL OR coalesce(s.input_tokens, 0) <= p.up_to)"""
"""The condition on which a call `s` is joined (LEFT JOIN: a price may be missing) to its one row `p` of `sql_rows`."""


@dataclass(frozen=True, slots=True)
class Rate:
    """US dollars per token, for the whole of a call with more than `above` and at most `up_to` input tokens."""

    above: int
    up_to: int | None
    input: float
    output: float
    cache_read: float
    cache_write: float
    per_call: float = 0.0


Rates = tuple[Rate, ...]
"""The tiers of a model in order. The first begins above -1, so that a call without input has its price, too."""


class Prices:
    """The prices of every model, at any time. Raises ConfigError for a file of own prices that is not one."""

    def __init__(self, path: Path | None = None) -> None:
        self._own = _read(path) if path is not None else {}
        self._plans: dict[tuple[str, str], _Plan] = {}

    @classmethod
    def of(cls, settings: Settings) -> Prices:
        """Prices with those of the user's own, if there are any."""
        if settings.prices_file is not None:
            return cls(settings.prices_file)
        return cls.beside(Layout.of(settings.storage_dir).root)

    @classmethod
    def beside(cls, root: Path) -> Prices:
        """Prices with the file that lies in the directory of a store, if there is one."""
        path = root / BESIDE
        return cls(path if path.is_file() else None)

    def rates(self, provider: str, model: str, when: int) -> Rates | None:
        """The rates of a model for a call that began at `when` (nanoseconds since the epoch); None if not known."""
        return self._plan(provider, model).rates(when)

    def cost(
        self, provider: str, model: str, when: int, input: int, output: int, cache_read: int = 0, cache_write: int = 0
    ) -> float | None:
        """US dollars for one call. Tokens read from and written to a cache are part of `input`.

        A call that used no tokens costs nothing, whatever its model; counts that contradict each other are not priced.
        """
        if not input and not output:
            return 0.0
        plain = input - cache_read - cache_write
        rates = self.rates(provider, model, when)
        if rates is None or min(plain, output, cache_read, cache_write) < 0:
            return None
        rate = next(rate for rate in reversed(rates) if input > rate.above)
        return (
            plain * rate.input
            + cache_read * rate.cache_read
            + cache_write * rate.cache_write
            + output * rate.output
            + rate.per_call
        )

    def sql_rows(self, keys: Iterable[tuple[str, str, date]]) -> list[dict[str, Any]]:
        """Rows for a table of prices, from providers, models and days (UTC) of calls; `MATCH_SQL` joins it.

        One row a tier, and a part of the day (`since`, `until`: nanoseconds since the epoch) if prices change in its
        course. What is not known has no row.
        """
        return [
            {"provider": provider, "model": model, "date": day, "since": since, "until": until, **tier}
            for provider, model, day in keys
            for since, until, tiers in self._plan(provider, model).over((day - _EPOCH.date()).days)
            for tier in tiers
        ]

    def _plan(self, provider: str, model: str) -> _Plan:
        plan = self._plans.get((provider, model))
        if plan is None:
            own = self._find(provider, model)
            plan = _listed(provider, model) if own is None else _Plan(lambda _: own)
            self._plans[provider, model] = plan
        return plan

    def _find(self, provider: str, model: str) -> Rates | None:
        names = (f"{provider}/{model}".lower(), model.lower())
        exact = next((self._own[name] for name in names if name in self._own), None)
        patterns = (rates for pattern, rates in self._own.items() if any(fnmatchcase(name, pattern) for name in names))
        return exact or next(patterns, None)


# -- prices over time ------------------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400_000_000_000


class _Plan:
    """The prices of one model. They may change on some days, and at some times of every day (DeepSeek's do)."""

    def __init__(self, at: Callable[[int], Rates | None], days: Iterable[int] = (), times: Iterable[int] = ()) -> None:
        self._at = at
        self._days = sorted(days)
        self._times = sorted({0, *times})
        self._known: dict[tuple[int, int], tuple[Rates | None, list[dict[str, Any]]]] = {}

    def rates(self, when: int) -> Rates | None:
        return self._during(when)[0]

    def over(self, day: int) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
        """Beginning, end and tiers (as columns) of the parts of a day, counted from the epoch."""
        for since, until in pairwise([*self._times, _DAY]):
            yield day * _DAY + since, day * _DAY + until, self._during(day * _DAY + since)[1]

    def _during(self, when: int) -> tuple[Rates | None, list[dict[str, Any]]]:
        day, at = divmod(when, _DAY)
        part = bisect_right(self._days, day), bisect_right(self._times, at)
        known = self._known.get(part)
        if known is None:
            rates = self._at(when)
            known = self._known[part] = rates, [dataclasses.asdict(rate) for rate in rates or ()]
        return known


# -- list prices -----------------------------------------------------------------------------------------------------

# Where genai-prices does not know a provider by its conventional name.
_PROVIDERS = {
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "gcp.gen_ai": "google",
    "x_ai": "x-ai",
}


_importing = threading.Lock()
"""Held while the library is imported, which takes a moment: prices are looked up on threads, too. A fork waits for it,
for the child would find the library half imported, for good."""


_forking = threading.local()


def _before_fork() -> None:
    _forking.holds = _importing.acquire(timeout=10)


def _after_in_parent() -> None:
    if _forking.holds:
        _importing.release()


def _after_in_child() -> None:
    global _importing
    _importing = threading.Lock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def _listed(provider: str, model: str) -> _Plan:
    with _importing:
        import genai_prices
        from genai_prices.types import ModelPrice, StartDateConstraint, TimeOfDateConstraint

    try:
        found = genai_prices.calc_price(
            genai_prices.Usage(), model_ref=model, provider_id=_PROVIDERS.get(provider, provider)
        ).model
    except (LookupError, ValueError):
        return _Plan(lambda _: None)
    constraints = (
        [] if isinstance(found.prices, ModelPrice) else [conditional.constraint for conditional in found.prices]
    )
    days = {
        (constraint.start_date - _EPOCH.date()).days
        for constraint in constraints
        if isinstance(constraint, StartDateConstraint)
    }
    times = {
        _of_day(edge)
        for constraint in constraints
        if isinstance(constraint, TimeOfDateConstraint)
        for edge in (constraint.start_time, constraint.end_time)
    }
    return _Plan(lambda when: _listed_rates(found, when), days, times)


def _of_day(edge: time) -> int:
    """A time of day as nanoseconds since midnight, UTC; without a zone it is UTC's."""
    moment = datetime.combine(_EPOCH, edge, edge.tzinfo or UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000 % _DAY


def _listed_rates(model: ModelInfo, when: int) -> Rates | None:
    from genai_prices.types import TieredPrices, calc_unit_price

    price: ModelPrice = model.get_prices(_EPOCH + timedelta(microseconds=when // 1000))
    listed = {name: value for name, value in vars(price).items() if value is not None}
    if listed and "input_mtok" not in listed and "output_mtok" not in listed:
        return None  # by the hour, the page or the character: not to be had from tokens

    def per_token(name: str, above: int) -> float:
        return float(calc_unit_price(listed.get(name), 1, above + 1, 1_000_000))

    # Each price has tiers of its own. A call is in one tier as a whole.
    starts = {tier.start for value in listed.values() if isinstance(value, TieredPrices) for tier in value.tiers}
    return tuple(
        Rate(
            above=above,
            up_to=up_to,
            input=per_token("input_mtok", above),
            output=per_token("output_mtok", above),
            cache_read=per_token("cache_read_mtok" if "cache_read_mtok" in listed else "input_mtok", above),
            cache_write=per_token("cache_write_mtok" if "cache_write_mtok" in listed else "input_mtok", above),
            per_call=float(calc_unit_price(listed.get("requests_kcount"), 1, above + 1, 1000)),
        )
        for above, up_to in _tiers(starts)
    )


def _tiers(starts: Iterable[int]) -> Iterator[tuple[int, int | None]]:
    edges = [-1, *sorted(starts)]
    return zip(edges, [*edges[1:], None], strict=True)


# -- own prices ------------------------------------------------------------------------------------------------------

_KEYS = ("input", "output", "cache_read", "cache_write", "per_call")


def _read(path: Path) -> dict[str, Rates]:
    """Rates by the name or pattern of a model, in lower case."""
    import tomllib

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the prices file {path} cannot be read: {error}") from error
    models = document.pop("models", {})
    if document:
        raise ConfigError(f'{path}: {next(iter(document))!r} is not known; prices stand in tables [models."name"]')
    if not isinstance(models, Mapping):
        raise ConfigError(f'{path}: models takes a table for each model, like [models."name"], not {models!r}')
    return {name.lower(): _own_rates(table, f"{path}: model {name!r}") for name, table in models.items()}


def _own_rates(table: object, where: str) -> Rates:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} takes a table with input and output, not {table!r}")
    _check(table, where, (*_KEYS, "tiers"), ("input", "output"))
    tiers = table.get("tiers", [])
    if not isinstance(tiers, Sequence) or not all(isinstance(tier, Mapping) for tier in tiers):
        raise ConfigError(f"{where}, tiers takes tables, each with above and the prices that change, not {tiers!r}")
    steps: dict[int, Mapping[str, Any]] = {-1: table}
    for tier in tiers:
        _check(tier, f"{where}, tiers", (*_KEYS, "above"), ("above",))
        if tier["above"] in steps:
            raise ConfigError(f"{where}, tiers: above = {tier['above']} is there twice")
        steps[tier["above"]] = {**table, **tier}
    return tuple(
        Rate(
            above=above,
            up_to=up_to,
            input=steps[above]["input"] / 1e6,
            output=steps[above]["output"] / 1e6,
            cache_read=steps[above].get("cache_read", steps[above]["input"]) / 1e6,
            cache_write=steps[above].get("cache_write", steps[above]["input"]) / 1e6,
            per_call=float(steps[above].get("per_call", 0)),
        )
        for above, up_to in _tiers(steps.keys() - {-1})
    )


def _check(table: Mapping[str, Any], where: str, known: Sequence[str], needed: Sequence[str]) -> None:
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"{where}: {name!r} is not known; it takes {', '.join(known)}")
        if name == "above":
            if type(value) is not int or value < 0:
                raise ConfigError(f"{where}, above takes a whole number of input tokens from 0 up, not {value!r}")
        elif name != "tiers" and (type(value) not in (int, float) or not 0 <= value < math.inf):
            unit = "a call" if name == "per_call" else "per million tokens"
            raise ConfigError(f"{where}, {name} takes US dollars {unit}, from 0 up, not {value!r}")
    for name in needed:
        if name not in table:
            raise ConfigError(f"{where} needs {name}")

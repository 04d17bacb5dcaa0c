"""Prices: the same as genai-prices' for every model it lists, one's own before those, and SQL that says the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import genai_prices
import openai
import pyarrow as pa
import pytest
from genai_prices.data import providers
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from genai_prices.types import Provider as Listed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import escapement
from escapement.cli import main
from escapement.engine.usage import Ledger, cost_of
from escapement.store import prices, schema
from escapement.store.prices import COST_SQL, MATCH_SQL, MODEL_SQL, Prices, Rate
from escapement.words import semconv
from tests.conftest import ask

MODELS = [(provider.id, model) for provider in providers for model in provider.models]
NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
OWN = """
[models."flat"]
input = 1.0
output = 4

[models."OpenAI/Tiered"]
input = 1.0
output = 4.0
cache_read = 0.1
cache_write = 1.25
per_call = 0.5
[[models."OpenAI/Tiered".tiers]]
above = 1000
input = 10
[[models."OpenAI/Tiered".tiers]]
above = 200
input = 2.0
output = 8.0

[models."gpt-*"]
input = 3
output = 3

[models."gpt-4o*"]
input = 7
output = 7
"""


def nanoseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    return path


# -- list prices -----------------------------------------------------------------------------------------------------


def listed_price(provider: str, model: str, moment: datetime, counts: tuple[int, int, int, int]) -> float | None:
    """What genai-prices says; None where it has no price for tokens."""
    usage = genai_prices.Usage(
        input_tokens=counts[0], output_tokens=counts[1], cache_read_tokens=counts[2], cache_write_tokens=counts[3]
    )
    try:
        found = genai_prices.calc_price(usage, model, provider_id=provider, genai_request_timestamp=moment)
    except LookupError:
        return None
    prices = {name for name, value in vars(found.model_price).items() if value is not None}
    return None if prices and not prices & {"input_mtok", "output_mtok"} else float(found.total_price)


def agrees(prices: Prices, provider: str, model: str, moment: datetime, counts: tuple[int, int, int, int]) -> None:
    expected = listed_price(provider, model, moment, counts)
    got = prices.cost(provider, model, nanoseconds(moment), *counts)
    where = (provider, model, moment, counts)
    if counts[:2] == (0, 0):
        assert got == 0, where
    elif expected is None:
        assert got is None, where
    else:
        assert got == pytest.approx(expected, rel=1e-12, abs=0), where


def edges(model: ModelInfo) -> Iterator[tuple[datetime, int]]:
    """Moments and numbers of input tokens at which the prices of a model change, and those just before."""
    conditional = [] if isinstance(model.prices, ModelPrice) else model.prices
    moments = {NOW}
    for constraint in (one.constraint for one in conditional):
        if isinstance(constraint, StartDateConstraint):
            start = datetime.combine(constraint.start_date, time(), UTC)
            moments |= {start, start - timedelta(microseconds=1)}
        elif isinstance(constraint, TimeOfDateConstraint):
            for edge in (constraint.start_time, constraint.end_time):
                at = datetime.combine(NOW.date(), edge, UTC)
                moments |= {at, at - timedelta(microseconds=1)}
    tiered = [
        value
        for price in ([model.prices] if isinstance(model.prices, ModelPrice) else [one.prices for one in conditional])
        for value in vars(price).values()
        if isinstance(value, TieredPrices)
    ]
    sizes = {1000} | {tier.start + more for value in tiered for tier in value.tiers for more in (0, 1)}
    for moment in moments:
        for size in sizes:
            yield moment, size


def test_every_listed_model_costs_what_genai_prices_says_where_its_prices_change() -> None:
    prices = Prices()
    known = 0
    for provider, model in MODELS:
        for moment, size in edges(model):
            agrees(prices, provider, model.id, moment, (size, 77, size // 3, size // 5))
        known += prices.rates(provider, model.id, nanoseconds(NOW)) is not None
    assert known > len(MODELS) * 0.9


ALL = Prices()


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    listed=st.sampled_from(MODELS),
    moment=st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),
    parts=st.tuples(*[st.integers(0, 400_000) | st.just(0)] * 4),
)
def test_any_call_costs_what_genai_prices_says(
    listed: tuple[str, ModelInfo], moment: datetime, parts: tuple[int, int, int, int]
) -> None:
    plain, output, read, written = parts
    agrees(ALL, listed[0], listed[1].id, moment, (plain + read + written, output, read, written))


@pytest.mark.parametrize(
    ("ours", "model", "theirs"),
    [
        ("openai", "gpt-4o", "openai"),
        ("anthropic", "claude-sonnet-4-5", "anthropic"),
        ("azure.ai.openai", "gpt-4o", "azure"),
        ("azure.ai.inference", "gpt-4o", "azure"),
        ("aws.bedrock", "anthropic.claude-3-5-sonnet-20241022-v2:0", "aws"),
        ("mistral_ai", "mistral-large-latest", "mistral"),
        ("x_ai", "grok-3", "x-ai"),
        ("deepseek", "deepseek-chat", "deepseek"),
        ("perplexity", "sonar", "perplexity"),
        ("openrouter", "openai/gpt-4o", "openrouter"),
        ("gcp.gemini", "gemini-2.5-pro", "google"),
        ("gcp.vertex_ai", "gemini-2.5-pro", "google"),
        ("gcp.gen_ai", "gemini-2.5-pro", "google"),
    ],
)
def test_providers_are_found_by_their_conventional_names(ours: str, model: str, theirs: str) -> None:
    cost = ALL.cost(ours, model, nanoseconds(NOW), 1000, 100)
    assert cost
    assert cost == pytest.approx(listed_price(theirs, model, NOW, (1000, 100, 0, 0)), rel=1e-12)


def test_unknown_is_unknown() -> None:
    when = nanoseconds(NOW)
    for provider, model in (("openai", "a-model-nobody-knows"), ("openai", ""), ("", "gpt-4o"), ("nobody", "gpt-4o")):
        assert ALL.rates(provider, model, when) is None
        assert ALL.cost(provider, model, when, 10, 10) is None
        assert ALL.cost(provider, model, when, 0, 0) == 0, "a call that used no tokens"
    assert ALL.rates("openai", "whisper-1", when) is None, "billed by the hour of audio"
    assert ALL.cost("openai", "gpt-4o", when, 10, 10, 8, 3) is None, "more cached than there was"
    assert ALL.cost("openai", "gpt-4o", when, -10, 10) is None


@pytest.fixture
def invented() -> Iterator[None]:
    """A list with one model, whose prices have tiers and change on a day and by the hour."""
    with_tiers = ModelPrice(
        input_mtok=TieredPrices(base=Decimal(1), tiers=[Tier(start=100, price=Decimal(2))]),
        output_mtok=TieredPrices(base=Decimal(5), tiers=[Tier(start=300, price=Decimal(6))]),
        cache_read_mtok=Decimal("0.5"),
        requests_kcount=Decimal(7),
    )
    model = ModelInfo(
        id="m",
        match=ClauseEquals(equals="m"),
        prices=[
            ConditionalPrice(prices=with_tiers),
            ConditionalPrice(
                constraint=StartDateConstraint(start_date=date(2026, 5, 1)),
                prices=ModelPrice(input_mtok=Decimal(10), output_mtok=Decimal(10)),
            ),
            ConditionalPrice(
                constraint=TimeOfDateConstraint(start_time=time(1, 30, tzinfo=UTC), end_time=time(4, tzinfo=UTC)),
                prices=ModelPrice(input_mtok=Decimal(20), output_mtok=Decimal(20)),
            ),
        ],
    )
    provider = Listed(id="p", name="P", api_pattern="p", models=[model])
    set_custom_snapshot(DataSnapshot(providers=[provider], from_auto_update=False))
    yield
    set_custom_snapshot(None)


@pytest.mark.usefixtures("invented")
def test_the_rates_of_a_model() -> None:
    prices = Prices()
    before = datetime(2026, 4, 30, tzinfo=UTC)
    assert prices.rates("p", "m", nanoseconds(before)) == (
        Rate(-1, 100, 1e-6, 5e-6, 0.5e-6, 1e-6, 0.007),
        Rate(100, 300, 2e-6, 5e-6, 0.5e-6, 2e-6, 0.007),
        Rate(300, None, 2e-6, 6e-6, 0.5e-6, 2e-6, 0.007),
    )
    night = (Rate(-1, None, 20e-6, 20e-6, 20e-6, 20e-6),)
    later = (Rate(-1, None, 10e-6, 10e-6, 10e-6, 10e-6),)
    for hours, rates in ((24, later), (25.5, night), (27.99, night), (28, later), (47, later)):
        assert prices.rates("p", "m", nanoseconds(before + timedelta(hours=hours))) == rates, hours
    rows = prices.sql_rows([("p", "m", before.date()), ("p", "unknown", before.date())])
    assert [((row["since"] - nanoseconds(before)) / 3.6e12, row["above"], row["input"]) for row in rows] == [
        (0.0, -1, 1e-6), (0.0, 100, 2e-6), (0.0, 300, 2e-6),
        (1.5, -1, 20e-6),
        (4.0, -1, 1e-6), (4.0, 100, 2e-6), (4.0, 300, 2e-6),
    ]  # fmt: skip
    assert rows[-1] == {
        "provider": "p",
        "model": "m",
        "date": before.date(),
        "since": nanoseconds(before + timedelta(hours=4)),
        "until": nanoseconds(before + timedelta(hours=24)),
        "above": 300,
        "up_to": None,
        "input": 2e-6,
        "output": 6e-6,
        "cache_read": 0.5e-6,
        "cache_write": 2e-6,
        "per_call": 0.007,
    }


def test_a_model_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = genai_prices.calc_price

    def counted(usage: Any, model_ref: str, **more: Any) -> Any:
        asked.append(model_ref)
        return real(usage, model_ref, **more)

    monkeypatch.setattr(genai_prices, "calc_price", counted)
    prices = Prices()
    days = [date(2026, 1, 1) + timedelta(days=day) for day in range(300)]
    rows = prices.sql_rows([("openai", model, day) for day in days for model in ("gpt-4o", "nobody-knows")])
    assert (asked, len(rows)) == (["gpt-4o", "nobody-knows"], 300)


# -- own prices ------------------------------------------------------------------------------------------------------


def test_a_fork_waits_for_an_import_that_is_under_way() -> None:
    """A child with half a library could price nothing any more, and would lose what it exports."""
    begun, done = threading.Event(), []

    def importing() -> None:
        with prices._importing:
            begun.set()
            threading.Event().wait(0.3)
            done.append(True)

    thread = threading.Thread(target=importing)
    thread.start()
    begun.wait()
    child = os.fork()
    if not child:
        os._exit(0 if done and prices._importing.acquire(blocking=False) else 1)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
    assert prices._importing.acquire(blocking=False)
    prices._importing.release()


def test_own_prices(own: Path) -> None:
    prices = Prices(own)
    when = nanoseconds(NOW)
    assert prices.rates("anything", "FLAT", when) == (Rate(-1, None, 1e-6, 4e-6, 1e-6, 1e-6),)
    assert prices.rates("openai", "tiered", when) == (
        Rate(-1, 200, 1e-6, 4e-6, 0.1 / 1e6, 1.25e-6, 0.5),
        Rate(200, 1000, 2e-6, 8e-6, 0.1 / 1e6, 1.25e-6, 0.5),
        Rate(1000, None, 10e-6, 4e-6, 0.1 / 1e6, 1.25e-6, 0.5),
    )
    assert prices.rates("azure", "tiered", when) is None
    assert prices.cost("openai", "gpt-4o-2024-08-06", when, 1_000_000, 0) == pytest.approx(3), "the first pattern"
    assert prices.cost("openai", "o3", when, 100, 10) == Prices().cost("openai", "o3", when, 100, 10) != 0


def test_an_exact_name_goes_before_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    lines = ('"*"', 1), ('"m"', 2), ('"p/m"', 3), ('"q/*"', 4), ('"meta/llama"', 5)
    path.write_text("\n".join(f"[models.{name}]\ninput = {price}\noutput = 0" for name, price in lines))
    found = {
        (provider, model): Prices(path).cost(provider, model, 0, 1_000_000, 0)
        for provider, model in (("p", "x"), ("x", "m"), ("p", "m"), ("q", "x"), ("openrouter", "meta/llama"))
    }
    assert found == {("p", "x"): 1, ("x", "m"): 2, ("p", "m"): 3, ("q", "x"): 1, ("openrouter", "meta/llama"): 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models", "cannot be read: "),
        ("\udcff", "cannot be read: "),
        ("[prices]", "'prices' is not known; prices stand in tables"),
        ("models = 3", "models takes a table for each model"),
        ("[models]\nm = 3", "model 'm' takes a table with input and output, not 3"),
        ("[models.m]\ninput = 1", "model 'm' needs output"),
        ("[models.m]\noutput = 1", "model 'm' needs input"),
        ("[models.m]\ninput = 1\noutput = 1\ninputs = 3", "model 'm': 'inputs' is not known; it takes input, output, "),
        (
            "[models.m]\ninput = 1\noutput = '3'",
            "model 'm', output takes US dollars per million tokens, from 0 up, not '3'",
        ),
        (
            "[models.m]\ninput = -1\noutput = 3",
            "model 'm', input takes US dollars per million tokens, from 0 up, not -1",
        ),
        ("[models.m]\ninput = nan\noutput = 3", "model 'm', input takes US dollars"),
        ("[models.m]\ninput = inf\noutput = 3", "model 'm', input takes US dollars"),
        ("[models.m]\ninput = true\noutput = 3", "model 'm', input takes US dollars"),
        ("[models.m]\ninput = 1\noutput = 3\nper_call = []", "model 'm', per_call takes US dollars a call"),
        ("[models.m]\ninput = 1\noutput = 3\ntiers = 3", "model 'm', tiers takes tables"),
        ("[models.m]\ninput = 1\noutput = 3\ntiers = [3]", "model 'm', tiers takes tables"),
        ("[models.m]\ninput = 1\noutput = 3\n[[models.m.tiers]]\ninput = 3", "model 'm', tiers needs above"),
        ("[models.m]\ninput = 1\noutput = 3\ntiers = [{above = 1.5}]", "model 'm', tiers, above takes a whole number"),
        (
            "[models.m]\ninput = 1\noutput = 3\ntiers = [{above = 1, tiers = 1}]",
            "model 'm', tiers: 'tiers' is not known",
        ),
        ("[models.m]\ninput = 1\noutput = 3\ntiers = [{above = 1}, {above = 1}]", "tiers: above = 1 is there twice"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(escapement.ConfigError) as error:
        escapement.init(prices_file=path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert escapement.current() is None


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(escapement.ConfigError, match=r"prices file .*gone\.toml cannot be read"):
        escapement.init(prices_file=tmp_path / "gone.toml")


# -- SQL -------------------------------------------------------------------------------------------------------------


def test_sql_says_what_python_says(own: Path) -> None:
    chance = random.Random(7)
    models = [("openai", "flat"), ("openai", "tiered"), ("openai", "gpt-4o"), ("openai", "unknown"), ("", "")]
    # Tiers, changing days and changing hours, as they are listed today.
    models += [("deepseek", "deepseek-chat"), ("deepseek", "deepseek-v4-pro"), ("perplexity", "sonar")]
    models += [("google", "gemini-2.5-pro"), *((provider, model.id) for provider, model in chance.sample(MODELS, 200))]
    prices = Prices(own)
    calls: list[dict[str, Any]] = []
    expected: list[float | None] = []
    for number in range(3000):
        provider, model = chance.choice(models[:9] if number % 2 else models)
        moment = NOW - timedelta(seconds=chance.uniform(0, 400 * 86400))
        plain, output, read, written = (
            chance.choice((0, 100, 101, 200, 201, 1000, 200_000, chance.randrange(10**6))) for _ in range(4)
        )
        counts = [plain + read + written, output, read, written]
        if chance.random() < 0.1:
            counts[0] = plain  # less than was cached
        reported = [None if chance.random() < 0.2 else count for count in counts]
        calls.append(
            {
                "number": number,
                "provider": provider or None,
                "response_model": model if (answered := chance.random() < 0.7) else chance.choice((None, "")),
                "model": "something else" if answered else model or None,
                "date": moment.date(),
                "start_unix_nano": nanoseconds(moment),
                "input_tokens": reported[0],
                "output_tokens": reported[1],
                "cache_read_tokens": reported[2],
                "cache_write_tokens": reported[3],
            }
        )
        expected.append(prices.cost(provider, model, nanoseconds(moment), *[count or 0 for count in reported]))
    connection = duckdb.connect()
    connection.register("calls", pa.Table.from_pylist(calls, pa.schema([(name, kind(name)) for name in calls[0]])))
    keys = connection.execute(f"SELECT DISTINCT coalesce(s.provider, ''), {MODEL_SQL}, s.date FROM calls s").fetchall()
    connection.register("prices", pa.Table.from_pylist(prices.sql_rows(keys), schema.prices()))
    got = connection.execute(
        f"SELECT s.number, {COST_SQL} FROM calls s LEFT JOIN prices p ON {MATCH_SQL} ORDER BY s.number"
    ).fetchall()
    assert [number for number, _ in got] == list(range(3000)), "each call has one price or none"
    assert sum(cost is None for cost in expected) > 300
    assert sum(bool(cost) for cost in expected) > 1000
    for call, (_, cost), price in zip(calls, got, expected, strict=True):
        assert cost == (None if price is None else pytest.approx(price, rel=1e-12, abs=0)), call


def kind(column: str) -> pa.DataType:
    if column == "date":
        return pa.date32()
    return pa.string() if column in ("provider", "model", "response_model") else pa.int64()


# -- ledgers, runs, commands -----------------------------------------------------------------------------------------


def call(model: str = "tiered", input: Any = 0, output: Any = 0, **more: Any) -> dict[str, Any]:
    return {
        semconv.PROVIDER_NAME: "openai",
        semconv.RESPONSE_MODEL: model,
        semconv.USAGE_INPUT_TOKENS: input,
        semconv.USAGE_OUTPUT_TOKENS: output,
        **{f"gen_ai.usage.{name}.input_tokens": count for name, count in more.items()},
    }


def test_a_ledger_prices_calls_one_by_one(own: Path) -> None:
    prices = Prices(own)
    when = nanoseconds(NOW)
    ledger = Ledger(prices)
    assert (ledger.cost(), ledger.input, ledger.output) == (0.0, 0, 0)
    for _ in range(10):  # 1500 tokens in all, but each call is in the lowest tier
        one = call(input=150, output=10, cache_read=50, cache_creation=0)
        ledger.add(one, one, when)
    assert (ledger.input, ledger.output) == (1500, 100)
    price = 100e-6 + 50 * 0.1e-6 + 10 * 4e-6 + 0.5
    assert ledger.cost() == pytest.approx(10 * price)
    big = call(input=1500)
    ledger.add(big, big, when)
    assert ledger.cost() == pytest.approx(10 * price + 1500 * 10e-6 + 0.5), "added to what was priced before"
    assert cost_of(big, when, prices) == pytest.approx(1500 * 10e-6 + 0.5)
    for nothing in (call("unknown"), call("unknown", "12", None), call("unknown", -3, 2**70), call(["x"], True, 1.5)):
        ledger.add(nothing, nothing, when)
    assert ledger.cost() == pytest.approx(10 * price + 1500 * 10e-6 + 0.5), "no tokens cost nothing"
    ledger.add(call("unknown", 1), call("unknown", 1), when)
    assert ledger.cost() is None


@pytest.mark.usefixtures("invented")
def test_a_call_is_priced_as_of_its_time() -> None:
    ledger = Ledger(Prices())
    asked = {semconv.PROVIDER_NAME: "p", semconv.REQUEST_MODEL: "m"}
    for moment in (datetime(2026, 6, 1, 2, tzinfo=UTC), datetime(2026, 6, 1, 5, tzinfo=UTC)):
        ledger.add(asked, {semconv.USAGE_INPUT_TOKENS: 1_000_000}, nanoseconds(moment))
    assert ledger.cost() == pytest.approx(30)


def test_nothing_is_priced_while_calls_are_counted() -> None:
    program = (
        "import sys\n"
        "from escapement.engine.usage import Ledger\n"
        "from escapement.store.prices import Prices\n"
        "ledger = Ledger(Prices())\n"
        f"for _ in range(5000): ledger.add({call('gpt-4o', 5, 5)!r}, {call('gpt-4o', 5, 5)!r}, 0)\n"
        "print([name for name in ('genai_prices', 'pyarrow', 'duckdb', 'tomllib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("place", ["argument", "variable", "beside"])
def test_runs_and_commands_use_own_prices(
    client: openai.OpenAI,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    place: str,
) -> None:
    path = store / "prices.toml" if place == "beside" else tmp_path / "own.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text('[models."*"]\ninput = 0\noutput = 0\nper_call = 12.5\n')
    if place == "variable":
        monkeypatch.setenv("ESCAPEMENT_PRICES_FILE", str(path))
    with escapement.init(prices_file=path if place == "argument" else None) as trace:
        ask(client, "one", model="a-model-nobody-knows")
        ask(client, "two", model="gpt-4o")
        assert trace.cost == 25
        ask(client, "three")
    assert trace.cost == 37.5
    assert "$37.5000" in trace.summary()
    monkeypatch.setattr(sys, "argv", ["escapement", "show"])
    with warnings.catch_warnings(), pytest.raises(SystemExit):
        main()
    shown = capfd.readouterr().out
    if place == "argument":
        assert "cost unknown" in shown, "nobody told the command"
    else:
        assert "$37.50" in shown
        assert shown.count("$12.50") == 3


def test_a_command_refuses_a_wrong_file(
    client: openai.OpenAI, store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with escapement.init():
        ask(client)
    (store / "prices.toml").write_text("[models.m]\ninput = 1\n")
    monkeypatch.setattr(sys, "argv", ["escapement", "show"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "model 'm' needs output" in capfd.readouterr().err.replace("\n", " ")

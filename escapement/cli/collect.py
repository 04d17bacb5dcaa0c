"""`escapement collect`: an OTLP receiver that writes the span store."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from escapement.cli import output
from escapement.store import sealing
from escapement.words.config import Settings, resolve
from escapement.words.errors import ConfigError

if TYPE_CHECKING:
    from escapement_exporters.collect.intake import Intake
    from escapement_exporters.collect.receiver import Address


def collect(
    host: Annotated[str, typer.Option(help="Where to listen. Elsewhere than on loopback a token is needed.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of OTLP over HTTP; 0 is one that is free.")] = 4318,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="Of OTLP over gRPC; 0 is one that is free.")] = 4317,
    token: Annotated[
        str,
        typer.Option(
            envvar="ESCAPEMENT_COLLECT_TOKEN",
            help="What senders have to say (Authorization: Bearer TOKEN).",
            show_default="none on loopback, else a new one",
        ),
    ] = "",
) -> None:
    """Receive spans (OTLP over HTTP and gRPC) into the span store, from programs in any language, until interrupted."""
    try:
        from escapement_exporters.collect.intake import Intake
        from escapement_exporters.collect.receiver import Address
    except ImportError as error:
        raise ConfigError(
            f"collecting takes packages that are not installed ({error.name}): pip install 'escapement[collect]'"
        ) from None
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError("a token has to be ASCII, without spaces: it goes into a header")
    if not token and not _is_loopback(host):
        token = secrets.token_urlsafe(24)
        print(f"Token: {token}", flush=True)
    settings = resolve()
    intake = Intake(settings.storage_dir, fsync=settings.durability == "fsync")
    try:
        asyncio.run(_serve(intake, Address(host, port, grpc_port), token, settings))
    except OSError as error:
        raise ConfigError(
            f"{host} cannot be listened on at ports {port} and {grpc_port}: {error.strerror or error}. "
            "--port and --grpc-port take others"
        ) from None
    except RuntimeError as error:  # gRPC's, for a port that is taken
        raise ConfigError(f"port {grpc_port} of {host} cannot be listened on: {error}") from None
    finally:
        intake.keep_all()
        intake.close()
        _seal(settings)
    for trace, reason in intake.failed.items():
        typer.echo(f"escapement: spans of {trace} stay in the intake: {reason}", err=True)
    traces, spans = output.amount(intake.traces, "trace"), output.amount(intake.accepted, "span")
    typer.echo(f"Collected {spans} of {traces}", err=True)


async def _serve(intake: Intake, address: Address, token: str, settings: Settings) -> None:
    from escapement_exporters.collect.receiver import Receiver

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Receiver(intake, address, token) as receiver:
        host = f"[{address.host}]" if ":" in address.host else address.host
        print(f"OTLP/HTTP  http://{host}:{receiver.port}", flush=True)
        print(f"OTLP/gRPC  {host}:{receiver.grpc_port}", flush=True)
        print(f"into {settings.storage_dir}; Ctrl-C ends it", file=sys.stderr, flush=True)
        await receiver.keep(stop, _seldom(lambda: _seal(settings)))


def _seldom(act: Callable[[], None], every: float = 10.0) -> Callable[[], None]:
    """The same, but not more often than every so many seconds."""
    last = time.monotonic()

    def act_seldom() -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            act()

    return act_seldom


def _seal(settings: Settings) -> None:
    if settings.sealing == "background":
        sealing.start(settings.storage_dir)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

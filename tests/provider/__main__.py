"""The provider in a process of its own; `GET /_count` tells how many requests it got."""

from __future__ import annotations

import argparse
import threading
from contextlib import suppress

from . import Provider


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.provider", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--chunk-delay", type=float, default=0.0, help="seconds between chunks of a stream")
    parser.add_argument("--fixed", action="store_true", help="constant small answers, for benchmarks")
    options = parser.parse_args()
    with (
        suppress(KeyboardInterrupt),
        Provider(
            port=options.port,
            latency=options.latency,
            chunk_delay=options.chunk_delay,
            fixed=options.fixed,
        ) as provider,
    ):
        print(provider.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()

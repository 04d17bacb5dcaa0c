"""OpenTelemetry's protocol: what goes out to collectors, and what comes in from others.

`spans` and `content` say what a trace is as telemetry. `otlp` is the protocol: documents, requests, where to. `export`
sends while an agent runs, `metrics` counts. `foreign` makes traces of what others recorded, `collect` receives it.
"""

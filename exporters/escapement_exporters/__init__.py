"""OTLP: what goes out to collectors, and what comes in from others."""

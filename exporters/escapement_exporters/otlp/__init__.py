"""OTLP itself: spans as documents and as requests, the endpoint that is set, the connection to it."""

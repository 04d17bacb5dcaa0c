"""Where spans go besides the span store. Empty in this version: exporters come with OTLP."""

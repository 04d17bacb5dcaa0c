"""The engine: from a call to a span (recording), from a span to an answer (replay), and what watches over both."""

"""Clients that do not stand on httpx: recorded against a server whose every answer is random, replayed without it."""

"""A replay gives back what the recording got: every kind of call, to the last header, chunk and exception."""

"""What others record, and what a replay makes of it."""

"""What others recorded: their spans decoded, and made into traces that replay."""

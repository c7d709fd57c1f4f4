"""From tables to texts."""

"""From tables to pictures."""

"""Soft labels: `format` reads and writes the store, `produce` fills it."""

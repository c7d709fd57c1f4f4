"""Losses on predictions of the next token."""

"""Predictions of the next token, and their scores."""

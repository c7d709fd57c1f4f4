"""Scores on test data, and their tables."""

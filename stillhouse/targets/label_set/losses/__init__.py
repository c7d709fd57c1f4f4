"""Losses on predictions of sets of labels."""

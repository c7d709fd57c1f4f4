"""Losses on predictions of one of several classes."""

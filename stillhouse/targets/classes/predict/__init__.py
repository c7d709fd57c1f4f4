"""Predictions of one of several classes, and their scores."""

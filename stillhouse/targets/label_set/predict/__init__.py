"""Predictions of sets of labels: thresholds, and scores."""

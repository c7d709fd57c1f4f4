"""Stages as flow runs of their own, on a worker or on several at once."""

"""Optimisers, schedules of the learning rate, averages of weights, guards against NaN."""

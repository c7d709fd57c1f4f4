"""Trainings in float16 that several test files share."""

from tests.helpers.resuming import often

HIGH = 2.0**24
"""A scale at which gradients of the small classifier overflow, a few halvings above one at which they do not."""


def fp16(**changes):
    return often(precision="fp16", **changes)

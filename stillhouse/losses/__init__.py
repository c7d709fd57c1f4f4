"""Parts of losses that all targets share: dense distributions, schedules of weights, what a teacher gives."""

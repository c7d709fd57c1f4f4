"""What a run of the flow `distill` has to do with its Prefect server: cancellation, its night, its results, notifications."""

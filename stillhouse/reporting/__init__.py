"""The page of a run: what reports of all targets share."""

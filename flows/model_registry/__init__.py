"""Which package is the promoted one: versions as git tags, their outputs, and what is held against them. No Prefect."""

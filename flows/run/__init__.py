"""One run of the pipeline, from its request to its experiment, with or without a server. No Prefect."""

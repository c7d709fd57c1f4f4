"""Own data into `data/raw`, and their block into `params.yaml`: what `make data` does. No Prefect."""

"""One DVC stage in one workspace: run under a guard, and judged. No Prefect."""

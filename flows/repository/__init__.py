"""Git and DVC in a checkout and in the worktrees of its runs: commands, settings, the pipeline's graph, own data.
No Prefect."""

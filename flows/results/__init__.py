"""What runs have come to: out of git's objects and DVC's cache, as tables, pages and pictures. No Prefect."""

"""What runs leave on this disk, and what of it may be freed. No Prefect."""

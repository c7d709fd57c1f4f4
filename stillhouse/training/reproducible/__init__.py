"""Random numbers that depend on rows and steps, and never on how a batch was divided."""

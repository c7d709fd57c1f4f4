"""Whether a package may take the place of the promoted one, and trials of architectures. No stage depends on it."""

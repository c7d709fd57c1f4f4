"""How the gate measures such a package, and trials of architectures."""

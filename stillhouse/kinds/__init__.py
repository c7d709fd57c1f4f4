"""Which kinds of model there are, and which modules do the work of each. Everybody may import this room; it imports nobody."""

"""How large a picture may be."""

MOST_PIXELS = 178_000_000
"""More than that Pillow itself refuses to open."""

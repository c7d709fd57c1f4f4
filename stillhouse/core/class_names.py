"""The one form of a class's name: what data and models in folders are brought to before they are compared."""

import unicodedata


def tidy(label: str) -> str:
    """Unicode NFC, no white space around."""
    return unicodedata.normalize("NFC", label).strip()

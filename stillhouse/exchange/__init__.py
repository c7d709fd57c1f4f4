"""Soft labels between this pipeline and other tools: which rows need some, collecting them, writing a store out."""

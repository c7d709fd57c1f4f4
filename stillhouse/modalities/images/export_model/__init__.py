"""Packages of models that read pictures."""

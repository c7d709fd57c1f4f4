"""Packages of models that read texts."""

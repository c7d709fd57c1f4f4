"""Packages of models that read documents."""

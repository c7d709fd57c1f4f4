"""Trainings on true labels."""

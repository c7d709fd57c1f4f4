"""Trainings on the tokens themselves."""

"""Checkpoints: when one is written, what is in it, how a killed training resumes."""

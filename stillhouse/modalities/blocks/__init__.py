"""Blocks of packed documents."""

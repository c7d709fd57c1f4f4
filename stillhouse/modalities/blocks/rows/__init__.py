"""Blocks of packed documents as models read them."""

"""Pictures as models read them."""

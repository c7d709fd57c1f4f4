"""Building, loading and saving models, ours and those of transformers."""

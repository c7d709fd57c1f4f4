"""What rows of every kind share between `preprocess` and the models: tokenizers, blocks, batches, views of texts."""

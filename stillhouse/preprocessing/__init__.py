"""From canonical tables to leak-free splits: what the stage `preprocess` shares between modalities."""

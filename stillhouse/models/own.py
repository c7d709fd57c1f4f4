"""Importing this lets transformers know our own architectures."""

from stillhouse.models import cnn_encoder, gru_encoder, ngram_encoder, pooled_encoder, residual_cnn, static_encoder

__all__ = ["cnn_encoder", "gru_encoder", "ngram_encoder", "pooled_encoder", "residual_cnn", "static_encoder"]

"""From a teacher to a store: shards, samplers, the audit. The stage `export_soft_labels` alone depends on it."""

"""Distillation as a library: usable without `flows` and `tasks`. docs/design.md has the tree, and who may import whom."""

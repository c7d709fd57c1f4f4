"""What soft labels of this target belong to."""

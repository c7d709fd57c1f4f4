"""What evaluations of all targets share."""

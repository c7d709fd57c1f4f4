"""What the student minimises."""

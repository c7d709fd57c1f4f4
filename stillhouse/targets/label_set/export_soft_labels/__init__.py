"""What the teacher gives, into the store."""

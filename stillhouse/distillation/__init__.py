"""What the student minimises: the block `train_student`, and what a kind must bring for it."""

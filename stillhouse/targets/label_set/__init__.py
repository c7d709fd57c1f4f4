"""Any number of labels, perhaps none."""

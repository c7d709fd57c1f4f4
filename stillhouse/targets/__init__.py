"""What is predicted of a row: a folder for each target, with the same rooms, named after the stages that depend on them."""

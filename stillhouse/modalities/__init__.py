"""What a row is: a folder for each modality, with the same rooms, named after the stages that depend on them."""

"""The figures by which runs are compared, and how they are written, for each kind of model."""

"""Pictures as `preprocess` leaves them, for all stages behind it."""

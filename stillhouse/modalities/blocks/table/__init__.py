"""Blocks of packed documents as `preprocess` leaves them, for all stages behind it."""

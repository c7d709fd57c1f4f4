"""What any process with models needs: ranks, determinism, watchdog, precision, predictions."""

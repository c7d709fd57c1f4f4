"""Where raw tables come from: files of any format, hub data sets, embedded samples. Read by the stage `ingest` alone."""

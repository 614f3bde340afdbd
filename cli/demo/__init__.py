"""The demonstration behind `eventlog demo`."""

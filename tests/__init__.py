"""The test suite; it is not installed."""

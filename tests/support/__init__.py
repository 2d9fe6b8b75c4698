"""Support for tests: wheels built to measure and a loopback package index."""

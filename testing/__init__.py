"""Helpers that tests and benchmarks share: services as processes, servers, fakes, waiting."""

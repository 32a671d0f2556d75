"""Helpers shared by tests and benchmarks: services as processes, servers, fakes, waiting."""

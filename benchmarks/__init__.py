"""Benchmarks behind the README's figures. The service imports nothing from here."""

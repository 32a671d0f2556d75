"""The parts of `Client`: all but `io` is generated from `aio`."""

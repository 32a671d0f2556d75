"""The parts of `AsyncClient`; `blocking` is generated from them."""

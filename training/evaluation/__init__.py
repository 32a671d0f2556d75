"""Evaluation of the miniatures through the serving engines, and the model cards."""

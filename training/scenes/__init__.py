"""Scenes drawn by code, with exact masks and true captions: the training data of all miniatures."""

"""The engines against naive baselines, in one process and without Ray."""

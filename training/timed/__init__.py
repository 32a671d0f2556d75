"""Concurrent training of all miniature models within a time budget: processes that share scenes, and a supervisor.

`recipe` defines the hyperparameters for a machine, `supervisor` starts the parts and keeps the log, and each part is a
process: `drawing` fills the shared memory of `shared_scenes`; `autoencoder`, `denoiser`, `segmenter` and `classifier`
train from it. Parts never call each other: they exchange data through shared memory and the folder of the models, so
each of them tolerates the failure of another.
"""

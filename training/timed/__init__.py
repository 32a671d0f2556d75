"""Training all miniature models at once within so many minutes: processes that share scenes, and a supervisor.

`recipe` says what is done on which machine, `supervisor` starts the parts and keeps the log, and each part is a process
of its own: `drawing` fills the shared memory of `shared_scenes`; `autoencoder`, `denoiser`, `segmenter` and
`classifier` train from it. Parts never call each other: they read what others have left in shared memory and in the
folder of the models, so each of them survives the failure of another.
"""

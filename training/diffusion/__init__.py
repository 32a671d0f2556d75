"""Training of the miniature Stable Diffusion: autoencoder, text encoder, denoiser; its prompts and its images."""

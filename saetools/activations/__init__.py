"""Modules in the place of a code's ReLU, pre-activations (..., B, L) to latents (..., B, L)."""

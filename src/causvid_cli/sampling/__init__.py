"""Noise -> clean latents: the schedule, the causal roll-out, the ODE of the slow way, and the plan of a video."""

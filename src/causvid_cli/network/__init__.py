"""The causal transformer: diffusers' layers, a KV cache with a sink and a sliding window, and faster ways to run them."""

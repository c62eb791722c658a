"""The causal transformer: diffusers' layers, a KV cache (sink and sliding window), and faster ways to run them."""

"""causvid: video from a prompt, chunk by chunk, through a KV cache."""

__version__ = "0.1.0.dev0"

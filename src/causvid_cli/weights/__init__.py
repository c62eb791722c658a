"""Tensors in files: names, safetensors, foreign checkpoints, GGUF, LoRA."""

"""Streaming video codecs: latent chunks <-> frames, their state carried from chunk to chunk."""

from causvid_cli.codec.codec import Codec, enlarged

__all__ = ["Codec", "enlarged"]

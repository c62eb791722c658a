"""Streaming video codecs: latent chunks <-> pictures, their state carried from chunk to chunk."""

from causvid_cli.codec.codec import Codec, enlarged

__all__ = ["Codec", "enlarged"]

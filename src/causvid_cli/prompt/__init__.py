"""Prompt -> text features for each chunk: encoders, features kept on disk, cues."""

"""Getting a model: known checkpoints and files of the user's own become model packs that every command takes.

`hub` downloads what the catalogue names. `layout` finds the parts in files and folders; `tensors` reads them without
holding them; `recognise` says what they are by names and shapes; `convert` streams them into safetensors, `apart` does
so in a process of its own where a pickle is read; `build` makes a pack of it, whole or not at all.
"""

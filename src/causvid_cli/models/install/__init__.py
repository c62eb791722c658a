"""Getting a model: known checkpoints and files of the user's own become model packs that every command takes.

`hub` downloads what the catalogue names. `find_parts` finds the parts in files and folders; `identify` says what they
are by names and shapes; `convert` streams them into safetensors; `build_pack` makes a pack of it, whole or not at all.
`plan_import` settles all that before.
"""

"""Model families: how each reads its checkpoint, lays out its prompt, counts positions and encodes media.

A new family is a folder here. May import: `decoder`, `prompt`, `media`, and folders above.
"""

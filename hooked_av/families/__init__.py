"""Model families: how each reads its checkpoint, lays out its prompt, counts positions and encodes media.

A new family is a folder here; what it must have is said in `family.py`, and `qwen.py` has most of it for a family that
is built on Qwen2.5. May import: `decoder`, `prompt`, `media`, and folders above.
"""

"""Where a pass can be looked into and edited: names, points, caches, and what a hook knows of its pass.

May import: `prompt`, and folders above.
"""

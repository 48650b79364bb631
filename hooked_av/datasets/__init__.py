"""A manifest of questions in, a table of results out; in shards, resumable.

May import: `analyses`, and folders above.
"""

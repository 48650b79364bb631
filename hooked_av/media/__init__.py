"""What a file holds: clips of pictures and sound, decoded, cut and sampled.

May import: `errors`.
"""

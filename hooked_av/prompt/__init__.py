"""What a model reads: token ids, positions, named spans, and the text around the media.

May import: `media`, and folders above.
"""

"""The study: published findings about audio-visual information flow, asked of a model that answers tiny-av's task.

May import: everything above, and `tiny`.
"""

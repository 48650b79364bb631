"""Figures, one file each, and pages: the only place that imports a plotting library. No figure runs a model.

May import: what it draws (`prompt`, `media`), and folders above. Results come as they are: a figure reads their fields.
"""

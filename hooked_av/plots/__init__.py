"""Figures, one file each, and pages: the only place that imports a plotting library. No figure runs a model.

May import: what it draws (`prompt`, `media`), and folders above. A figure takes its result as it is (`Any`, whose type the
first line names): results come further down, and what they hold is written there alone.
"""

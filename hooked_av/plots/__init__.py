"""Figures: one function per result type. The only place that imports a plotting library; no figure runs a model."""

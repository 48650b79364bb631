"""The hooked model: loading and inputs; what a user holds in the hand.

May import: everything above, which is all but `plots` and what uses a model.
"""

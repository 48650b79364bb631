"""One pass of a hooked model over its inputs: begun, planned, run, cached. The door for analyses of your own.

May import: `families`, `interventions`, and folders above.
"""

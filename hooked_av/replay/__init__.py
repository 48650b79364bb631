"""One clean pass, kept, and sweeps of interventions that compute only what each can change.

May import: `interventions`, `decoder`, and folders above.
"""

"""Which pathways carry the answer, through which layers: attention knockouts with random controls."""

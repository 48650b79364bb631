"""Model families: how a family reads its checkpoint, lays out its prompt, counts positions and encodes media."""

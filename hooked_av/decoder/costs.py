"""What rows, masks and calls cost: every limit that chooses a way to compute attention rows, in one table.

docs/cut_rows.md says which way is taken when. No limit changes what is computed, beyond rounding. Each is read where
it is used (`costs.CUT_BLOCK`), so that setting it here sets it everywhere. Comments: the unit first, then the reason.
"""

# --- attention of one pass (decoder) --------------------------------------------------------------------------------

# query rows: the eager backend holds explicit scores of so many at one time (x 8,192 keys x 16 heads in bfloat16:
# 256 MiB)
EAGER_BLOCK = 1024

# query rows: (query, key) pairs of so many exist at one time, as a mask or as numbers drawn (x 8,192 keys: 2 MiB of
# bool). Touched rows of more than one block are worth a look for causal attention without a mask.
CUT_BLOCK = 256

# bytes of masks for each byte of queries: so much they may take to be kept from layer to layer. Masks grow with
# rows x keys; larger ones are made anew in each layer, block by block.
KEPT_MASKS = 4

# touched rows of one prompt: for fewer it costs more to leave keys out (to find and copy the others) than to mask them
FEW_TOUCHED = 16

# computed queries for each one asked for: a causal kernel is so much faster than one with a mask that up to so many
# empty queries may stand between the rows that are asked for
COMPUTED_PER_ASKED = 4

# query rows for each row of the past: from here on the causal kernel is the faster one, even with an empty query for
# each row of the past
ROWS_PER_PAST_ROW = 4

# --- attention of many runs over one prompt (replay) ----------------------------------------------------------------

# query rows of a run: from here on runs are attended to one by one, because the fused kernel is worth a copy of the
# shared keys for each; so it is the largest block of rows that are read together, too
MANY_ROWS = 128

# query rows: the smallest block of rows that are read together, however few scores may exist at one time
LEAST_BLOCK = 16

# places (query rows of all runs that share their cuts): for fewer it costs more to leave shared keys out, with a call
# of the kernel for each class of rows, than to mask them
FEW_PLACES = 8

# classes of rows that lose different shared keys under one cut: each is a call of the kernel with a copy of its keys,
# so a cut with more of them (random keys in each row) is masked
FEW_CLASSES = 4

# bytes: so much the masks of a replay may take, to be kept from layer to layer
MASK_BYTES = 2**26

# different cuts of many rows whose blocks are kept: they are large, and a layer of a sweep has few different cuts
TOUCHED_KEPT = 4

# scores: so many a block may hold in any case (4 MiB in float32), where a clean pass of a small model takes less
LEAST_SCORES = 2**20

# rows: a call of a block for some runs alone, with its kernels' launches, costs about as much as so many rows more
CALL_ROWS_ON_CPU = 8
CALL_ROWS = 1024

# query rows: so many of the clean pass go through an MLP at one time, because memory peaks there, beside what is kept
MLP_ROWS = 1024

# bytes: what a batch of runs may take in any case: small models run many interventions at once
FREE_BYTES = 2**23

"""A model made smaller or coarser: pruning and quantisation, as values that are planned, then applied."""

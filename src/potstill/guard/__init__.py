"""Is someone distilling us? Query logs in, Findings about accounts out. No torch."""

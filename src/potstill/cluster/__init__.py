"""Programs on several machines: which they are, where they run, and what happens when one of them ends."""

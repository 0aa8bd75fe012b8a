"""Skills one after the other: which of them a student practises now, given what it was measured to know."""

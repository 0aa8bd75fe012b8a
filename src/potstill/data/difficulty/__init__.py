"""How hard each row is for this student, and which rows of a pass are worth their price (DA-KD)."""

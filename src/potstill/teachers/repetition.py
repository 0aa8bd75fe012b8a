"""Has a text got caught in a loop? A model that has repeats one unit until its tokens run out."""

from __future__ import annotations

# A table row, a chorus or a long row of zeros repeats itself too; a loop goes on for longer.
LONGEST_UNIT = 400
FEWEST_COPIES = 6
SHORTEST_LOOP = 120


def ends_in_a_loop(text: str) -> bool:
    """True if the text ends with one unit of at most LONGEST_UNIT characters, FEWEST_COPIES times or more one after the
    other, SHORTEST_LOOP characters in all. The last copy may be cut off."""
    if len(text) < SHORTEST_LOOP:
        return False
    for unit in range(1, min(LONGEST_UNIT, len(text) // FEWEST_COPIES) + 1):
        needed = max(unit * FEWEST_COPIES, SHORTEST_LOOP)
        if needed <= len(text) and text[-unit:] == text[-2 * unit : -unit]:
            tail = text[-needed:]
            if tail[unit:] == tail[:-unit]:
                return True
    return False

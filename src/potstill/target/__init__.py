"""Cost where a student will run: its exports in their own programs, timed in turn with the teacher."""

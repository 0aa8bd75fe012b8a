"""A smaller model of the same kind: fewer bits, fewer parts."""

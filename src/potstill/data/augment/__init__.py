"""Rows varied word by word: which words, with what, how often."""

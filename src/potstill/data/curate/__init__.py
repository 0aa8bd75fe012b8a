"""Which rows are worth learning from: rules, language, duplicates, contamination, balance, mixture; drops counted."""

"""May we: terms of licences, the ledger of origins, the gate before a release. No torch."""

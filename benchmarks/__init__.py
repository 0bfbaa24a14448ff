"""One file per claim in the README; each prints the table that it is quoted in."""

"""reports: evidence as pages. Plain data in, self-contained offline HTML out; imports neither torch nor captum."""

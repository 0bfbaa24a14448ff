"""hilat: HiLAT clinical coding, from notes to codes with evidence (Liu et al., 2022)."""

"""`make bench`: what the parts cost, measured against real ones and told as ratios inside one run."""

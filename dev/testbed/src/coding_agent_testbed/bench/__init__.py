"""`make bench`: what the parts cost, measured against real ones, as ratios within one run."""

"""What ED² is measured against: one model, one paper, one file."""

"""Files of evaluation sets in the layouts of their archives, and the samples in them."""

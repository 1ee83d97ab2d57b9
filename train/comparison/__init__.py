"""Results of evaluations side by side: what a precision or a backend costs, and where they stand among papers."""

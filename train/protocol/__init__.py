"""The published evaluation protocol: its data sets, readers of their layouts, and what one model got on one of them."""

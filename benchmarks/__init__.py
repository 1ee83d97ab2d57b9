"""Every number of the README and of docs/performance.md, and the scripts that measure them."""

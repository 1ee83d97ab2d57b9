"""From file to plan: what is built for which device, in a process of its own, and kept."""

"""From a container's packets to upright SDR frames with their own times."""

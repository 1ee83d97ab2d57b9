"""Live views and middleware: results to Zenoh, Foxglove and Rerun, by the topics of ``runtime/ros``."""

"""What is done to a result between the engine and the sinks."""

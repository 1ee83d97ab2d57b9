"""What changes a training picture and leaves its truth true: windows, colours, and what a camera adds."""

"""LeRobot data sets as a source."""

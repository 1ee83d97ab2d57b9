"""Results as logs of robots: MCAP files and rosbag2's SQLite files."""
